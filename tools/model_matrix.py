"""Find out which model families the local trainer can train, by running each; write docs/models.md.

Every shape is a model of that family with two layers and random weights. It is trained for a few steps, and what comes
of it is held against plain transformers and PEFT. `--check` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|header|>' + m.role + '<|header_end|>\n\n' + m.content + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|header_end|>\n\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
#: name -> (template, its special tokens, the token that ends a turn)
TEMPLATES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "headers": (HEADERS, ("<|header|>", "<|header_end|>", "<|eot|>"), "<|eot|>"),
    "turns": (TURNS, ("<turn>", "<end>"), "<end>"),
    "inst": (INST, (), "</s>"),
}

#: The columns of the page, and what a "yes" in each means.
COLUMNS = {
    "loads": "the trainer takes the model and trains it",
    "packs": "rows stand behind one another without padding",
    "targets": "every layer that `all-linear` names gets an adapter, and each of them learns",
    "loss": "loss and gradient are those of plain transformers: in float32 to 1e-5, in bfloat16 not twice as far from"
    " float64 as transformers' own",
    "mask": "the answer and the token that ends it are trained, and nothing else",
    "merged": "the exported, merged model says what base and adapter say",
    "stops": "the exported model stops where its template ends a turn, through plain `generate`",
}

_OWN_ATTENTION = "its code has an attention of its own, which cannot be exchanged"
_RECURRENT = "its layers carry a state from token to token, which would run on from one row into the next"


@dataclass(frozen=True)
class Shape:
    """One family: how its configuration is made small, and why it cannot do what it cannot."""

    title: str
    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    template: str = "chatml"
    why: dict[str, str] = field(default_factory=dict)
    base: bool = True
    """Whether the common sizes go into its configuration."""


@dataclass
class Row:
    """What was found: yes or no for each column, what was measured, and the layers that get an adapter."""

    shape: Shape
    found: dict[str, bool] = field(default_factory=dict)
    measured: dict[str, str] = field(default_factory=dict)
    covers: str = ""

    @property
    def unexplained(self) -> list[str]:
        """Columns with a "no" that nobody has given the reason of, and reasons of what is no longer so."""
        noes = {name for name in COLUMNS if not self.found.get(name)}
        return sorted(noes ^ set(self.shape.why))


_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_DEEPSEEK = _EXPERTS | {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_SSM = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}


_LINEAR_ATTENTION = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}


def _with_text(text: dict[str, Any], vision: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"text_config": text, "vision_config": vision} | settings


SHAPES: tuple[Shape, ...] = (
    Shape("Llama", "llama", template="headers"),
    Shape("Llama, tied embeddings", "llama", {"tie_word_embeddings": True}, "headers"),
    Shape("Qwen2", "qwen2"),
    Shape("Qwen3", "qwen3", {"head_dim": 8}),
    Shape("Mistral, sliding window", "mistral", {"sliding_window": 16}, "inst"),
    Shape("Phi-3", "phi3"),
    Shape("SmolLM3", "smollm3"),
    Shape("StarCoder2", "starcoder2"),
    Shape("OLMo 2", "olmo2"),
    Shape("GLM-4", "glm4", {"head_dim": 8}),
    Shape("StableLM", "stablelm", why={"packs": "its code hands no arguments on to its attention"}),
    Shape("Cohere", "cohere"),
    Shape("Cohere 2", "cohere2", {"sliding_window": 16}),
    Shape("Granite", "granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    Shape("Gemma", "gemma", {"head_dim": 8}, "turns"),
    Shape(
        "Gemma 2",
        "gemma2",
        {"head_dim": 8, "sliding_window": 16},
        "turns",
        {"packs": "its attention has a soft-cap, which packed attention has not"},
    ),
    Shape("Gemma 3, text", "gemma3_text", {"head_dim": 8, "sliding_window": 16}, "turns"),
    Shape("GPT-2", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, base=False),
    Shape("GPT-NeoX (Pythia)", "gpt_neox"),
    Shape("OPT", "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    Shape("Falcon", "falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}, why={"packs": _OWN_ATTENTION}),
    Shape("BLOOM", "bloom", {"n_layer": 2, "n_head": 4, "hidden_size": 32}, why={"packs": _OWN_ATTENTION}, base=False),
    Shape("Qwen3-MoE", "qwen3_moe", _EXPERTS | {"num_experts": 4, "head_dim": 8}),
    Shape("Qwen2-MoE", "qwen2_moe", _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16}),
    Shape("Mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "inst"),
    Shape("OLMoE", "olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    Shape("Granite MoE", "granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Shape("DeepSeek-V3", "deepseek_v3", _DEEPSEEK),
    Shape(
        "gpt-oss",
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16},
        why={"packs": "its attention has sinks, which packed attention has not"},
    ),
    Shape(
        "Llama 4, text", "llama4_text", {"num_local_experts": 2, "head_dim": 8, "intermediate_size_mlp": 48}, "headers"
    ),
    Shape(
        "Mamba",
        "mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        why={"packs": _RECURRENT},
        base=False,
    ),
    Shape(
        "Mamba 2",
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        why={"packs": _RECURRENT},
        base=False,
    ),
    Shape(
        "Falcon-H1",
        "falcon_h1",
        _SSM | {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "head_dim": 8},
        why={"packs": _RECURRENT},
    ),
    Shape(
        "Jamba",
        "jamba",
        _SSM
        | {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "mamba_dt_rank": 4,
        },
        why={"packs": _RECURRENT},
    ),
    Shape(
        "Qwen3-Next",
        "qwen3_next",
        _EXPERTS
        | _LINEAR_ATTENTION
        | {
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            "head_dim": 8,
        },
        why={"packs": _RECURRENT},
    ),
    Shape("LFM2", "lfm2", {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48}, why={"packs": _RECURRENT}),
    Shape(
        "Gemma 3, text and images",
        "gemma3",
        _with_text(_COMMON | {"head_dim": 8, "sliding_window": 16}, _VISION, mm_tokens_per_image=4),
        "turns",
        base=False,
    ),
    Shape(
        "Qwen2.5-VL",
        "qwen2_5_vl",
        _with_text(_COMMON | _MROPE, _QWEN_VISION),
        base=False,
    ),
    Shape(
        "Qwen3-VL",
        "qwen3_vl",
        _with_text(_COMMON | _MROPE | {"head_dim": 8}, _QWEN_VISION | {"deepstack_visual_indexes": []}),
        base=False,
    ),
    Shape(
        "Qwen3.5, text and images",
        "qwen3_5",
        _with_text(
            _COMMON
            | _LINEAR_ATTENTION
            | {"head_dim": 16, "rope_parameters": _MROPE["rope_parameters"] | {"partial_rotary_factor": 0.5}},
            _QWEN_VISION | {"deepstack_visual_indexes": []},
        ),
        why={"packs": _RECURRENT},
        base=False,
    ),
    Shape(
        "Mistral 3",
        "mistral3",
        _with_text(_COMMON | {"model_type": "mistral", "head_dim": 8}, _VISION | {"model_type": "pixtral"}),
        "inst",
        base=False,
    ),
    Shape(
        "SmolVLM",
        "smolvlm",
        _with_text(_COMMON | {"model_type": "llama"}, _VISION, scale_factor=1),
        base=False,
    ),
)


def tokenizer_of(template: str) -> Any:
    """Build a byte-level tokenizer with the special tokens of a template; its EOS differs from the end of a turn."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text, specials, _ = TEMPLATES[template]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<pad>", *specials)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=list(specials),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = text
    return tokenizer


def build(shape: Shape, folder: Path) -> None:
    """Write a model of this shape with random weights, and its tokenizer."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from llmtune_local.models.hub import auto_class

    tokenizer = tokenizer_of(shape.template)
    sizes = {
        "vocab_size": len(tokenizer) + 3,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    settings = (_COMMON if shape.base else {}) | shape.settings
    if "text_config" in settings:
        settings = settings | {"text_config": sizes | settings["text_config"]}
    config = AutoConfig.for_model(shape.model_type, **(sizes | settings))
    if "text_config" in settings:
        config.architectures = [MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[shape.model_type]]
    torch.manual_seed(0)
    network = auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                # As they would be published: numbers that bfloat16 holds exactly.
                parameter.copy_(parameter.bfloat16())
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path) -> None:
    """Write short chats of different lengths."""
    phrases = ("red", "green", "blue", "a long way", "night", "x")
    with path.open("w", encoding="utf-8") as file:
        for number in range(8):
            question, answer = " ".join(phrases[: number % 6 + 1]), phrases[(number * 5 + 2) % 6]
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            if number % 4 == 3:
                turns += [{"role": "user", "content": "again"}, {"role": "assistant", "content": answer[::-1]}]
            file.write(json.dumps({"messages": turns}) + "\n")


def examine(shape: Shape, folder: Path) -> Row:
    """Run one shape through the trainer and hold the result against plain transformers and PEFT."""
    import torch

    torch.set_num_threads(1)
    row = Row(shape)
    build(shape, folder / "base")
    write_rows(folder / "rows.jsonl")
    try:
        trainer = _train(folder)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it stands in the table
        row.measured["loads"] = f"{type(problem).__name__}: {problem}"
        return row
    row.found["loads"] = True
    row.found["packs"] = trainer.network.packed
    _look_at_targets(row, trainer)
    for column, look in (("mask", _mask), ("loss", _loss), ("merged", _merged), ("stops", _stops)):
        try:
            row.found[column], row.measured[column] = look(trainer, folder)
        except Exception as problem:  # noqa: BLE001
            row.found[column], row.measured[column] = False, f"{type(problem).__name__}: {problem}"
    return row


def _request(folder: Path, **options: Any) -> Any:
    from llmtune_local.run_state.schema import RunRequest

    return RunRequest.model_validate(
        {
            "model": str(folder / "base"),
            "files": {"train": str(folder / "rows.jsonl")},
            "seed": 0,
            "options": {"device": "cpu", "num_threads": 1} | options,
            "hyperparameters": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "lora_rank": 4},
        }
    )


def _train(folder: Path) -> Any:
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.trainer import Trainer

    run = RunDir(folder / "run")
    request = _request(folder)
    run.write_request(request)
    with StatusWriter(run) as journal:
        trainer = Trainer(run, request, journal, lambda: False)
        trainer.run()
    return trainer


def _look_at_targets(row: Row, trainer: Any) -> None:
    from llmtune_local.models.targets import zero_tensors

    events = [event.message for event in trainer.folder.read_events()[0]]
    row.covers = next(text for text in events if text.startswith("the adapter is on ")).removeprefix(
        "the adapter is on "
    )
    zero = zero_tensors(trainer.model)
    row.found["targets"] = not zero
    if zero:
        row.measured["targets"] = f"still zero: {', '.join(zero[:3])}"


def _mask(trainer: Any, folder: Path) -> tuple[bool, str]:
    """Check that the trained tokens of every row are its answers with their end of turn."""
    tokenizer = trainer.tokenizer
    end = next(end for text, _, end in TEMPLATES.values() if text == tokenizer.chat_template)
    for line, pieces in zip((folder / "rows.jsonl").read_text().splitlines(), trainer.train.rows, strict=True):
        answers = [turn["content"] for turn in json.loads(line)["messages"] if turn["role"] == "assistant"]
        trained = "".join(tokenizer.decode(piece.ids[piece.completion]) for piece in pieces)
        expected = "".join((f" {answer}" if end == "</s>" else answer) + end for answer in answers)
        if trained != expected:
            return False, f"{trained!r} is trained instead of {expected!r}"
    return True, ""


def _plain(folder: Path, dtype: Any, *, adapter: bool = True) -> Any:
    import peft
    from transformers import AutoConfig

    from llmtune_local.models.hub import auto_class

    base = auto_class(AutoConfig.from_pretrained(folder / "base")).from_pretrained(folder / "base", dtype=dtype)
    base.requires_grad_(False)
    if not adapter:
        return base
    return peft.PeftModel.from_pretrained(base, folder / "run" / "adapter", is_trainable=True).eval()


def _loss(trainer: Any, folder: Path) -> tuple[bool, str]:
    """Compare losses per row and the gradient: ours and plain ones in float32 and bfloat16, against float64."""
    import peft
    import torch

    from llmtune_local.models.loading import load_base
    from llmtune_local.models.model_runner import Network

    rows = _random_rows(trainer.model.config.get_text_config().vocab_size)
    reference = _plain(folder, torch.float64).double()
    if hasattr(reference.get_base_model(), "set_experts_implementation"):
        reference.get_base_model().set_experts_implementation("eager")  # grouped products are not there in float64
    exact = _plain_figures(reference, rows, None)
    single = _plain_figures(_plain(folder, torch.float32), rows, None)
    half = _plain_figures(_plain(folder, torch.bfloat16), rows, torch.bfloat16)
    figures = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(str(folder / "base"), None, dtype=dtype, device="cpu")
        tuned = peft.PeftModel.from_pretrained(base, folder / "run" / "adapter", is_trainable=True).eval()
        figures[dtype] = _our_figures(Network(tuned, device="cpu", dtype=dtype), rows)
    same = [_far(a, b) for a, b in zip(figures[torch.float32], single, strict=True)]
    our_errors = [_far(a, b) for a, b in zip(figures[torch.bfloat16], exact, strict=True)]
    plain_errors = [_far(a, b) for a, b in zip(half, exact, strict=True)]
    measured = (
        f"float32: loss {same[0]:.1e}, gradient {same[1]:.1e};"
        f" bfloat16: loss {our_errors[0]:.1e} ({plain_errors[0]:.1e}),"
        f" gradient {our_errors[1]:.1e} ({plain_errors[1]:.1e})"
    )
    good = max(same) < 1e-5 and all(
        our_error <= 2 * plain_error for our_error, plain_error in zip(our_errors, plain_errors, strict=True)
    )
    return good, measured


def _random_rows(vocabulary: int) -> list[Any]:
    """Draw enough random rows that errors do not depend on a few tokens."""
    import numpy as np

    from llmtune_local.batching.token_rows import TokenRow

    draw = np.random.default_rng(0)
    rows = []
    for length in draw.integers(4, 40, 64):
        ids = draw.integers(0, vocabulary, int(length)).astype(np.int32)
        rows.append(TokenRow(ids, np.arange(length) >= max(1, length // 3)))
    return rows


def _plain_figures(model: Any, rows: Iterable[Any], autocast: Any) -> tuple[Any, Any]:
    import contextlib

    import torch

    losses = []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        with torch.autocast("cpu", dtype=autocast) if autocast else contextlib.nullcontext():
            logits = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0, :-1]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        nll = torch.nn.functional.cross_entropy(wide, ids[1:], reduction="none")
        loss = nll[torch.from_numpy(row.completion[1:])].sum()
        loss.backward()
        losses.append(loss.detach().double())
    return torch.stack(losses), _gradient(model)


def _our_figures(network: Any, rows: list[Any]) -> tuple[Any, Any]:
    import torch

    from llmtune_local.batching.packing import make_step

    def step(some: list[Any]) -> list[Any]:
        return make_step(
            some,
            prompt_weight=0.0,
            packed=network.packed,
            share_prefixes=network.shares_prefixes,
            token_budget=10_000,
            pad=0,
        ).batches

    with torch.no_grad():
        losses = [sum(network.losses(batch).nll.double() for batch in step([row])) for row in rows]
    for batch, prefix in network.iterate_batches(step(rows)):
        network.losses(batch, prefix=prefix).objective.backward()
    return torch.stack(losses), _gradient(network.model)


def _gradient(model: Any) -> Any:
    import torch

    named = sorted((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return torch.cat(
        [
            parameter.grad.double().flatten() if parameter.grad is not None else parameter.double().flatten() * 0
            for _, parameter in named
        ]
    )


def _far(actual: Any, expected: Any) -> float:
    """Return the relative mean error: squared, one expert chosen differently would outweigh all other rows."""
    return float((actual - expected).abs().sum() / expected.abs().sum().clamp_min(1e-12))


def _merged(trainer: Any, folder: Path) -> tuple[bool, str]:
    import torch
    from transformers import AutoConfig

    from llmtune_local.export import export
    from llmtune_local.models.hub import auto_class

    out = folder / "merged"
    export(trainer.folder.artefact, {"model": str(folder / "base"), "method": "sft"}, "merged", out)
    merged = auto_class(AutoConfig.from_pretrained(out)).from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.from_numpy(trainer.train.rows[3][0].ids.astype("int64")).unsqueeze(0)
    with torch.no_grad():
        adapted = _plain(folder, torch.float32)(input_ids=ids).logits
        far = _far(merged(input_ids=ids).logits, adapted)
        moved = _far(_plain(folder, torch.float32, adapter=False)(input_ids=ids).logits, adapted)
    return far < 1e-4 < moved, f"{far:.1e} apart, {moved:.1e} from the base"


def _stops(trainer: Any, folder: Path) -> tuple[bool, str]:
    import torch
    from transformers import AutoConfig, LogitsProcessor, LogitsProcessorList

    from llmtune_local.models.hub import auto_class

    out, tokenizer = folder / "merged", trainer.tokenizer
    end = next(end for text, _, end in TEMPLATES.values() if text == tokenizer.chat_template)

    class SaysTheEnd(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return torch.zeros_like(scores).index_fill_(1, torch.tensor([tokenizer.convert_tokens_to_ids(end)]), 1.0)

    model = auto_class(AutoConfig.from_pretrained(out)).from_pretrained(out, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "red"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(
        **prompt, max_new_tokens=5, do_sample=False, logits_processor=LogitsProcessorList([SaysTheEnd()])
    )
    length = answer.shape[1] - prompt["input_ids"].shape[1]
    return length == 1, f"{length} tokens"


def line(row: Row) -> str:
    """Format one row of the page's table."""
    cells = ["yes" if row.found.get(name) else "no" for name in COLUMNS]
    return f"| {row.shape.title} | {' | '.join(cells)} |"


def page(rows: list[Row]) -> str:
    """Build the page."""
    lines = [
        "# Models",
        "",
        "Which families of models the local trainer trains. Generated by `tools/model_matrix.py`, which trains a small",
        "model of each shape with random weights and holds the result against plain transformers and PEFT.",
        "",
        "| column | a yes means |",
        "|---|---|",
        *(f"| {name} | {meaning} |" for name, meaning in COLUMNS.items()),
        "",
        f"| family | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
        *map(line, rows),
        "",
        "## Where not, and why",
        "",
        *(f"- {row.shape.title}, {column}: {reason}." for row in rows for column, reason in row.shape.why.items()),
        "",
        "## Which layers `all-linear` covers",
        "",
        "A preset means linear layers of the text model, without the output head, without the routed experts of a",
        "mixture and their router, and without what PEFT takes no adapter on. `attention` is those in attention",
        "blocks, `mlp` all others. Experts are trained when they are named: `lora_target_modules: [o_proj, experts]`.",
        "",
        "| family | the adapter of these small models is on |",
        "|---|---|",
        *(f"| {row.shape.title} | {row.covers} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not up to date")
    parser.add_argument("--only", nargs="*", help="titles of shapes to run, and print, without writing the page")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    rows = []
    for shape in SHAPES:
        if args.only is not None and shape.title not in args.only and shape.model_type not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = examine(shape, Path(folder))
        rows.append(row)
        print(line(row), flush=True)
        for column in row.unexplained:
            print(f"    {column}: {row.measured.get(column, '') or 'no'}", flush=True)
        if args.only is not None:
            print(f"    {row.covers}\n    {row.measured}", flush=True)
    unexplained = [row.shape.title for row in rows if row.unexplained]
    if args.only is None:
        if args.check:
            unexplained += [] if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page(rows) else ["the page"]
        else:
            PAGE.write_text(page(rows), encoding="utf-8")
    if unexplained:
        print(f"not explained, or not up to date: {', '.join(unexplained)}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
