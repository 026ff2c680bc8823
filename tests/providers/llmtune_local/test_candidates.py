"""Models for a dataset: what is on this machine, and what speaks against each."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.facts import DatasetFacts
from llmtune.planning.job_reasons import choose_model
from llmtune.provider.abilities import ModelSuggestion, SuggestsModels
from llmtune_local import LocalProvider, candidates
from llmtune_local.models import memory_estimate

CHAT = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
ENCODER = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50_000}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def a_machine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB and two cores, an empty cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(memory_estimate, "current_device", lambda device: "cpu")
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 16 << 30)
    monkeypatch.setattr(candidates, "usable_cores", lambda: 2)


def facts(**fields: Any) -> DatasetFacts:
    values = {
        "rows": {"train": 800, "validation": 100, "test": 100},
        "kind": "chat",
        "training_tokens": 20_000,
        "longest_row": 60,
        "scripts": {"latin": 1.0},
        **fields,
    }
    return DatasetFacts.model_validate(values)


LABELS = {"labels": ("late", "lost"), "label_rows": {"late": 400, "lost": 400}}


def write_model(folder: Path, config: Mapping[str, Any], *, parameters: int, template: str | None = TEMPLATE) -> Path:
    """Write a model's configuration and the header of its weights; nothing here reads weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**SIZES, "max_position_embeddings": 512, **config}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    header = json.dumps({"w": {"shape": [parameters // 64, 64], "dtype": "BF16", "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def cache(hub: Path, model: str, config: Mapping[str, Any], **settings: Any) -> Path:
    folder = hub / f"models--{model.replace('/', '--')}"
    written = write_model(folder / "snapshots" / "abc", config, **settings)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return written


def here(rows: DatasetFacts, named: str | None = None) -> dict[str, ModelSuggestion]:
    return {model.model: model for model in candidates.suggest_models(rows, named) if model.here}


def test_the_local_provider_has_the_ability() -> None:
    provider = LocalProvider()
    assert isinstance(provider, SuggestsModels)
    assert provider.suggest_models(facts())[0].model == "tiny"


def test_embedded_models_are_there_by_the_kind_of_rows() -> None:
    assert {name: model.method for name, model in here(facts()).items()} == {"tiny": "sft"}
    assert {name: model.method for name, model in here(facts(**LABELS)).items()} == {
        "tiny": "sft",
        "tiny-encoder": "classification",
    }
    assert {name: model.method for name, model in here(facts(kind="preference")).items()} == {"tiny": "dpo"}


def test_the_cache_of_the_hub_is_looked_through(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    cache(hub, "some/chat", CHAT, parameters=64_000_000)
    cache(hub, "some/encoder", ENCODER, parameters=64_000_000, template=None)
    cache(hub, "some/speech", {"architectures": ["WhisperForConditionalGeneration"]}, parameters=64_000_000)
    (hub / "models--some--broken-off" / "snapshots" / "abc").mkdir(parents=True)
    (hub / "datasets--some--rows").mkdir()
    models = here(facts(**LABELS))
    assert set(models) == {"tiny", "tiny-encoder", "some/chat", "some/encoder"}
    assert models["some/chat"].parameters == 64_000_000
    assert (models["some/chat"].source, models["some/chat"].method) == ("cache", "sft")
    assert models["some/encoder"].method == "classification"
    assert not models["some/encoder"].obstacle


def test_hf_home_counts_where_no_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    cache(tmp_path / "elsewhere" / "hub", "some/chat", CHAT, parameters=64_000_000)
    assert "some/chat" in here(facts())


def test_weights_of_which_a_part_is_missing_are_no_model(tmp_path: Path) -> None:
    folder = cache(tmp_path / "hub", "some/chat", CHAT, parameters=64_000_000)
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "some/chat" not in here(facts())


def test_a_model_without_a_chat_template_is_listed_with_that(tmp_path: Path) -> None:
    cache(tmp_path / "hub", "some/base", CHAT, parameters=6_400_000, template=None)
    assert "no chat template" in here(facts())["some/base"].obstacle
    assert not here(facts(kind="text"))["some/base"].obstacle
    assert choose_model(candidates.suggest_models(facts())).model == "tiny"  # type: ignore[union-attr]


def test_a_template_that_renders_no_tools_cannot_learn_calls(tmp_path: Path) -> None:
    cache(tmp_path / "hub", "some/chat", CHAT, parameters=6_400_000)
    models = here(facts(tool_rows=10))
    assert "renders no tools" in models["some/chat"].obstacle
    assert not models["tiny"].obstacle


def test_rows_with_images_are_for_models_that_read_them(tmp_path: Path) -> None:
    cache(tmp_path / "hub", "some/chat", CHAT, parameters=6_400_000)
    sees = {"text_config": SIZES, "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}
    cache(tmp_path / "hub", "some/eyes", CHAT | sees, parameters=6_400_000)
    models = {model.model: model for model in candidates.suggest_models(facts(image_rows=40))}
    for name in ("tiny", "some/chat"):
        assert models[name].obstacle == "no images are read with it, and 40 of 1,000 rows have some"
    assert not models["some/eyes"].obstacle
    unseen = [model for model in models.values() if not model.here]
    assert unseen
    assert all("VL" in model.model and not model.obstacle for model in unseen)
    assert not any("VL" in model.model for model in candidates.suggest_models(facts()))


def test_a_model_that_does_not_fit_says_how_much_it_takes(tmp_path: Path) -> None:
    cache(tmp_path / "hub", "some/large", CHAT, parameters=9_600_000_000)
    obstacle = here(facts())["some/large"].obstacle
    assert obstacle.startswith("training takes about ")
    assert obstacle.endswith("and this machine has 16.0 GiB")


def test_larger_models_take_longer_and_more_rows_too() -> None:
    small, large = (candidates.WELL_KNOWN[0], candidates.WELL_KNOWN[2])
    seconds = {
        (entry.model, tokens): candidates.suggest_models(facts(training_tokens=tokens), entry.model)[0].seconds or 0
        for entry in (small, large)
        for tokens in (20_000, 200_000)
    }
    assert seconds[small.model, 20_000] < seconds[large.model, 20_000] < seconds[large.model, 200_000]


def test_rows_in_another_language_speak_against_english_models() -> None:
    german = facts(accented=0.02)
    assert "made for English" in here(german)["tiny"].warning
    assert all("English" not in model.languages for model in candidates.suggest_models(german) if not model.here)
    assert not here(facts())["tiny"].warning


def test_rows_that_are_probably_longer_than_the_context_are_said() -> None:
    assert not here(facts(longest_row=500))["tiny"].rows_too_long
    assert here(facts(longest_row=700))["tiny"].rows_too_long  # a small vocabulary takes more tokens than the estimate
    japanese = facts(longest_row=300, scripts={"hiragana": 0.7, "latin": 0.3})
    assert here(japanese)["tiny"].rows_too_long
    assert "1,024 tokens" in here(japanese)["tiny"].warning


def test_well_known_models_are_those_that_this_machine_could_train_overnight() -> None:
    models = [model for model in candidates.suggest_models(facts(**LABELS)) if not model.here]
    assert {model.method for model in models} == {"sft", "classification"}
    for model in models:
        assert model.source == "hub"
        assert (model.memory or 0) <= 0.8 * (16 << 30)
        assert (model.seconds or 0) <= candidates.OVERNIGHT
    assert candidates.suggest_models(facts(training_tokens=10**12))[1:] == []


def test_well_known_models_that_are_here_are_not_to_be_downloaded(tmp_path: Path) -> None:
    name = candidates.WELL_KNOWN[2].model
    cache(tmp_path / "hub", name, CHAT, parameters=600_000_000)
    models = [model for model in candidates.suggest_models(facts()) if model.model == name]
    assert [model.source for model in models] == ["cache"]
    assert "languages" in models[0].languages


def test_a_folder_that_is_named_comes_first(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "mine", ENCODER, parameters=6_400_000))
    first = candidates.suggest_models(facts(**LABELS), folder)[0]
    assert (first.model, first.source, first.method) == (folder, "folder", "classification")


@pytest.mark.parametrize("model", ["someone/Chat-0.5B", "someone/model", "run:abc123"])
def test_anything_else_that_is_named_is_to_be_downloaded(model: str) -> None:
    first = candidates.suggest_models(facts(), model)[0]
    assert (first.model, first.source, first.method) == (model, "hub", "sft")
    assert first.parameters == (500_000_000 if "0.5B" in model else None)


def test_naming_an_embedded_model_lists_it_once() -> None:
    names = [model.model for model in candidates.suggest_models(facts(**LABELS), "tiny-encoder") if model.here]
    assert names == ["tiny-encoder", "tiny"]
