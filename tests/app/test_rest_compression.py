"""Compression as an option of a question, over REST."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.app.test_rest_memory import QUESTION, ask, name

__all__ = ["name"]

pytestmark = pytest.mark.models


def test_by_default_nothing_is_taken_out(client: httpx.Client, name: str) -> None:
    usage = ask(client, name)["usage"]
    assert usage["compression"] == {"strategy": "none", "tokens_before": 0, "tokens_after": 0, "reason": ""}
    assert (usage["passages_retrieved"], usage["passages_used"]) == (5, 5)


def test_a_rate_takes_out_what_it_says_and_citations_stay_exact(client: httpx.Client, name: str) -> None:
    whole, answer = ask(client, name), ask(client, name, compression={"rate": 4})
    told = answer["usage"]["compression"]
    assert (told["strategy"], told["reason"]) == ("perception", "")
    assert told["tokens_after"] == told["tokens_before"] // 4
    assert answer["usage"]["prompt_tokens"] < whole["usage"]["prompt_tokens"] - told["tokens_before"] // 2
    assert answer["usage"]["seconds"]["compress"] > 0
    for citation in answer["citations"]:
        source = client.get(f"/v1/collections/{name}/documents/{citation['document']}/text").text
        assert source[citation["start"] : citation["end"]] == citation["quote"]


def test_guiding_questions_are_made_by_the_reader_or_given(client: httpx.Client, name: str) -> None:
    for guided in ({"guiding": 2}, {"guiding": 1, "questions": ["In which year was it built?"]}):
        told = ask(client, name, compression={"rate": 4, **guided})["usage"]["compression"]
        assert (told["strategy"], told["tokens_after"]) == ("perception", told["tokens_before"] // 4)


def test_the_best_passage_alone_is_the_one_about_the_question(client: httpx.Client, name: str) -> None:
    answer = ask(client, name, compression={"strategy": "best", "rate": 1})
    assert [passage["document"] for passage in answer["passages"]] == ["page3.txt"]
    assert answer["usage"]["compression"]["reason"].endswith("only the best text may stay")
    assert "1803" in answer["answer"]


def test_auto_leaves_what_fits(client: httpx.Client, name: str) -> None:
    told = ask(client, name, compression={"strategy": "auto"})["usage"]["compression"]
    assert told["strategy"] == "none"
    assert told["tokens_before"] == told["tokens_after"] > 0


def test_a_streamed_answer_is_compressed_as_the_whole_one(client: httpx.Client, name: str) -> None:
    fields = {"question": QUESTION, "collection": name, "k": 5, "max_new_tokens": 16, "stream": True}
    fields["compression"] = {"strategy": "sentences", "budget": 60}
    body = client.post("/v1/answers", json=fields).text
    kinds, data = (re.findall(rf"^{field}: (.*?)\r?$", body, re.M) for field in ("event", "data"))
    events = {kind: json.loads(one) for kind, one in zip(kinds, data, strict=True)}
    whole = ask(client, name, compression={"strategy": "sentences", "budget": 60})
    assert events["done"]["answer"] == whole["answer"]
    assert events["usage"]["compression"] == whole["usage"]["compression"]
    assert len(events["retrieval"]) == 5
    assert events["done"]["passages"] == whole["passages"]


@pytest.mark.parametrize(
    ("compression", "detail"),
    [
        ({"strategy": "elephant"}, "'elephant'; expected one of none, auto, perception"),
        ({"strategy": ["best"], "rate": 2}, "['best']; expected one of none"),
        ({"strategy": "rerank"}, "strategy rerank needs a budget or a rate"),
        ({"rate": 8, "budget": 64}, "expected one of them"),
        ({"budget": 0}, "budget is 0; expected at least 1 token"),
        ({"budget": 1.5}, "budget is 1.5; expected a whole number"),
        ({"rate": 0.5}, "rate is 0.5; expected 1 to 1024"),
        ({"rate": "8"}, "rate is '8'; expected a number"),
        ({"rate": 8, "elephants": 4}, "'elephants' is unknown to perception; known: k1"),
        ({"rate": 8, "k1": 2}, "k1 is 2; expected 0 to 1"),
        ({"rate": 8, "questions": ["Why?"]}, "guiding is 0, but 1 questions are given"),
        ({"rate": 8, "guiding": 2, "questions": "Why?"}, "questions is 'Why?'; expected a list of texts"),
        ({"rate": 8, "guiding": 2, "ranked": False}, "guiding is 2, but ranked is false"),
        ({"rate": 8, "reverse": 1}, "reverse is 1; expected true or false"),
        ({"strategy": "auto", "segment": 100}, "compression has segment, but strategy auto has no options"),
        ({"strategy": "none", "rate": 2}, "strategy none takes nothing out"),
    ],
)
def test_an_impossible_compression_is_refused_by_name(
    client: httpx.Client, name: str, compression: dict[str, Any], detail: str
) -> None:
    fields = {"question": QUESTION, "collection": name, "compression": compression}
    for stream in (False, True):
        response = client.post("/v1/answers", json=fields | {"stream": stream})
        assert response.status_code == 422
        assert response.headers["content-type"].startswith("application/problem+json")
        assert response.json()["type"] == "urn:refdesk:problem:invalid-compression"
        assert detail in response.json()["detail"]


def test_compression_that_is_no_object_is_refused(client: httpx.Client, name: str) -> None:
    for wrong in ("best", 8, [8]):
        fields = {"question": QUESTION, "collection": name, "compression": wrong}
        response = client.post("/v1/answers", json=fields)
        assert (response.status_code, response.json()["type"]) == (400, "urn:refdesk:problem:invalid-request")


def test_an_evaluation_that_takes_out_what_it_cannot_is_refused(client: httpx.Client) -> None:
    row = {"question": "Who?", "answers": ["Elin"], "documents": ["Elin."]}
    files = [("file", ("one.jsonl", json.dumps(row).encode()))]
    dataset = client.post("/v1/datasets", files=files).raise_for_status().json()["id"]
    fields = {"dataset": dataset, "pipeline": "full", "compression": {"strategy": "zip", "rate": 2}}
    response = client.post("/v1/evaluations", json=fields)
    assert (response.status_code, response.json()["type"]) == (422, "urn:refdesk:problem:invalid-evaluation")
    assert "'zip'; expected one of none, auto" in response.json()["detail"]


def test_the_description_has_the_option_and_what_it_cost(client: httpx.Client) -> None:
    schemas = client.get("/schema/openapi.json").json()["components"]["schemas"]
    assert {"compression"} <= schemas["AnswerRequest"]["properties"].keys()
    assert {"compression"} <= schemas["EvaluationRequest"]["properties"].keys()
    assert {"compression"} <= schemas["UsageMessage"]["properties"].keys()
    told = schemas["CompressionMessage"]["properties"]
    assert told.keys() == {"strategy", "tokens_before", "tokens_after", "reason"}
