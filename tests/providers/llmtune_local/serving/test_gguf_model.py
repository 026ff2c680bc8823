"""Random models of every family's shape: llama.cpp finds the same next tokens likely as transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.errors import InvalidJob
from llmtune_local.serving import families, gguf_model, llama_cpp
from llmtune_local.serving.dialogue import Dialogue
from llmtune_local.serving.gguf_tokenizer import Vocabulary, read_vocabulary

COUNT = 20
#: Longer than the windows and the original contexts of the shapes below.
PROMPT = [(token * 37) % 4000 + 4 for token in range(60)]
#: Of the spread of all logits, by how much two tokens may differ that change places: llama.cpp keeps keys in float16.
NEAR = 1e-2

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5],
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 256,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}

SMOLLM = {"tie_word_embeddings": True, "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "llama, wide heads": ("llama", {"head_dim": 32, "num_key_value_heads": 1}),
    "smollm": ("llama", SMOLLM),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 3}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 4,
            "num_hidden_layers": 7,
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
    "phi3": ("phi3", {}),
    "phi3, longrope": ("phi3", {"rope_parameters": LONGROPE, "max_position_embeddings": 1024}),
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The vocabulary of `tiny`, cut down: the models' is small."""
    from llmtune_local.models.loading import load_tokenizer

    return read_vocabulary(load_tokenizer("tiny"), 4096, Dialogue(None, False, (2,)))


def build(kind: str, settings: dict[str, Any]) -> Any:
    """Build a model with random weights, of norms and biases too: an offset forgotten must show."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 3,
        "bos_token_id": None,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | settings))).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return model


def logits_after_prompt(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    return logits


def assert_likeliest(tokens: list[int], logits: torch.Tensor) -> None:
    """Check that these are the likeliest tokens in order, but for near ties."""
    assert len(tokens) == COUNT
    expected = logits.topk(COUNT).values
    assert (logits[tokens] - expected).abs().max() < NEAR * logits.std()
    assert len(set(tokens) & set(logits.topk(COUNT).indices.tolist())) >= COUNT - 1


def write(model: Any, vocabulary: Vocabulary, path: Path, precision: Any) -> Path:
    family = families.find_family(model.config)
    gguf_model.write_model(path, model, family, vocabulary, precision=precision, name="random")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_finds_the_same_tokens_likely(name: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    kind, settings = SHAPES[name]
    model = build(kind, settings)
    path = write(model, vocabulary, tmp_path / "model.gguf", "f32")
    with llama_cpp.serve(path, context=256) as server:
        assert_likeliest(server.likeliest(PROMPT, COUNT), logits_after_prompt(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "phi3", "gemma3_text"])
@pytest.mark.parametrize(
    "variant", [{}, {"use_rslora": True}, {"rank_pattern": {"o_proj": 8}, "alpha_pattern": {"o_proj": 4}}]
)
def test_an_adapter_beside_its_base_gives_the_same(
    kind: str, variant: dict[str, Any], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    import peft

    settings = {"head_dim": 16, "query_pre_attn_scalar": 16, "num_hidden_layers": 6} if kind == "gemma3_text" else {}
    base = build(kind, settings)
    write(base, vocabulary, tmp_path / "base.gguf", "f32")
    untuned = logits_after_prompt(base)
    model: Any = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **variant)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    model.eval().save_pretrained(tmp_path / "adapter")
    family = families.find_family(base.config)
    path = tmp_path / "adapter.gguf"
    gguf_model.write_adapter(path, tmp_path / "adapter", base.config, family, name="random")
    with llama_cpp.serve(tmp_path / "base.gguf", lora=path, context=256) as server:
        expected = logits_after_prompt(model)
        assert_likeliest(server.likeliest(PROMPT, COUNT), expected)
        assert (expected - untuned).std() > 0.2 * untuned.std()


@pytest.mark.parametrize(("precision", "error"), [("f32", 1e-7), ("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 2e-2)])
def test_every_precision_is_read_back(precision: str, error: float, vocabulary: Vocabulary, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = build("qwen2", {"vocab_size": 4096, "intermediate_size": 80})
    path = write(model, vocabulary, tmp_path / "model.gguf", precision)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert types["blk.0.attn_q.weight"] == precision.upper()
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_q.bias"] == "F32"
    # Rows of 80 are no whole blocks of 32.
    assert types["blk.0.ffn_down.weight"] == ("F16" if precision == "q8_0" else precision.upper())
    expected = model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    tensor = tensors["blk.0.attn_q.weight"]
    values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)).reshape(expected.shape)
    assert (values - expected).abs().max() <= error * expected.abs().max()


def test_a_weight_beyond_f16_is_refused_and_bf16_named(vocabulary: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = build("llama", {})
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(
        InvalidJob, match=r"blk.0.ffn_up.weight has a weight of 1e\+05, and f16 ends at 65504"
    ) as problem:
        write(model, vocabulary, tmp_path / "model.gguf", "f16")
    assert "bf16" in str(problem.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "a DoRA adapter"),
        ({"peft_type": "IA3"}, "a IA3 adapter"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"target_modules": ["embed_tokens"]}, "on embeddings"),
        ({"target_modules": ["model.lm_head"]}, "tied"),
        ({"bias": "all"}, "biases"),
        ({"target_parameters": ["experts.up"]}, "parameters"),
    ],
)
def test_adapters_that_llama_cpp_does_not_apply(settings: dict[str, Any], message: str) -> None:
    assert message in (gguf_model.adapter_fault(settings, tied=True) or "")
    assert gguf_model.adapter_fault({"target_modules": ["q_proj", "lm_head"]}, tied=False) is None


def test_a_tensor_without_a_place_is_named(
    lora_model: Callable[..., Any], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    model = build("llama", {})
    model.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(InvalidJob, match=r"'model\.extra\.weight' that llama\.cpp has no place for"):
        write(model, vocabulary, tmp_path / "model.gguf", "f16")
