"""The embedded base model: its files load with plain transformers calls, and its script builds such files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "providers" / "llmtune_local" / "tiny"
CHAT = [
    {"role": "system", "content": "Answer with the result only."},
    {"role": "user", "content": "Repeat this: blue"},
    {"role": "assistant", "content": "blue"},
]


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return load(TINY)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_it_is_small_and_described() -> None:
    sizes = {path.name: path.stat().st_size for path in TINY.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert {"tokenizer_config.json", "MODEL_CARD.md"} <= set(sizes)
    assert sum(sizes.values()) < 8_000_000
    card = (TINY / "MODEL_CARD.md").read_text(encoding="utf-8")
    for fact in ("Steps:", "Held-out loss:", "Command:", "Licence", "botocore", "Never seen"):
        assert fact in card


def test_the_shape(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 1024
    assert 2_000_000 < model.num_parameters() < 4_000_000
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token not in (None, tokenizer.eos_token)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.slow
@settings(max_examples=200)
@given(st.text(max_size=60))
@example("naïve 你好 🎉\u200d🚀 \x00\x7f\ufeff")
@example("  two  spaces\t\r\n\r\n  tail ")
@example(" a , b . c ? it 's")
def test_every_text_round_trips(text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = _TOKENIZER.setdefault("tiny", AutoTokenizer.from_pretrained(TINY))
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False) == text


_TOKENIZER: dict[str, Any] = {}


def test_the_template(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendered == (
        "<|im_start|>system\nAnswer with the result only.<|im_end|>\n<|im_start|>user\nRepeat this: blue<|im_end|>\n"
        "<|im_start|>assistant\nblue<|im_end|>\n"
    )
    prompt = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(prompt)
    assert ids(tokenizer, rendered)[: len(ids(tokenizer, prompt))] == ids(tokenizer, prompt)
    for mark in ("<|im_start|>", "<|im_end|>"):
        assert ids(tokenizer, mark) == [tokenizer.convert_tokens_to_ids(mark)]


def test_the_template_takes_tools(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    chat = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
        {"role": "assistant", "content": [{"type": "text", "text": "Rain."}]},
    ]
    text = tokenizer.apply_chat_template(chat, tools=[tool], tokenize=False)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call><|im_end|>' in text
    assert "<|im_start|>tool\nrain<|im_end|>" in text
    assert "<|im_start|>assistant\nRain.<|im_end|>" in text
    assert '"parameters": {"type": "object"}' in text
    call["function"]["arguments"] = '{"city": "Oslo"}'
    assert tokenizer.apply_chat_template(chat, tools=[tool], tokenize=False) == text


def test_the_template_refuses_what_it_would_lose(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    with pytest.raises(Exception, match="unknown role narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(Exception, match="text only"):
        tokenizer.apply_chat_template([{"role": "user", "content": picture}], tokenize=False)


def test_it_has_learned_from_text(tiny: tuple[Any, Any]) -> None:
    """Far below the loss of guessing, on a sentence of its kind, and at positions late in the context too."""
    import torch

    model, tokenizer = tiny
    sentence = "Returns the list of the names of the files in the specified directory. "
    for repeat in (1, 40):
        tokens = torch.tensor([ids(tokenizer, sentence * repeat)])
        assert tokens.shape[1] <= model.config.max_position_embeddings
        with torch.no_grad():
            loss = model(input_ids=tokens, labels=tokens).loss.item()
        assert loss < 0.6 * math.log(model.config.vocab_size)


def test_it_ends_its_turn(tiny: tuple[Any, Any]) -> None:
    import torch

    model, tokenizer = tiny
    prompt = tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True)
    tokens = torch.tensor([ids(tokenizer, prompt)])
    answer = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=40, do_sample=False)
    assert tokenizer.eos_token_id in answer[0, tokens.shape[1] :].tolist()


@pytest.mark.slow
def test_the_script_builds_such_a_model(tmp_path: Path) -> None:
    import torch

    out = tmp_path / "tiny"
    command = [sys.executable, str(ROOT / "tools" / "tiny_models" / "build_tiny.py"), "--small-corpus", "--steps", "1"]
    result = subprocess.run(
        [*command, "--threads", "1", "--out", str(out)], capture_output=True, text=True, timeout=540, check=False
    )
    assert result.returncode == 0, result.stderr
    model, tokenizer = load(out)
    for text in ("naïve 你好 🎉", "\x00\u2028 tail ", "".join(map(chr, range(0x20, 0x300)))):
        assert tokenizer.decode(ids(tokenizer, text)) == text
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids(tokenizer, "one two three")])).logits
    assert logits.shape[-1] == len(tokenizer)
    assert torch.isfinite(logits).all()
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- Steps: 1 of 4096 tokens" in card
    assert "CPython standard library" in card
    shipped = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    assert json.loads((out / "config.json").read_text(encoding="utf-8")) == shipped


def test_the_training_text_keeps_away_from_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "tiny_models"))
    import tiny_chats
    import tiny_corpus

    assert tiny_corpus.is_prose("Returns the names of all the files in the folder.")
    for label in (
        "Sends the customer support request to the right team today.",
        "The banking77 data set has many rows.",
    ):
        assert not tiny_corpus.is_prose(label)
    text = str(tiny_chats.chats([], seed=1, count=3000)).lower()
    for term in ("ticket", "refund", "invoice", "billing", "shipping", "subscription", "customer"):
        assert term not in text


def test_only_permissive_licences_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "tiny_models"))
    import importlib.metadata as metadata

    import tiny_corpus

    def distribution(text: str) -> Any:
        class Fake(metadata.Distribution):
            def read_text(self, filename: str) -> str | None:
                return text if filename == "METADATA" else None

            def locate_file(self, path: Any) -> Any:
                raise NotImplementedError

        return Fake()

    head = "Metadata-Version: 2.1\nName: x\nVersion: 1\n"
    assert tiny_corpus.licence_of(distribution(head + "License-Expression: MIT\n")) == "MIT"
    assert tiny_corpus.licence_of(distribution(head + "License-Expression: MIT OR GPL-2.0\n")) is None
    assert tiny_corpus.licence_of(distribution(head + "Classifier: License :: OSI Approved :: BSD License\n"))
    assert tiny_corpus.licence_of(distribution(head + "License: Proprietary\n")) is None
    assert tiny_corpus.licence_of(distribution(head)) is None
