"""What a citation promises: exact characters, support and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdesk.reader.citations import Citation, cite, cite_quotes
from refdesk.reader.passage import Passage

SOURCE = (
    "Annual report. The company was founded by Ada Okafor in Lagos in 1987. Revenue was 4.2 million euros in"
    " 2019.  It rose to 5,100,000 euros in 2020! Dr. Meyer became the chair on 15 March 2020. He had led the"
    " laboratory in Basel.\n\nThe company sells pumps and valves. It also sells filters."
)
OTHER = "Pumps need oil every 200 hours. Valves do not. Lagos is a port city with many pumps."


def passage(text: str, start: int = 0, document_id: str = "report", title: str = "Annual report") -> Passage:
    return Passage(document_id, title, text, start, start + len(text), 1.0)


PASSAGES = [passage(OTHER, 40, "manual", "Pump manual"), passage(SOURCE, 1000)]


def quotes(answer: str, question: str) -> list[str]:
    return [citation.quote for citation in cite(answer, question, PASSAGES)]


@pytest.mark.parametrize(
    ("answer", "question", "quote"),
    [
        ("Ada Okafor", "who founded the company", "The company was founded by Ada Okafor in Lagos in 1987."),
        ("Lagos", "where was the company founded", "The company was founded by Ada Okafor in Lagos in 1987."),
        ("It was 4.2 million euros.", "what was the revenue", "Revenue was 4.2 million euros in\n 2019."),
        ("5100000 euros", "what was the revenue in 2020", "It rose to 5,100,000 euros in 2020!"),
        ("On March 15, 2020.", "when did Meyer become chair", "Dr. Meyer became the chair on 15 March 2020."),
        ("Every 200 hours", "how often do pumps need oil", "Pumps need oil every 200 hours."),
        ("The company sells pumps and valves.", "what is sold", "The company sells pumps and valves."),
    ],
)
def test_the_sentence_that_supports_the_answer_is_cited_first(answer: str, question: str, quote: str) -> None:
    assert quotes(answer, question)[0] == quote.replace("\n", "")


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("4.3 million euros", "what was the revenue"),
        ("Revenue was 4.2 million euros in 2020.", "what was the revenue"),
        ("The company was founded by Ada Okafor in 1988.", "who founded the company"),
        ("Grace Hopper founded the company.", "who founded the company"),
        ("Canberra", "where was the company founded"),
        ("I could not find anything about this in the collection.", "who founded the company"),
        ("Not found in the passages.", "who founded the company"),
        ("The passages do not mention who founded the company.", "who founded the company"),
        ("The answer cannot be found in the text.", "who founded the company"),
        ("Yes.", "was the company founded in Lagos"),
        ("", "who founded the company"),
    ],
)
def test_what_the_passages_do_not_support_gets_no_citation(answer: str, question: str) -> None:
    assert quotes(answer, question) == []


def test_each_statement_gets_its_own_citation_best_first() -> None:
    found = cite("Ada Okafor founded the company in 1987. Pumps need oil every 200 hours.", "tell me", PASSAGES)
    assert {citation.document_id for citation in found} == {"report", "manual"}
    assert [c.support for c in found] == sorted((c.support for c in found), reverse=True)


def test_two_sentences_are_quoted_where_one_is_not_enough() -> None:
    found = quotes("Meyer became the chair and had led the laboratory in Basel.", "what about the chair")
    assert found == ["Dr. Meyer became the chair on 15 March 2020. He had led the laboratory in Basel."]


def test_a_sentence_in_two_overlapping_passages_is_cited_once() -> None:
    cut = SOURCE.index("Revenue")
    both = [passage(SOURCE[:160], 1000), passage(SOURCE[cut:], 1000 + cut)]
    found = cite("4.2 million euros", "what was the revenue in 2019", both)
    assert [citation.quote for citation in found] == ["Revenue was 4.2 million euros in 2019."]


def test_the_page_is_where_the_quote_begins() -> None:
    second = SOURCE.index("It rose")
    paged = Passage("r", "R", SOURCE, 0, len(SOURCE), 1.0, page=7, page_starts=((0, 7), (second, 8)))
    assert [c.page for c in cite("4.2 million", "revenue", [paged])] == [7]
    assert [c.page for c in cite("5,100,000", "revenue", [paged])] == [8]
    assert cite("4.2 million", "revenue", [passage(SOURCE)])[0].page is None


def test_no_passages_no_citations() -> None:
    assert cite("Ada Okafor", "who founded the company", []) == []


words = st.sampled_from(
    SOURCE.split() + OTHER.split() + ["\n\n", "  ", "1987", "東京。", "e\u0301", "\u2028", '"']
)
prose = st.lists(words, max_size=40).map(" ".join) | st.text(max_size=80)


@given(texts=st.lists(st.tuples(prose, st.integers(0, 99)), max_size=4), answer=prose, question=prose)
def test_every_quote_is_exactly_the_source_and_none_overlap(
    texts: list[tuple[str, int]], answer: str, question: str
) -> None:
    sources = [("·" * start) + text for text, start in texts]
    passages = [Passage(str(i), "T", text, start, start + len(text), 1.0) for i, (text, start) in enumerate(texts)]
    found = cite(answer, question, passages)
    for citation in found:
        source = sources[int(citation.document_id)]
        assert citation.quote == source[citation.start : citation.end]
        assert citation.quote == citation.quote.strip() != ""
        assert 0 < citation.support <= 1
    assert not any(overlap(a, b) for i, a in enumerate(found) for b in found[:i])


def overlap(a: Citation, b: Citation) -> bool:
    return a.document_id == b.document_id and a.start < b.end and b.start < a.end


def test_a_quote_of_the_model_is_cited_where_it_stands_to_the_letter() -> None:
    found = cite_quotes(["It rose to 5,100,000 euros", "in\n 2020!  Dr. Meyer became", "Pumps need oil"], PASSAGES)
    assert [(c.document_id, c.support) for c in found] == [("report", 1.0), ("report", 1.0), ("manual", 1.0)]
    for citation in found:
        source, start = (SOURCE, 1000) if citation.document_id == "report" else (OTHER, 40)
        assert source[citation.start - start : citation.end - start] == citation.quote
    assert found[1].quote == "in 2020! Dr. Meyer became"


def test_a_quote_that_stands_nowhere_is_not_cited_and_one_twice_is_cited_once() -> None:
    assert cite_quotes(["It rose to 6,100,000 euros", "(.*)", ""], PASSAGES[:1]) == []
    assert len(cite_quotes(["Pumps need oil", "Pumps need oil", "Pumps\n need  oil "], PASSAGES)) == 1
