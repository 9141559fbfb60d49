"""Text while its tokens come, for tokenizers that spell what they do not know in bytes."""

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from refdesk.reader.detokenize import Detokenizer

WORDS = ["▁", "a", "b", "▁the"]


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    """As those of Llama 2, TinyLlama and the first Mistrals: a run of byte tokens is decoded as one text."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *bytes_, *WORDS])}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def spelled(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    known = {word: tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    first = tokenizer.convert_tokens_to_ids("<0x00>")
    return [
        token
        for character in text.replace(" ", "▁")
        for token in ([known[character]] if character in known else [first + byte for byte in character.encode()])
    ]


def streamed(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.push, token_ids))


@pytest.mark.parametrize(
    "text",
    [
        "東京都港区" * 20,
        "東京都港区" * 20 + " a",
        "東" * 10 + "a" + "東" * 20 + "b" + "🎉é" * 30,
        " a b" * 60,
    ],
    ids=["one run", "a word behind", "several runs", "words"],
)
@pytest.mark.parametrize("ahead", range(4))
def test_no_character_is_lost_wherever_the_window_is_cut(
    text: str, ahead: int, byte_fallback: PreTrainedTokenizerFast
) -> None:
    text = "b" * ahead + text
    token_ids = spelled(byte_fallback, text)
    assert streamed(byte_fallback, token_ids) == byte_fallback.decode(token_ids) == text.lstrip()


def test_tokens_without_text_in_a_row_take_no_space_from_what_follows(
    byte_fallback: PreTrainedTokenizerFast,
) -> None:
    token_ids = spelled(byte_fallback, "ab" * 20) + [2] * 20 + byte_fallback.convert_tokens_to_ids(["▁the", "a"])
    expected = byte_fallback.decode(token_ids, skip_special_tokens=True)
    assert streamed(byte_fallback, token_ids) == expected == "ab" * 20 + " thea"
