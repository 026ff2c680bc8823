"""Families of models that llama.cpp runs, and the numbers and changes of weights that its GGUF files need.

A family is added here only together with a test that compares llama.cpp with transformers on its shape. What a model of
a known family has that llama.cpp computes differently is refused by name, before anything is written.
(github.com/ggml-org/llama.cpp, src/models, 2026-11.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmtune.errors import InvalidJob

#: A value of the file's header that belongs to the architecture.
Setting = bool | int | float | str

_SILU = ("silu", "swish")
_GELU = ("gelu_pytorch_tanh",)
_LLAMA_ROPE = ("default", "llama3", "linear", "yarn")
#: Every sixth layer of Gemma 3 attends to everything; llama.cpp has that number in its code.
_GEMMA3_PERIOD = 6
#: Layers of the two models whose attention llama.cpp scales by hidden size and heads instead of the head's width.
_SCALED_BY_HIDDEN = {"gemma2": 46, "gemma3": 62}
#: Every fourth layer of SmolLM3 has no positions; llama.cpp has that number in its code.
_SMOLLM3_PERIOD = 4


@dataclass(frozen=True)
class Family:
    """A family of models: its architecture in GGUF files, and how its weights differ there."""

    architecture: str
    """The name in GGUF files."""

    title: str
    """The name in messages."""

    interleaved: bool = False
    """Whether queries and keys have the halves of each head side by side, not one after the other."""

    norm_offset: float = 0.0
    """Added to the weights of norms, which transformers adds in the computation."""

    activations: tuple[str, ...] = _SILU
    ropes: tuple[str, ...] = ("default", "yarn")
    """The kinds of rotary positions that can be written."""

    faults: Callable[[Any], Iterator[str]] = lambda _: iter(())
    """Yields what a configuration has that llama.cpp computes differently."""


def _gemma_faults(config: Any, architecture: str) -> Iterator[str]:
    width = config.head_dim
    if config.num_hidden_layers == _SCALED_BY_HIDDEN[architecture]:
        width = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != width:
        yield f"query_pre_attn_scalar {config.query_pre_attn_scalar:g}, where llama.cpp takes {width}"
    if getattr(config, "use_bidirectional_attention", None):
        yield "attention in both directions"
    if config.attention_bias:
        yield "biases of its attention"


def _gemma2_faults(config: Any) -> Iterator[str]:
    yield from _gemma_faults(config, "gemma2")
    if config.layer_types != _pattern(config.num_hidden_layers, 2):
        yield "layer_types that do not alternate"


def _gemma3_faults(config: Any) -> Iterator[str]:
    yield from _gemma_faults(config, "gemma3")
    if config.layer_types != _pattern(config.num_hidden_layers, _GEMMA3_PERIOD):
        yield "layer_types other than five of sliding and one of full attention"
    if config.attn_logit_softcapping or config.final_logit_softcapping:
        yield "soft caps"
    if _rope(config, "sliding_attention").get("rope_type", "default") != "default":
        yield "scaled positions in its layers of sliding attention"


def _pattern(layers: int, period: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(layers)]


def _qwen_faults(config: Any) -> Iterator[str]:
    if "sliding_attention" in (config.layer_types or ()):
        yield "layers of sliding attention"
    if config.model_type == "qwen3" and config.attention_bias:
        yield "biases of its attention"


def _smollm3_faults(config: Any) -> Iterator[str]:
    expected = [int((layer + 1) % _SMOLLM3_PERIOD != 0) for layer in range(config.num_hidden_layers)]
    if list(config.no_rope_layers) != expected:
        yield "no_rope_layers other than every fourth"
    if "sliding_attention" in (config.layer_types or ()):
        yield "layers of sliding attention"
    if config.attention_bias or config.mlp_bias:
        yield "biases"


_LLAMA = Family("llama", "Llama", interleaved=True, ropes=_LLAMA_ROPE)
_GEMMA3 = Family(
    "gemma3", "Gemma 3", norm_offset=1.0, activations=_GELU, ropes=("default", "linear"), faults=_gemma3_faults
)

#: model_type in config.json -> family.
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": Family("llama", "Mistral", interleaved=True, ropes=_LLAMA_ROPE),
    "qwen2": Family("qwen2", "Qwen 2", faults=_qwen_faults),
    "qwen3": Family("qwen3", "Qwen 3", faults=_qwen_faults),
    "gemma2": Family(
        "gemma2", "Gemma 2", norm_offset=1.0, activations=_GELU, ropes=("default",), faults=_gemma2_faults
    ),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "phi3": Family("phi3", "Phi 3", ropes=("default", "longrope")),
    "smollm3": Family("smollm3", "SmolLM 3", interleaved=True, faults=_smollm3_faults),
}


def find_family(config: Any) -> Family:
    """Return the family of a model's configuration.

    Raises:
        InvalidJob: the family cannot be written as GGUF, or the model has something that llama.cpp computes
            differently; both are named.
    """
    family = FAMILIES.get(config.model_type)
    hint = "use --format merged, and serve the folder with vLLM or transformers"
    if family is None:
        titles = ", ".join(dict.fromkeys([*(family.title for family in FAMILIES.values()), "SmolLM"]))
        raise InvalidJob(
            f"a {config.model_type} model cannot be written as GGUF here: these families can: {titles}", hint=hint
        )
    text = config.get_text_config()
    activation = getattr(text, "hidden_act", None) or getattr(text, "hidden_activation", None)
    rope = _rope(text).get("rope_type", "default")
    faults = [
        *(() if activation in family.activations else (f"the activation {activation}",)),
        *(() if rope in family.ropes else (f"rotary positions of the kind {rope}",)),
        *_yarn_faults(_rope(text)),
        *family.faults(text),
    ]
    if faults:
        raise InvalidJob(
            f"this {family.title} model cannot be written as GGUF: it has {'; '.join(faults)}, which llama.cpp"
            " computes differently",
            hint=hint,
        )
    return family


def _yarn_faults(rope: dict[str, Any]) -> Iterator[str]:
    if rope.get("rope_type") != "yarn":
        return
    defaults = {"beta_fast": 32, "beta_slow": 1, "mscale": None, "mscale_all_dim": None, "truncate": True}
    for name, default in defaults.items():
        if rope.get(name, default) not in (default, None):
            yield f"{name} {rope[name]} in its rotary positions"
    expected = 0.1 * math.log(rope["factor"]) + 1
    if rope.get("attention_factor") is not None and not math.isclose(rope["attention_factor"], expected, rel_tol=1e-4):
        yield f"attention_factor {rope['attention_factor']} in its rotary positions"


def _rope(config: Any, layers: str = "full_attention") -> dict[str, Any]:
    """Return the rotary positions of a configuration; of one with several kinds of layers, those of `layers`."""
    parameters = dict(config.rope_parameters or {})
    return dict(parameters.get(layers, parameters))


def head_width(config: Any) -> int:
    """Return the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def settings(family: Family, config: Any) -> dict[str, Setting]:
    """Return the numbers of a text model, by their keys in the header behind the architecture's name."""
    rope = _rope(config)
    rotated = int(head_width(config) * rope.get("partial_rotary_factor", 1.0))
    values: dict[str, Setting] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads or config.num_attention_heads,
        "attention.key_length": head_width(config),
        "attention.value_length": head_width(config),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": rotated,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if family.architecture == "gemma2":
        values["attn_logit_softcapping"] = float(config.attn_logit_softcapping or 0.0)
        values["final_logit_softcapping"] = float(config.final_logit_softcapping or 0.0)
    if family.norm_offset:  # both Gemmas
        values["attention.sliding_window"] = int(config.sliding_window)
    if family.architecture == "gemma3":
        values["rope.freq_base_swa"] = float(_rope(config, "sliding_attention")["rope_theta"])
    return values | _rope_scaling(rope, config)


def _rope_scaling(rope: dict[str, Any], config: Any) -> dict[str, Setting]:
    """Return the keys of scaled rotary positions. Llama 3's are a tensor."""
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    original = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    if kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": original,
        }
    if kind == "longrope":
        factor = rope.get("factor") or config.max_position_embeddings / original
        attention = rope.get("attention_factor")
        if attention is None:
            attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        return {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": float(attention),
        }
    return {}


def rope_factors(config: Any) -> dict[str, list[float]]:
    """Return the tensors of divisors of the rotary frequencies, by name; empty where a model has none."""
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return {
            f"rope_factors_{length}.weight": [float(factor) for factor in rope[f"{length}_factor"]]
            for length in ("long", "short")
        }
    if kind != "llama3":
        return {}
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope["original_max_position_embeddings"])
    divisors = []
    width = head_width(config)
    for index in range(0, width, 2):
        turns = original / (2 * math.pi * float(rope["rope_theta"]) ** (index / width))
        # Slow frequencies are divided, fast ones are not, and between `low` and `high` turns it is a mixture.
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / ((1 - share) / factor + share))
    return {"rope_freqs.weight": divisors}


def notes(config: Any) -> list[str]:
    """Return in which long contexts llama.cpp computes differently from transformers, in sentences."""
    text = config.get_text_config()
    lines = []
    window = getattr(text, "sliding_window", None)
    if text.model_type in ("mistral", "phi3") and window and window < text.max_position_embeddings:
        lines.append(
            f"the model attends to the last {window:,} tokens only, and llama.cpp to all: longer conversations may be"
            f" answered differently (llama.cpp: -c {window} keeps them out)"
        )
    rope = _rope(text)
    if rope.get("rope_type") == "longrope":
        original = int(rope["original_max_position_embeddings"])
        lines.append(
            f"with a context (-c) over {original:,} tokens llama.cpp uses the positions of long texts for short ones"
        )
    return lines
