"""Encoders and decoders as classifiers: rows of every length that fits, and a word about what does not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from llmtune.errors import InvalidJob
from llmtune_local.models import encoder, loading
from llmtune_local.models.encoder import LabelledRow, LabelSet
from llmtune_local.models.hub import locate

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tokenizer_without_limit() -> Any:
    import copy

    tokenizer = copy.deepcopy(loading.load_tokenizer("tiny-encoder"))
    tokenizer.model_max_length = 10**30
    return tokenizer


def row(length: int) -> LabelledRow:
    ids = torch.arange(5, 5 + length).remainder(90).add(5).numpy().astype("int32")
    return LabelledRow(ids, ids * 0, (0,))


@pytest.mark.parametrize(
    ("family", "settings", "usable"),
    [
        ("roberta", {"pad_token_id": 1, "type_vocab_size": 1}, 64),
        ("xlm-roberta", {"pad_token_id": 0, "type_vocab_size": 1}, 65),
        ("camembert", {"pad_token_id": 3, "type_vocab_size": 1}, 62),
        ("mpnet", {"pad_token_id": 1}, 64),
        ("bert", {"pad_token_id": 1}, 66),
    ],
)
def test_the_length_that_a_model_holds_is_the_one_that_runs(family: str, settings: dict[str, Any], usable: int) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=97, num_labels=2, **SIZE, **settings)
    network = AutoModelForSequenceClassification.from_config(config).eval()
    assert loading.context_length(config, tokenizer_without_limit(), None) == usable
    with pytest.raises(InvalidJob, match=f"{usable + 1} is more than the model's context of {usable} tokens"):
        loading.context_length(config, tokenizer_without_limit(), usable + 1)
    with torch.no_grad():
        assert encoder.compute_logits(network, [row(usable), row(3)], config.pad_token_id, "cpu").isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            encoder.compute_logits(network, [row(usable + 1)], config.pad_token_id, "cpu")


def test_every_family_that_counts_positions_from_its_padding_is_known() -> None:
    """As transformers' own source says it: a table of positions that has a padding index."""
    pattern = re.compile(r"self\.position_embeddings = nn\.Embedding\(\s*[^)]*padding_idx=self\.padding_idx")
    for family in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        folder = family.replace("-", "_")
        spec = importlib.util.find_spec(f"transformers.models.{folder}")
        source = Path(spec.origin).parent / f"modeling_{folder}.py" if spec and spec.origin else None
        if source is not None and source.is_file():
            counts = bool(pattern.search(source.read_text(encoding="utf-8")))
            assert counts == (family in loading._COUNTS_FROM_PADDING), family


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}),
        ("gpt_neox", SIZE),
        ("llama", SIZE | {"num_key_value_heads": 2, "pad_token_id": None}),
    ],
)
def test_a_decoder_without_a_padding_token_reads_the_last_token_of_each_row(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    import copy

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=700, **settings)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(loading.load_tokenizer("tiny"))
    tokenizer.pad_token = None
    labels = LabelSet(("a", "b", "c"))
    network = encoder.load_classifier(str(tmp_path), None, labels, device="cpu", tokenizer=tokenizer)
    assert network.config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [row(9), row(4), row(1)]
    with torch.no_grad():
        together = encoder.compute_logits(network, rows, tokenizer.pad_token_id, "cpu")
        alone = torch.cat([encoder.compute_logits(network, [one], tokenizer.pad_token_id, "cpu") for one in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_with_nothing_to_pad_with_is_said_before_training(tmp_path: Path) -> None:
    import copy

    tokenizer = copy.deepcopy(loading.load_tokenizer("tiny"))
    tokenizer.pad_token = tokenizer.eos_token = None
    config = AutoConfig.for_model("llama", pad_token_id=None)
    with pytest.raises(InvalidJob, match="neither a padding token nor an end of text"):
        encoder.set_padding_token(config, tokenizer)


def test_the_embedded_encoder_keeps_its_own_length() -> None:
    config = AutoConfig.from_pretrained(locate("tiny-encoder"))
    assert loading.context_length(config, loading.load_tokenizer("tiny-encoder"), None) == 512
