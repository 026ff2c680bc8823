"""The job: what it refuses, in which words, and that it survives its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune import DatasetSpec, Hyperparameters, TuningJob
from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.spec import EXCLUSIVE, NOT_YET, EvaluationSpec


def job(**fields: object) -> TuningJob:
    return TuningJob.model_validate({"name": "a", "dataset": "rows.jsonl", "model": "tiny", **fields})


def test_an_unknown_hyperparameter_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName) as caught:
        Hyperparameters.model_validate({"lora_rnk": 3})
    assert caught.value.nearest[0] == "lora_rank"
    assert "unknown hyperparameter 'lora_rnk'" in caught.value.message
    assert caught.value.exit_code == 2


def test_an_unknown_name_deep_inside_says_where_it_stands() -> None:
    with pytest.raises(UnknownName, match=r"overrides\.vendor: unknown hyperparameter 'epoch'; did you mean 'epochs'"):
        job(overrides={"vendor": {"epoch": 2}})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", -1, "hyperparameters.epochs must be greater than or equal to 1, not -1"),
        ("epochs", 1.5, "hyperparameters.epochs must be a valid integer"),
        ("learning_rate", 0, "hyperparameters.learning_rate must be greater than 0"),
        ("learning_rate", float("nan"), "hyperparameters.learning_rate must be a finite number"),
        ("prompt_loss_weight", 1.01, "hyperparameters.prompt_loss_weight must be less than or equal to 1"),
        ("batch_size", "many", "hyperparameters.batch_size must be a valid integer"),
        ("epochs", "auto", "'auto' is written by leaving hyperparameters.epochs out"),
        ("learning_rate_multiplier", "auto", "leaving hyperparameters.learning_rate_multiplier out"),
    ],
)
def test_a_wrong_value_names_the_field_the_range_and_the_value(field: str, value: object, words: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        job(hyperparameters={field: value})
    assert words in caught.value.message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidJob) as caught:
        TuningJob.model_validate({"name": "", "hyperparameters": {"epochs": 0}})
    message = caught.value.message
    assert "name" in message
    assert "dataset is missing" in message
    assert "epochs" in message


@pytest.mark.parametrize("pair", EXCLUSIVE)
def test_exclusive_pairs_refuse_each_other(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidJob, match="exclude each other"):
        Hyperparameters.model_validate(dict.fromkeys(pair, 1))


@pytest.mark.parametrize("method", sorted(NOT_YET))
def test_methods_that_are_not_there_yet_say_why(method: str) -> None:
    with pytest.raises(InvalidJob, match="not there yet"):
        job(method=method)


def test_an_override_replaces_the_other_member_of_a_pair() -> None:
    base = Hyperparameters(learning_rate=1e-4, epochs=3)
    merged = base.merged(Hyperparameters(learning_rate_multiplier=2.0))
    assert merged == Hyperparameters(learning_rate_multiplier=2.0, epochs=3)


def test_nouns_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        job().name = "b"  # type: ignore[misc]


def test_a_job_names_no_model_for_a_provider() -> None:
    with pytest.raises(InvalidJob, match="no model is named for provider 'b'"):
        job(model={"a": "m"}).model_for("b")


def test_a_dataset_is_split_by_us_or_by_the_user_not_both() -> None:
    with pytest.raises(InvalidJob, match="either path"):
        DatasetSpec(path="a", train="b")
    with pytest.raises(InvalidJob, match="either path"):
        DatasetSpec()
    with pytest.raises(InvalidJob, match="go with train"):
        DatasetSpec(path="a", test="b")


@pytest.mark.parametrize(
    ("name", "shares"),
    [("80/10/10", (0.8, 0.1, 0.1)), ("70/15/15", (0.7, 0.15, 0.15)), ("60/20/20", (0.6, 0.2, 0.2))],
)
def test_a_split_by_its_name(name: str, shares: tuple[float, ...]) -> None:
    assert DatasetSpec(path="x", split=name).split == shares  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["80/10", "80/10/20", "80/10/10/0", "a/b/c", "80-10-10", "", "80/-10/30"])
def test_a_name_that_is_no_split_is_refused(split: str) -> None:
    with pytest.raises(InvalidJob, match="80/10/10"):
        DatasetSpec(path="x", split=split)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [(0.5, 0.4, 0.2), (0, 0.5, 0.5), (-1, 1, 1), (10, 0.5, 2)])
def test_a_split_is_shares_or_counts(split: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidJob, match="split"):
        DatasetSpec(path="a", split=split)
    assert DatasetSpec(path="a", split=(100, 10, 20)).split == (100, 10, 20)


yaml_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(
    name=yaml_text,
    tags=st.dictionaries(yaml_text, yaml_text, max_size=3),
    rate=st.one_of(st.none(), st.floats(1e-8, 1, exclude_min=True)),
    epochs=st.one_of(st.none(), st.integers(1, 99)),
    modules=st.one_of(st.none(), st.lists(yaml_text, min_size=1, max_size=3)),
    suffix=st.sampled_from([".yaml", ".json"]),
)
def test_jobs_survive_their_files(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    tags: dict[str, str],
    rate: float | None,
    epochs: int | None,
    modules: list[str] | None,
    suffix: str,
) -> None:
    written = job(
        name=name,
        tags=tags,
        dataset="/data/rows.jsonl",
        hyperparameters={"learning_rate": rate, "epochs": epochs, "lora_target_modules": modules},
    )
    path = tmp_path_factory.mktemp("jobs") / f"job{suffix}"
    written.save(path)
    assert TuningJob.load(path) == written


def test_yaml_is_read_as_1_2(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: yes\nmodel: no\ndataset: d.jsonl\nhyperparameters: {learning_rate: 1e-4}\n")
    loaded = TuningJob.load(path)
    assert (loaded.name, loaded.model) == ("yes", "no")
    assert loaded.hyperparameters.learning_rate == 1e-4
    assert loaded.dataset.path == str(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("job.yaml", "name: a\nname: b\n", "job.yaml:2: broken YAML: found duplicate key"),
        ("job.yaml", "name: [a\n", "job.yaml:2: broken YAML"),
        ("job.json", '{"name": "a",\n "model": }', "job.json:2: broken JSON at column 11"),
        ("job.yaml", "", "a mapping of fields, but this holds nothing"),
        ("job.yaml", "- a\n", "a mapping of fields, but this holds a list"),
        ("job.yaml", "name: a\nmodel: tiny\ndataset: d\nepochs: 3\n", "unknown field 'epochs'"),
    ],
)
def test_a_broken_job_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidJob) as caught:
        TuningJob.load(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_a_missing_job_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="no such job file") as caught:
        TuningJob.load(tmp_path / "none.yaml")
    assert "llmtune init" in (caught.value.hint or "")


def test_every_field_has_a_docstring() -> None:
    for noun in (TuningJob, Hyperparameters, DatasetSpec):
        undocumented = [name for name, field in noun.model_fields.items() if not field.description]
        assert undocumented == [], noun


def spec(**fields: Any) -> EvaluationSpec:
    return TuningJob.model_validate({"name": "j", "dataset": "d.jsonl", "model": "m", "evaluation": fields}).evaluation


@pytest.mark.parametrize(
    ("fields", "free", "measured"),
    [
        ({}, False, ["base", "majority", "linear", "nearest"]),
        ({}, True, ["base", "majority", "linear", "few_shot", "nearest"]),
        ({"baseline": True}, False, ["base", "majority", "linear", "nearest"]),
        ({"baseline": False}, True, ["majority", "linear", "nearest"]),
        ({"baselines": ["few_shot", "base"]}, False, ["base", "few_shot"]),
        ({"baselines": []}, True, []),
    ],
)
def test_what_is_measured(fields: dict[str, Any], free: bool, measured: list[str]) -> None:
    names: list[Any] = ["base", "majority", "linear", "few_shot", "nearest"]
    assert [name for name in names if spec(**fields).measures(name, free=free)] == measured


def test_a_job_of_before_is_the_same_job() -> None:
    assert spec(baseline=True) == EvaluationSpec()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"baseline": "yes"}, "baseline is true or false"),
        ({"baseline": True, "baselines": ["base"]}, "exclude each other"),
        ({"baselines": ["lineal"]}, "baselines.0 must be 'base', 'majority', 'linear', 'few_shot' or 'nearest'"),
    ],
)
def test_mistakes_are_a_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        spec(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "a\0b"}, "name holds a NUL character"),
        ({"name": "a\ud800b"}, "name holds half a surrogate pair, which is not a character"),
        ({"dataset": "rows\0.jsonl"}, "dataset holds a NUL character"),
        ({"model": {"fake": "m\udfff"}}, "model.fake holds half a surrogate pair, which is not a character"),
        ({"tags": {"owner": "\0"}}, "tags.owner holds a NUL character"),
        ({"tags": {"own\ud83der": "x"}}, "tags holds half a surrogate pair, which is not a character"),
        (
            {"provider_options": {"fake": {"list": [{"inner": "\ud800"}]}}},
            "provider_options.fake.list.inner holds half a surrogate pair, which is not a character",
        ),
        ({"provider_options": {"fake": {"size": 2**64}}}, "provider_options.fake.size is a whole number of more"),
        ({"evaluation": {"labels": ["a", "b\0"]}}, "evaluation.labels holds a NUL character"),
    ],
)
def test_texts_that_nothing_can_hold_are_refused_in_python_as_in_files(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        TuningJob(**{"name": "n", "dataset": "rows.jsonl", "model": "m", **fields})
    assert refused.value.message.startswith(says)


def test_options_that_hold_themselves_are_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(InvalidJob, match="nested too deeply"):
        TuningJob(name="n", dataset="rows.jsonl", model="m", provider_options={"fake": endless})
