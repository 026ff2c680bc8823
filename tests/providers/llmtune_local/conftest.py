"""Small tokenizers with the chat templates of well-known families, and random-weight models of their shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest.importorskip("transformers")
pytest.importorskip("peft")

CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "user assistant system tool model question answer the a of to and in is it that for",
    "Weather in Paris: sunny. Weather in Berlin: rain. get_weather city temperature",
    "naïve café über straße 你好 世界 🎉🚀 привет",
    "\n\n\n  \n one two three four five six seven eight nine ten 1 2 3 4 5 6 7 8 9 10",
]

NEWLINE_RUNS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# The shapes of these templates are the families'; the words are ours.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TOOLS = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}{{ '<tool_call>\n' }}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "{{ '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MODEL_ROLE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}{% set answer = parts[-1].lstrip('\n') %}"
    "{% set thought = m.reasoning_content or (parts[0].replace('<think>', '').strip('\n') if parts | length > 1"
    " else '') %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ answer + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

IM = ("<|im_start|>", "<|im_end|>")
#: name -> (template, special tokens, bos, eos, the token that ends a turn)
FAMILIES: dict[str, tuple[str, tuple[str, ...], str | None, str, str]] = {
    "chatml": (CHATML, IM, None, "<|im_end|>", "<|im_end|>"),
    "chatml_tools": (CHATML_TOOLS, IM, None, "<|im_end|>", "<|im_end|>"),
    "headers": (
        HEADERS,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
    ),
    "model_role": (MODEL_ROLE, ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>"),
    "thinking": (THINKING, IM, None, "<|im_end|>", "<|im_end|>"),
    "inst": (INST, (), "<s>", "</s>", "</s>"),
    "marked": (MARKED, IM, None, "<|im_end|>", "<|im_end|>"),
    "channels": (
        CHANNELS,
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
        None,
        "<|return|>",
        "<|end|>",
    ),
}


def build_tokenizer(
    template: str | None,
    specials: tuple[str, ...] = (),
    bos: str | None = None,
    eos: str | None = "</s>",
    *,
    sentencepiece: bool = False,
    add_bos: bool = False,
    newline_runs: bool = True,
) -> Any:
    """Train a byte-complete tokenizer with real merges on a few lines."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = [token for token in (bos, eos) if token]
    if sentencepiece:
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=["<unk>", *alphabet], show_progress=False, max_token_length=8
        )
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if newline_runs:
            core.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(NEWLINE_RUNS), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(token, special=True) for token in (*named, *specials)])
    if add_bos and bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=list(specials),
    )
    tokenizer.chat_template = template
    return tokenizer


_built: dict[str, Any] = {}


def family(name: str) -> Any:
    """Return the tokenizer of a family, built once."""
    if name not in _built:
        template, specials, bos, eos, _ = FAMILIES[name]
        _built[name] = build_tokenizer(template, specials, bos, eos)
    return _built[name]


@pytest.fixture(scope="session")
def tokenizers() -> Callable[[str], Any]:
    return family


@pytest.fixture(scope="session")
def turn_ends() -> dict[str, str]:
    return {name: values[4] for name, values in FAMILIES.items()}


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[..., Any]:
    return build_tokenizer


@pytest.fixture
def strange_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with Python files named as libraries that a worker imports; none of them may be run."""
    folder = tmp_path / "strange"
    folder.mkdir()
    for name in ("numpy", "types", "datasets", "secrets", "torch", "evaluate"):
        code = f"with open({str(folder / 'ran')!r}, 'a') as file:\n    file.write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    yield folder
    assert not (folder / "ran").exists(), (folder / "ran").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def build_model(family_name: str, seed: int = 0, **settings: Any) -> Any:
    """Build a random-weight model of a family's shape: two layers, 32 wide."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    if family_name == "gpt2":
        shape |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            del shape[name]
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if family_name == "mamba":
        shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3}
    if family_name in ("gemma2", "qwen3"):
        shape["head_dim"] = 8
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family_name, **(shape | settings))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def lora_model() -> Callable[..., Any]:
    """Build a random model with a LoRA adapter whose matrices are both random, so that no gradient is zero."""

    def build(family_name: str, **settings: Any) -> Any:
        import peft
        import torch

        base = build_model(family_name, **settings).requires_grad_(False)
        targets = ["in_proj", "x_proj"] if family_name == "mamba" else "all-linear"
        model = peft.get_peft_model(
            base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
        )
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        return model

    return build


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random-weight Llama with a ChatML tokenizer to a folder."""
    folder = tmp_path_factory.mktemp("base") / "random-llama"
    tokenizer = family("chatml")
    vocabulary = len(tokenizer)
    build_model(
        "llama", vocab_size=vocabulary, eos_token_id=tokenizer.eos_token_id, initializer_range=0.05
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Little questions with short answers, so that a random model can learn something in a few steps."""
    import json
    import random

    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            numbers = [draw.choice(["one", "two", "three", "four"]) for _ in range(draw.randint(1, 6))]
            odd = numbers[-1] in ("one", "three")
            messages = [
                {"role": "user", "content": " ".join(numbers)},
                {"role": "assistant", "content": "odd" if odd else "even"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": str(write_rows(folder / "train.jsonl", 40)),
        "validation": str(write_rows(folder / "validation.jsonl", 12, seed=1)),
    }


@pytest.fixture
def make_request(base_folder: Path, data: dict[str, str]) -> Callable[..., Any]:
    """Make a request for the random base; keywords are hyperparameters, `request` holds the other fields."""
    from llmtune_local.run_state.schema import RunRequest

    def make(request: dict[str, Any] | None = None, **hyperparameters: Any) -> RunRequest:
        body: dict[str, Any] = {
            "model": str(base_folder),
            "files": dict(data),
            "seed": 0,
            "options": {"device": "cpu", "num_threads": 1},
            "hyperparameters": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "lora_rank": 4} | hyperparameters,
        }
        return RunRequest.model_validate(body | (request or {}))

    return make


@pytest.fixture
def train(tmp_path: Path, make_request: Callable[..., Any]) -> Callable[..., Any]:
    """Train in this process; returns the trainer, whose folder and result can be looked at."""
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.registry import trainer_for
    from llmtune_local.training.trainer import Trainer

    numbers = iter(range(1000))

    def run(request: dict[str, Any] | None = None, **hyperparameters: Any) -> Trainer:
        folder = RunDir(tmp_path / f"run{next(numbers)}")
        run_request = make_request(request, **hyperparameters)
        folder.write_request(run_request)
        with StatusWriter(folder) as journal:
            trainer = trainer_for(run_request)(folder, run_request, journal, lambda: False)
            trainer.run()
        return trainer

    return run
