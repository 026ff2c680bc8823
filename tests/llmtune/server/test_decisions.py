"""`POST /v1/decisions`: distributions, what is withheld, batches, and requests that are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmtune.errors import InvalidData
from llmtune.metrics.abstention import Threshold
from llmtune.metrics.calibrators import Calibrator
from llmtune.metrics.decisions import DecisionRule, DecisionRules, find_questions
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.server.app import Served, make_app
from llmtune.server.decisions import MAX_INPUTS
from llmtune.server.queue import BatchQueue

pytest.importorskip("starlette")
pytest.importorskip("httpx")


class Teller:
    """A model that finds the answers likely whose first letter is the prompt's."""

    max_concurrency = 1

    def __init__(self) -> None:
        self.scored: list[tuple[int, tuple[str, ...]]] = []

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        return [Generation(text=request.messages[-1].words, finish_reason="stop") for request in requests]


class Scorer(Teller):
    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        if any(request.messages[-1].words == "too long" for request in requests):
            raise InvalidData("a prompt does not fit the model's context")
        self.scored.append((len(requests), tuple(labels)))
        return [
            [0.0 if label[0] == request.messages[-1].words[0] else -2.0 for label in labels] for request in requests
        ]


def rules(threshold: float) -> DecisionRules:
    (question,) = find_questions(("billing", "shipping"))
    promise = Threshold(error=0.05, confidence=0.95, value=threshold, rows=200)
    rule = DecisionRule(question=question, calibrator=Calibrator(temperature=2.0, rows=200), promise=promise)
    return DecisionRules(labels=question.options, rules=(rule,))


@pytest.fixture
def served() -> Any:
    from starlette.testclient import TestClient

    scorer = Scorer()
    queues = [BatchQueue(scorer), BatchQueue(Teller())]
    models = {
        "router": Served("router", 0, queues[0], rules(0.7)),
        "strict": Served("strict", 0, queues[0], rules(0.99)),
        "plain": Served("plain", 0, queues[0]),
        "hosted": Served("hosted", 0, queues[1]),
    }
    with TestClient(make_app(models, None), base_url="http://127.0.0.1") as client:
        client.scorer = scorer
        yield client
    for queue in queues:
        queue.close()


def ask(client: Any, **body: Any) -> Any:
    return client.post("/v1/decisions", json=body)


def test_a_batch_is_answered_in_order_with_calibrated_probabilities(served: Any) -> None:
    answer = ask(served, model="router", input=["bill", "ship", [{"role": "user", "content": "bill again"}]])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    decisions = [entry["decisions"]["answer"] for entry in body["data"]]
    assert [decision["answer"] for decision in decisions] == ["billing", "shipping", "billing"]
    # Two log-likelihoods 2 apart, at temperature 2: 1 / (1 + e**-1).
    assert decisions[0]["probabilities"] == pytest.approx({"billing": 0.731059, "shipping": 0.268941}, abs=1e-5)
    assert (decisions[0]["abstained"], decisions[0]["calibrated"]) == (False, True)
    assert "score" not in decisions[0]


def test_an_answer_that_is_not_sure_enough_is_withheld(served: Any) -> None:
    decision = ask(served, model="strict", input="bill").json()["data"][0]["decisions"]["answer"]
    assert (decision["answer"], decision["abstained"]) == ("billing", True)


def test_a_schema_of_other_answers_is_decided_without_calibration(served: Any) -> None:
    schema = {"properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 3}, "good": {"type": "boolean"}}}
    decisions = ask(served, model="router", input="x", schema=schema).json()["data"][0]["decisions"]
    assert decisions["stars"]["score"] == pytest.approx(2)
    assert decisions["good"]["answer"] in (True, False)
    assert (decisions["good"]["calibrated"], decisions["good"]["abstained"]) == (False, None)
    assert served.scorer.scored[-1][1][0] == '{"stars": 1, "good": false}'
    same = ask(served, model="router", input="bill", schema={"enum": ["shipping", "billing"]}).json()
    assert same["data"][0]["decisions"]["answer"]["calibrated"]


def test_an_input_that_the_model_cannot_take_is_refused_and_others_are_answered(served: Any) -> None:
    answer = ask(served, model="router", input=["bill", "too long"])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"
    assert "does not fit" in answer.json()["error"]["message"]
    assert ask(served, model="router", input="bill").status_code == 200


def test_chat_is_as_before(served: Any) -> None:
    messages = [{"role": "user", "content": "bill"}]
    answer = served.post("/v1/chat/completions", json={"model": "router", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "bill"


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"input": "x"}, 400, "model", "model is missing"),
        ({"model": "nobody", "input": "x"}, 404, None, "there is no model"),
        ({"model": "router"}, 400, "input", "input must be"),
        ({"model": "router", "input": []}, 400, "input", "input must be"),
        ({"model": "router", "input": [""]}, 400, "input", "input[0] must be a text"),
        ({"model": "router", "input": [1]}, 400, "input", "input[0] must be a text"),
        ({"model": "router", "input": "x" and ["x"] * (MAX_INPUTS + 1)}, 400, "input", f"takes {MAX_INPUTS}"),
        ({"model": "router", "input": [{"role": "king", "content": "x"}]}, 400, "input", "king"),
        ({"model": "router", "input": [{"role": "assistant", "content": "x"}]}, 400, "input", "nothing to decide"),
        ({"model": "router", "input": "x", "schema": {"type": "string"}}, 400, "schema", "only enum"),
        ({"model": "router", "input": "x", "temperature": 1}, 400, "temperature", "temperature is not supported"),
        ({"model": "plain", "input": "x"}, 400, "schema", "schema is missing"),
        ({"model": "hosted", "input": "x", "schema": {"type": "boolean"}}, 400, "model", "reports no likelihoods"),
    ],
)
def test_a_wrong_request_is_refused_by_the_parameter(
    served: Any, body: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    answer = ask(served, **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_only_json_posts_are_read(served: Any) -> None:
    assert served.post("/v1/decisions", content="{}").status_code == 415
    assert served.get("/v1/decisions").status_code == 405
