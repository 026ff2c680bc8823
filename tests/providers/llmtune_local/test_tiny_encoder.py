"""The embedded encoder: small, described, and loaded by plain transformers calls."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

FOLDER = Path(__file__).resolve().parents[3] / "providers" / "llmtune_local" / "tiny_encoder"


def test_it_is_small_and_described() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "MODEL_CARD.md"} <= set(sizes)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(sizes)
    assert sum(sizes.values()) < 7_000_000
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for fact in ("Steps:", "Held-out loss", "Command:", "Licence", "Never seen"):
        assert fact in card


def test_it_fills_in_masked_words_better_than_chance() -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from llmtune_local.models.hub import locate

    assert locate("tiny-encoder") == str(FOLDER)
    model = AutoModelForMaskedLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer("The [MASK] of the file.", return_tensors="pt")["input_ids"]
    assert (ids[0, 0], ids[0, -1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, 2]
    likeliest = tokenizer.convert_ids_to_tokens(logits.topk(30).indices.tolist())
    assert {"name", "size", "number", "type", "path"} & set(likeliest)


def test_every_text_comes_through() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer("ZEBRA quux-17 ~ ok")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zebraquux-17~ok"
