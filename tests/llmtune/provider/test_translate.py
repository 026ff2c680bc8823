"""Translation: nothing vanishes, whatever the job; each of the seven words is used where it is true."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.errors import NotTranslatable, UnsupportedHyperparameterWarning
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.provider import conversions
from llmtune.provider.declarations import (
    DECLARED_FIELDS,
    NOT_PUBLISHED,
    Capabilities,
    Converted,
    Declaration,
    Declarations,
    Inherent,
    Sent,
    Unsupported,
)
from llmtune.provider.limits import Abilities, Limits, NotOffered
from llmtune.provider.receipt import Receipt, set_path
from llmtune.provider.translate import enforce, spec_fields, translate
from llmtune.provider.types import Target
from llmtune.provider.values import AnyValue, Choice, Float, Int, MappingValue, Text
from tests.job_texts import JOB_CHARACTERS

#: A made-up vendor that uses every kind of declaration.
_DECLARED: dict[str, Declaration] = {
    "epochs": Sent("hyper.n_epochs", Int(1, 50), default="auto", source="its page"),
    "batch_size": Sent("hyper.batch", Int(1, 256), encode=str),
    "max_steps": Converted("hyper.n_epochs", Int(1, 50), conversions.epochs_from_steps(), description="whole epochs"),
    "learning_rate": Unsupported("absolute rate not published"),
    "learning_rate_multiplier": Converted(
        "hyper.rate", Float(ge=1e-6, le=1e-4), conversions.rate_from_multiplier(1e-5, "its model"), description="x 1e-5"
    ),
    "prompt_loss_weight": Inherent(0.0, "prompts are always masked"),
    "lora_rank": Converted("hyper.size", Int(1), conversions.nearest_size([4, 8, 16]), description="next size"),
    "early_stopping_patience": Sent("hyper.patience", Int(1, 10), also={"hyper.early_stopping": True}),
    "lr_schedule": Sent("hyper.schedule", Choice("linear", "cosine")),
    "warmup_ratio": Converted("hyper.warmup", Int(0, 100), conversions.steps_from_ratio(), description="steps"),
    "name": Converted("suffix", Text(18), conversions.shortened(18), description="shortened"),
    "seed": Sent("seed", Int(0)),
    "tags": Sent("metadata", MappingValue(16)),
    "temperature": Sent("temperature", AnyValue(), where="generation"),
}
PARAMETERS = Declarations(
    **{name: _DECLARED.get(name, Unsupported("there is no such parameter")) for name in DECLARED_FIELDS}
)
VENDOR = Capabilities(
    parameters=PARAMETERS,
    family="made up",
    limits=Limits(),
    methods={"sft": True, "dpo": True},
    adapters={"lora": True, "full": NotOffered("only adapters are trained")},
)


def receipt(rows: int | None = 1000, method: str = "sft", adapter: str = "lora", **hyperparameters: Any) -> Receipt:
    job = TuningJob.model_validate(
        {"name": "j", "dataset": "d", "model": "m", "method": method, "hyperparameters": hyperparameters}
    )
    return translate(job, Target(provider="v", kind="v", model="m", method=method, adapter=adapter), VENDOR, rows=rows)


# --- totality --------------------------------------------------------------------------------------------------------
_ANY: dict[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(1, 100),
    "max_steps": st.integers(1, 10_000),
    "batch_size": st.integers(1, 1000),
    "learning_rate": st.floats(1e-7, 1),
    "learning_rate_multiplier": st.floats(1e-3, 100),
    "lora_rank": st.integers(1, 300),
    "prompt_loss_weight": st.floats(0, 1),
    "warmup_ratio": st.floats(0, 1),
    "warmup_steps": st.integers(0, 1000),
    "early_stopping_patience": st.integers(1, 20),
    "lr_schedule": st.sampled_from(["linear", "cosine", "other"]),
    "dpo_beta": st.floats(0.01, 2),
    "packing": st.booleans(),
    "layer_lr_multipliers": st.just({"0": 0.5}),
}


@st.composite
def jobs(draw: st.DrawFn) -> TuningJob:
    names = draw(st.sets(st.sampled_from(sorted(_ANY))))
    for first, second in (("learning_rate", "learning_rate_multiplier"), ("warmup_ratio", "warmup_steps")):
        if first in names:
            names.discard(second)
    return TuningJob.model_validate(
        {
            "name": draw(st.text(JOB_CHARACTERS, min_size=1, max_size=60)),
            "dataset": "rows.jsonl",
            "model": "m",
            "method": draw(st.sampled_from(["sft", "dpo"])),
            "adapter": draw(st.sampled_from(["lora", "full"])),
            "seed": draw(st.one_of(st.none(), st.integers(0, 1000))),
            "tags": draw(st.dictionaries(st.text(JOB_CHARACTERS, min_size=1), st.text(JOB_CHARACTERS), max_size=3)),
            "hyperparameters": {name: draw(_ANY[name]) for name in sorted(names)},
            "evaluation": {"top_p": draw(st.one_of(st.none(), st.just(0.9)))},
        }
    )


@given(jobs(), st.one_of(st.none(), st.integers(1, 100_000)))
@settings(max_examples=150)
def test_every_field_of_any_job_appears_exactly_once(job: TuningJob, rows: int | None) -> None:
    target = Target(provider="v", kind="v", model="m", method=job.method, adapter=job.adapter)
    fields = [row.field for row in translate(job, target, VENDOR, rows=rows).fields]
    assert sorted(fields) == sorted(spec_fields())
    assert set(Hyperparameters.model_fields) <= set(fields)


@given(jobs(), st.one_of(st.none(), st.integers(1, 100_000)))
@settings(max_examples=150)
def test_a_set_field_goes_out_or_says_why_not(job: TuningJob, rows: int | None) -> None:
    target = Target(provider="v", kind="v", model="m", method=job.method, adapter=job.adapter)
    result = translate(job, target, VENDOR, rows=rows)
    body = result.request_parameters()
    for row in result.fields:
        if row.is_set and not row.is_sent:
            assert row.reason, row
        if row.is_sent and row.where == "training" and row.wire:
            expected: dict[str, Any] = {}
            set_path(expected, row.wire, None)
            assert _has(body, row.wire), row
        if row.support == "converted":
            assert row.rule


def _has(body: dict[str, Any], path: str) -> bool:
    for part in path.split("."):
        if part not in body:
            return False
        body = body[part]
    return True


# --- the seven words -------------------------------------------------------------------------------------------------
def test_sent_goes_out_as_it_is() -> None:
    row = receipt(epochs=3)["epochs"]
    assert (row.support, row.effective, row.wire, row.source) == ("sent", 3, "hyper.n_epochs", "its page")


def test_an_encoding_changes_the_spelling_only() -> None:
    result = receipt(batch_size=8)
    assert result["batch_size"].support == "sent"
    assert result.request_parameters()["hyper"]["batch"] == "8"


def test_converted_says_its_rule() -> None:
    row = receipt(learning_rate_multiplier=2.0)["learning_rate_multiplier"]
    assert (row.support, row.effective) == ("converted", 2e-5)
    assert row.rule == "2 x its model's published default 1e-05 = 2e-05"


def test_a_conversion_that_changes_nothing_is_sent() -> None:
    assert receipt(lora_rank=8)["lora_rank"].support == "sent"
    row = receipt(lora_rank=12)["lora_rank"]
    assert (row.support, row.effective, row.rule) == ("converted", 16, "rank 12 -> 16; sizes are 4, 8, 16")


def test_what_a_conversion_gives_must_be_in_range_too() -> None:
    row = receipt(learning_rate_multiplier=50)["learning_rate_multiplier"]
    assert row.support == "invalid"
    assert "50 x its model's published default" in (row.reason or "")


def test_inherent_when_it_is_what_happens_anyway_and_unsupported_when_not() -> None:
    assert receipt()["prompt_loss_weight"].support == "inherent"
    assert receipt(prompt_loss_weight=0)["prompt_loss_weight"].support == "inherent"
    row = receipt(prompt_loss_weight=0.5)["prompt_loss_weight"]
    assert (row.support, row.effective) == ("unsupported", 0.0)


def test_unset_with_a_parameter_is_the_vendors_default() -> None:
    assert (receipt()["epochs"].support, receipt()["epochs"].effective) == ("default", "auto")
    assert receipt()["batch_size"].effective == NOT_PUBLISHED


def test_constants_travel_with_their_field() -> None:
    assert receipt(early_stopping_patience=3).request_parameters()["hyper"] == {"patience": 3, "early_stopping": True}
    assert "hyper" not in receipt().request_parameters()


def test_fields_without_meaning_say_so() -> None:
    assert receipt(dpo_beta=0.1)["dpo_beta"].support == "not_applicable"
    assert receipt(adapter="full", lora_rank=8)["lora_rank"].support == "not_applicable"


def test_a_change_of_adapter_is_refused_never_made() -> None:
    assert receipt(adapter="full").refusals == ("only adapters are trained",)


def test_a_conversion_without_facts_refuses_with_what_to_set() -> None:
    row = receipt(rows=None, warmup_ratio=0.1, batch_size=8)["warmup_ratio"]
    assert row.support == "unsupported"
    assert "a readable dataset and epochs" in (row.reason or "")
    assert receipt(warmup_ratio=0.1, batch_size=8, epochs=2)["warmup_ratio"].effective == 25


# --- strictness ------------------------------------------------------------------------------------------------------
def test_unsupported_fields_run_with_one_warning_that_names_them_all() -> None:
    with pytest.warns(UnsupportedHyperparameterWarning) as caught:
        enforce(receipt(packing=True, label_smoothing=0.1))
    assert len(caught) == 1
    assert "label_smoothing=0.1" in str(caught[0].message)
    assert "packing=True" in str(caught[0].message)


def test_strict_refuses_all_or_the_named_ones() -> None:
    result = receipt(packing=True, label_smoothing=0.1)
    with pytest.raises(NotTranslatable) as caught:
        enforce(result, strict=True)
    assert set(caught.value.fields) == {"packing", "label_smoothing"}
    with pytest.raises(NotTranslatable) as caught:
        enforce(result, strict={"packing"})
    assert caught.value.fields == ("packing",)


def test_strict_does_not_complain_of_what_nobody_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enforce(receipt(epochs=2), strict=True)


def test_invalid_always_refuses() -> None:
    with pytest.raises(NotTranslatable, match="epochs: must be a whole number from 1 to 50, not 51") as caught:
        enforce(receipt(epochs=51))
    assert caught.value.exit_code == 3


def test_a_declaration_left_out_is_an_error_at_import() -> None:
    with pytest.raises(TypeError, match="missing"):
        Declarations(epochs=Sent("e", Int()))
    with pytest.raises(TypeError, match="unknown"):
        Declarations(**{**PARAMETERS, "epoch": Sent("e", Int())})


# --- conversions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hyperparameters", "rows", "epochs"),
    [
        ({"max_steps": 250, "batch_size": 8}, 1000, 2),
        ({"max_steps": 1, "batch_size": 8}, 1000, 1),
        ({"max_steps": 126, "batch_size": 8}, 1000, 2),
    ],
)
def test_steps_become_whole_epochs(hyperparameters: dict[str, Any], rows: int, epochs: int) -> None:
    assert receipt(rows, **hyperparameters)["max_steps"].effective == epochs


def test_steps_do_not_silently_override_epochs() -> None:
    row = receipt(max_steps=10, batch_size=8, epochs=3)["max_steps"]
    assert row.support == "unsupported"
    assert "only one of them can be sent" in (row.reason or "")


def test_a_name_is_shortened_by_a_rule_that_is_told() -> None:
    job = TuningJob(name="Tickets, v2 (final) for everyone", dataset="d", model="m")  # type: ignore[arg-type]
    row = translate(job, Target(provider="v", kind="v", model="m"), VENDOR)["name"]
    assert row.effective == "Tickets-v2-final-f"
    assert "at most 18 characters" in (row.rule or "")


@given(st.integers(1, 500))
def test_a_rank_is_never_made_smaller_than_the_largest_size_allows(rank: int) -> None:
    effective = receipt(lora_rank=rank)["lora_rank"].effective
    assert effective in (4, 8, 16)
    assert effective >= min(rank, 16)


def test_json_has_the_published_shape() -> None:
    data = receipt(epochs=3).to_json()
    assert data["fields"]["epochs"] == {
        "support": "sent",
        "requested": 3,
        "effective": 3,
        "wire": "hyper.n_epochs",
        "rule": None,
        "reason": None,
        "source": "its page",
    }
    assert {"data", "request", "cost", "lifecycle", "ready"} <= set(data)


# --- answers while training ------------------------------------------------------------------------------------------
SHOWING = Capabilities(
    parameters=PARAMETERS, family="made up", limits=Limits(), abilities=Abilities(samples=True), adapters={"lora": True}
)


def samples_receipt(samples: int | None, capabilities: Capabilities, **rows: int) -> tuple[str, Any, Any]:
    job = TuningJob.model_validate({"name": "j", "dataset": "d", "model": "m", "evaluation": {"samples": samples}})
    row = translate(job, Target(provider="v", kind="v", model="m", rows=rows), capabilities)["evaluation.samples"]
    assert row.reason
    return row.support, row.requested, row.effective


def test_answers_while_training_are_sent_to_a_trainer_that_shows_them() -> None:
    assert samples_receipt(4, SHOWING, train=10, validation=5) == ("sent", 4, 4)
    assert samples_receipt(0, SHOWING) == ("sent", 0, 0)
    assert samples_receipt(None, SHOWING) == ("default", None, None)
    assert samples_receipt(4, SHOWING, train=10, validation=0) == ("not_applicable", 4, None)


def test_a_service_that_shows_no_answers_says_so_and_is_not_asked_for_any_by_default() -> None:
    assert samples_receipt(None, VENDOR) == ("inherent", None, 0)
    assert samples_receipt(0, VENDOR) == ("inherent", 0, 0)
    assert samples_receipt(4, VENDOR) == ("unsupported", 4, 0)
    job = TuningJob.model_validate({"name": "j", "dataset": "d", "model": "m", "evaluation": {"samples": 4}})
    plan = translate(job, Target(provider="v", kind="v", model="m"), VENDOR)
    with pytest.warns(UnsupportedHyperparameterWarning, match=r"evaluation\.samples=4 \(the service shows no answers"):
        enforce(plan)
    with pytest.raises(NotTranslatable, match=r"evaluation\.samples"):
        enforce(plan, strict=True)
