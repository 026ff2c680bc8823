"""A GGUF file is a base model: found, measured by its header, loaded, trained and exported as ordinary weights."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidJob, MissingExtra
from llmtune_local.default_settings import choose_adapter, count_parameters
from llmtune_local.models.gguf_file import find_gguf, read_header
from llmtune_local.models.hub import load_config
from llmtune_local.models.shape import is_plain_decoder, read_shape

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the halves of each head side by side, as llama.cpp has the queries and keys of a Llama."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


@pytest.fixture(scope="module")
def gguf(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the random-weight Llama of `base_folder` as a GGUF file, unquantised, in a folder of its own."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed")
    from gguf import GGUFWriter
    from safetensors.torch import load_file

    config = json.loads((base_folder / "config.json").read_text())
    tokenizer = json.loads((base_folder / "tokenizer.json").read_text())
    template = (base_folder / "chat_template.jinja").read_text()
    path = tmp_path_factory.mktemp("gguf") / "random.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = {number: token for token, number in (tokenizer["model"]["vocab"] | special).items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokens[number] for number in range(len(tokens))])
    writer.add_token_types([3 if tokens[number] in special else 1 for number in range(len(tokens))])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(special["<|im_end|>"])
    writer.add_chat_template(template)
    for name, tensor in load_file(base_folder / "model.safetensors").items():
        if "q_proj" in name or "k_proj" in name:
            tensor = interleave(tensor, config[f"num_{'attention' if 'q_proj' in name else 'key_value'}_heads"])
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_and_its_folder_name_the_same_model(gguf: Path) -> None:
    assert find_gguf(str(gguf)) == find_gguf(str(gguf.parent)) == gguf


def test_a_folder_with_other_weights_is_read_as_before(base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(base_folder, folder)
    (folder / "model.gguf").write_bytes(b"GGUF")

    assert find_gguf(str(folder)) is None
    assert load_config(str(folder)).model_type == "llama"


@pytest.mark.parametrize(
    ("files", "model", "sentence", "hint"),
    [
        (("q4.gguf", "q8.gguf"), ".", "holds 2 GGUF files (q4.gguf, q8.gguf)", "q4.gguf"),
        ((), "none.gguf", "there is no file", "path"),
        (
            ("big-00001-of-00002.gguf", "big-00002-of-00002.gguf"),
            ".",
            "one part of a model",
            "llama-gguf-split --merge",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(
    tmp_path: Path, files: tuple[str, ...], model: str, sentence: str, hint: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InvalidJob) as refusal:
        find_gguf(str(tmp_path / model))

    assert sentence in str(refusal.value)
    assert hint in str(refusal.value.hint)


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "gguf" else found(name, *more))
    with pytest.raises(MissingExtra) as refusal:
        load_config(str(tmp_path / "model.gguf"))

    assert "gguf" in str(refusal.value)
    assert refusal.value.hint == "pip install 'llmtune-sdk[gguf]'"


def test_a_file_that_is_none_or_cut_short_has_no_header(tmp_path: Path, gguf: Path) -> None:
    for name, content in (("other", b"x" * 100), ("short", gguf.read_bytes()[:2000])):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="GGUF file"):
            read_header(file)
        assert count_parameters(str(file)) is None


def test_the_header_gives_the_shape_of_the_same_model_as_a_folder(gguf: Path, base_folder: Path) -> None:
    shape, published = read_shape(str(gguf)), read_shape(str(base_folder))
    assert shape is not None
    assert published is not None

    for name in ("parameters", "hidden", "layers", "inner", "query", "key", "vocabulary", "context", "encoder"):
        assert getattr(shape, name) == getattr(published, name), name
    assert sorted(shape.linear) == sorted(published.linear)
    assert is_plain_decoder(str(gguf))
    assert choose_adapter(str(gguf.parent), "sft") == "full"


def test_it_computes_what_the_folder_computes(gguf: Path, base_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from llmtune_local.models.loading import load_base, load_tokenizer

    ids = torch.arange(12).unsqueeze(0)
    settings: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with torch.no_grad():
        expected = load_base(str(base_folder), None, **settings)(input_ids=ids).logits
        torch.testing.assert_close(load_base(str(gguf), None, **settings)(input_ids=ids).logits, expected)
    assert "GGUF" not in capfd.readouterr().err  # no bar is drawn on the terminal
    rows = [{"role": "user", "content": "Weather in Paris"}, {"role": "assistant", "content": "sunny"}]
    ours, theirs = load_tokenizer(str(gguf)), load_tokenizer(str(base_folder))
    assert ours.apply_chat_template(rows, tokenize=False) == theirs.apply_chat_template(rows, tokenize=False)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_it_is_trained_and_exported_as_ordinary_weights(
    gguf: Path, train: Callable[..., Any], tmp_path: Path, adapter: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmtune_local.export import export

    trainer = train({"model": str(gguf), "adapter": adapter})
    notes = export(trainer.folder.artefact, {"model": str(gguf), "method": "sft"}, "merged", tmp_path / "merged")

    ids = torch.arange(12).unsqueeze(0)
    trainer.model.eval()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad(), trainer.network.unpacked():
        expected = trainer.model(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert "vllm serve" in notes[0]


def test_its_adapter_is_to_be_merged_before_others_can_load_it(
    gguf: Path, train: Callable[..., Any], tmp_path: Path
) -> None:
    from llmtune.provider import ModelRef
    from llmtune_local.export import export, serving_command
    from llmtune_local.snippet import snippet

    trainer = train({"model": str(gguf), "adapter": "lora"})
    data = {"model": str(gguf), "method": "sft"}

    assert "export it with --format merged" in export(trainer.folder.artefact, data, "adapter", tmp_path / "out")[0]
    assert serving_command(trainer.folder.artefact, data, "tuned") is None
    model = ModelRef(id=str(trainer.folder.artefact), base=str(gguf), data=data)
    assert f"gguf_file={gguf.name!r}" in snippet(model)
    gone = data | {"model": str(tmp_path / "gone.gguf")}
    assert "gguf_file='gone.gguf'" in snippet(model.model_copy(update={"data": gone}))
    assert serving_command(trainer.folder.artefact, gone, "tuned") is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"method": "classification"}, "generates text"),
        ({"adapter": "qlora"}, "GGUF file"),
    ],
)
def test_what_it_is_not_for_is_refused(gguf: Path, fields: dict[str, str], sentence: str) -> None:
    from llmtune_local.preflight import check_request

    body = {"model": str(gguf), "method": "sft", "adapter": "lora", "options": {"device": "cpu"}} | fields
    with pytest.raises(InvalidJob, match=sentence):
        settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
        check_request(body | {"files": {"train": "rows.jsonl"}, "hyperparameters": settings})
