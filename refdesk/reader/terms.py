"""Words of a text in a form that can be compared: case, accents, possessives and plain endings removed."""

import re
import unicodedata

# A number with its thousands and decimals, one CJK character (those scripts have no spaces), or a word.
_TERM = re.compile(
    r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    r"|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:['’][^\W\d_]+)*"
)

_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing down during each few for from further had has have
having he her here hers him his how i if in into is it its itself just me more most my no nor not of
off on once only or other our out over own same she should so some such than that the their them
then there these they this those through to too under until up very was we were what when where
which while who whom why will with would yes you your th st nd rd s t according answer question
passage passages text document source information
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def terms(text: str) -> list[str]:
    """The terms of `text` in order, stop words included. Numbers are terms that begin with a digit."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    return [_stem(match.group()) for match in _TERM.finditer(unicodedata.normalize("NFC", bare))]


def content_terms(text: str) -> set[str]:
    """The terms that carry content."""
    return {term for term in terms(text) if term not in STOP_WORDS}


def is_number(term: str) -> bool:
    """Whether a term is a number."""
    return term[0].isdigit()


def _stem(word: str) -> str:
    """Only endings that change no meaning, and the same way on both sides of a comparison."""
    if word[0].isdigit():
        return word.replace(",", "")
    word = word.replace("’", "'").removesuffix("'s").replace("'", "")
    if word in STOP_WORDS:
        return word
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word
