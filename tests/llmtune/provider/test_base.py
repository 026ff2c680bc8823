"""The base of polling providers: what it does out of data, and what it says of everything it does not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import VendorError
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan
from llmtune.provider.base import BaseProvider
from llmtune.provider.chat import FunctionGenerator
from llmtune.provider.declarations import DECLARED_FIELDS, Declarations, Sent, Unsupported
from llmtune.provider.generation import Generation, GenerationRequest, Unavailable
from llmtune.provider.limits import Abilities
from llmtune.provider.types import (
    JobRef,
    ModelRef,
    RemoteModel,
    Request,
    Requirement,
    RunKey,
    RunState,
    SubmitSafety,
    Target,
    UploadRef,
)
from llmtune.provider.values import Float


class Bare(BaseProvider):
    """The least there can be."""

    kind = "bare"
    key_env = "BARE_API_KEY"
    parameters = Declarations.with_others_unsupported(
        "there is no such setting", learning_rate=Sent("rate", Float(gt=0), source="page")
    )
    states = {"up": RunState.RUNNING, "over": RunState.SUCCEEDED}

    def build(self, receipt: Any, files: Any) -> Request:
        return Request(operation="POST /jobs", body={"model": receipt.target.model} | receipt.request_parameters())

    def upload(self, file: Any) -> UploadRef:
        return UploadRef(id="f-1", digest=file.sha256, role=file.role)

    def submit(self, request: Request, key: RunKey) -> JobRef:
        return JobRef(id="j-1")

    def poll(self, job: JobRef, since: Any) -> Any:
        return self.snapshot("up")


TARGET = Target(provider="bare", kind="bare", model="m")


def test_four_methods_are_asked_for() -> None:
    class Nothing(BaseProvider):
        kind = "nothing"

    with pytest.raises(TypeError, match=r"build.*poll.*submit.*upload"):
        Nothing()  # type: ignore[abstract]


def test_fields_that_are_not_declared_are_unsupported_for_the_one_reason() -> None:
    assert set(Bare.parameters) == set(DECLARED_FIELDS)
    assert Bare.parameters["lora_rank"] == Unsupported("there is no such setting")
    assert Bare.parameters.request_paths == {"learning_rate": "rate"}
    with pytest.raises(TypeError, match="learning_rat"):
        Declarations.with_others_unsupported("no", learning_rat=Unsupported("misspelt"))


def test_a_job_is_planned_with_nothing_but_data(tmp_path: Path) -> None:
    job = TuningJob.model_validate(
        {"name": "n", "dataset": str(tmp_path / "none.jsonl"), "model": "m", "hyperparameters": {"learning_rate": 0.1}}
    )
    receipt = plan(job, Bare())
    assert receipt.request is not None
    assert receipt.request.body == {"model": "m", "rate": 0.1}
    assert receipt["lora_rank"].reason == "there is no such setting"


def test_a_word_that_is_not_known_is_running_and_warned_of() -> None:
    provider = Bare("bare-eu")
    assert provider.snapshot("over").state is RunState.SUCCEEDED
    strange = provider.snapshot("exploded", warnings=("before",))
    assert (strange.state, strange.raw_state) == (RunState.RUNNING, "exploded")
    assert strange.warnings == ("before", "bare-eu says 'exploded', a state that is not known here; taken for running")


def test_ready_looks_for_the_key_and_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BARE_API_KEY", raising=False)
    assert Bare().ready().credentials == "not found"
    assert Bare().ready().hint == "export BARE_API_KEY=..."
    monkeypatch.setenv("BARE_API_KEY", "k")
    assert Bare().ready().credentials == "found"
    assert Bare().ready().extra == "not needed"

    class Needy(Bare):
        key_env = ""
        requirements = (Requirement(extra="", module="no_such_module_here", distribution="no-such"),)

    ready = Needy().ready()
    assert (ready.extra, ready.credentials, ready.hint) == ("missing", "not needed", "pip install no-such")


MODEL = ModelRef(id="tuned-1")


@pytest.mark.parametrize(
    "ask",
    [
        lambda p: p.cancel(JobRef(id="j")),
        lambda p: p.undeploy(MODEL),
        lambda p: next(iter(p.inventory())),
        lambda p: p.fetch(RemoteModel(id="m")),
        lambda p: p.download("f", Path("x")),
        lambda p: p.delete(MODEL),
    ],
)
def test_what_it_cannot_do_is_an_error_and_no_silence(ask: Callable[[Bare], Any]) -> None:
    with pytest.raises(VendorError, match=r"bare: this provider cannot .* yet"):
        ask(Bare())


def test_what_it_need_not_do_is_answered() -> None:
    provider = Bare()
    key = RunKey("lt0000000000")
    assert (provider.find(key), provider.find_upload("0" * 64), provider.find_deployment(key)) == (None, None, None)
    assert provider.deploy(MODEL, key) is None
    assert provider.preflight(Request(operation="x", body={})) == []
    assert "tuned-1" in provider.snippet(MODEL)
    assert provider.submit_safety == SubmitSafety(kind="none")


def test_models_answer_as_far_as_the_abilities_say() -> None:
    provider = Bare()
    silent = provider.generator(MODEL)
    assert isinstance(silent, Unavailable)
    assert silent.reason == "tuned models cannot be asked from here yet"
    receipt = plan(TuningJob.model_validate({"name": "n", "dataset": "none.jsonl", "model": "m"}), provider)
    assert isinstance(provider.base_model(receipt), Unavailable)
    provider.abilities = Abilities()
    assert provider.base_model(receipt) == ModelRef(id="m", tuned=False)


def test_a_function_is_a_generator() -> None:
    generator = FunctionGenerator(lambda request: Generation(text=f"{request.max_tokens}"), max_concurrency=3)
    with generator as opened:
        answers = opened.generate([GenerationRequest(messages=(), max_tokens=limit) for limit in (1, 2)])
    assert [answer.text for answer in answers] == ["1", "2"]
    assert generator.max_concurrency == 3
