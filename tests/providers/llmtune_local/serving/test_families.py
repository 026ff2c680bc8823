"""What llama.cpp would compute differently is refused by name; numbers are those of the configuration."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmtune.errors import InvalidJob
from llmtune_local.serving import families


def config_of(kind: str, **settings: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **settings)


@pytest.mark.parametrize("kind", ["gpt2", "mamba", "gpt_oss", "qwen3_moe", "gemma", "phi"])
def test_other_families_are_refused_by_name(kind: str) -> None:
    with pytest.raises(InvalidJob, match=f"a {kind} model cannot be written as GGUF here: .*Qwen 3.*SmolLM"):
        families.find_family(config_of(kind))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "the activation gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "the kind dynamic"),
        ("gemma2", {"query_pre_attn_scalar": 100, "head_dim": 256}, "query_pre_attn_scalar 100, .* takes 256"),
        ("gemma2", {"layer_types": ["full_attention"] * 26}, "do not alternate"),
        ("gemma3_text", {"sliding_window_pattern": 4}, "five of sliding and one of full"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "soft caps"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "in both directions"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, "sliding attention"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("smollm3", {"no_rope_layer_interval": 3}, "every fourth"),
        (
            "qwen2",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 4.0,
                    "original_max_position_embeddings": 8192,
                    "beta_fast": 16,
                }
            },
            "beta_fast 16",
        ),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        families.find_family(config_of(kind, **settings))


def test_the_part_of_a_model_of_images_that_reads_text_is_written() -> None:
    assert families.find_family(config_of("gemma3")).architecture == "gemma3"


def test_llama_3_divides_slow_frequencies_only() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = config_of("llama", hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=rope)
    factors = families.rope_factors(config)["rope_freqs.weight"]
    assert len(factors) == 64
    assert factors[0] == 1
    assert factors[-1] == 32
    assert factors == sorted(factors)
    assert "rope.scaling.type" not in families.settings(families.FAMILIES["llama"], config)


def test_contexts_that_are_answered_differently_are_named() -> None:
    assert "the last 4,096 tokens only" in families.notes(config_of("mistral", sliding_window=4096))[0]
    assert families.notes(config_of("mistral", sliding_window=None)) == []
    long = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 48,
        "long_factor": [2.0] * 48,
        "original_max_position_embeddings": 4096,
    }
    config = config_of("phi3", max_position_embeddings=131072, rope_parameters=long)
    assert "over 4,096 tokens" in families.notes(config)[0]
    numbers = families.settings(families.FAMILIES["phi3"], config)
    assert numbers["rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
