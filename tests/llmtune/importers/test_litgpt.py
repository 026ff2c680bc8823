"""LitGPT's files and command lines become jobs, and every key is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.errors import InvalidJob
from llmtune.importers import import_job
from llmtune.importers.keys import Imported, ImportLine
from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan

#: The keys of LitGPT's own configurations for LoRA (config_hub/finetune), each with a value it could have there.
LORA = """
checkpoint_dir: checkpoints/meta-llama/Llama-3.2-1B
out_dir: out/finetune/lora-llama-3.2-1b
precision: bf16-true
quantize:
devices: 1
num_nodes: 1
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_query: true
lora_key: false
lora_value: true
lora_projection: false
lora_mlp: false
lora_head: false
data:
  class_path: litgpt.data.JSON
  init_args:
    json_path: rows.json
    mask_prompt: false
    val_split_fraction: 0.1
    prompt_style: alpaca
    ignore_index: -100
    seed: 42
    num_workers: 4
train:
  save_interval: 200
  log_interval: 1
  global_batch_size: 8
  micro_batch_size: 2
  lr_warmup_steps: 10
  lr_warmup_fraction:
  epochs: 4
  max_tokens:
  max_steps:
  max_time: 600
  max_seq_length: 512
  tie_embeddings:
  max_norm:
  min_lr: 6.0e-05
eval:
  interval: 100
  max_new_tokens: 100
  max_iters: 100
  initial_validation: false
  final_validation: true
  evaluate_example: first
log:
  project:
  run: mine
optimizer:
  class_path: torch.optim.AdamW
  init_args:
    lr: 0.0002
    weight_decay: 0.0
    betas:
      - 0.9
      - 0.95
logger_name: csv
seed: 1337
access_token: hf_secret
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"instruction": f"question {number}", "output": f"answer {number}"} for number in range(30)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "train.json").write_text(json.dumps(rows))
    (tmp_path / "split" / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    (tmp_path / "texts").mkdir()
    for name in ("one", "two"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"A text, {name}.\n\nAnother of its paragraphs.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, workspace: Path) -> Imported:
    file = workspace / "lora.yaml"
    file.write_text(text)
    return import_job(file)


def lines(imported: Imported) -> dict[str, ImportLine]:
    return {line.key: line for line in imported.lines}


def test_every_key_of_a_file_is_answered(workspace: Path) -> None:
    imported = read(LORA, workspace)
    answered = lines(imported)
    named = {"data", "optimizer"}
    for section, keys in {
        "": ("checkpoint_dir", "out_dir", "precision", "devices", "num_nodes", "logger_name", "seed", "access_token"),
        "data.": ("json_path", "mask_prompt", "val_split_fraction", "prompt_style", "ignore_index", "seed"),
        "train.": (
            "save_interval",
            "log_interval",
            "global_batch_size",
            "micro_batch_size",
            "lr_warmup_steps",
            "epochs",
        ),
        "eval.": ("interval", "max_new_tokens", "max_iters", "initial_validation", "evaluate_example"),
        "optimizer.": ("lr", "weight_decay", "betas"),
        "log.": ("run",),
    }.items():
        assert {section + key for key in keys} <= set(answered) | named
    assert not [line for line in imported.lines if "not known to llmtune" in line.says]
    assert all(line.says for line in imported.left_out)
    assert "hf_secret" not in str(imported.lines)


def test_values_keep_their_meaning(workspace: Path) -> None:
    job = read(LORA, workspace).job
    hyperparameters = job.hyperparameters.model_dump(exclude_none=True)
    assert job.model == {"local": "meta-llama/Llama-3.2-1B"}
    assert hyperparameters == {
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.0002,
        "lr_schedule": "cosine",
        "warmup_steps": 10,
        "optimizer": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "prompt_loss_weight": 1.0,
        "lora_rank": 32,
        "lora_alpha": 16.0,
        "lora_dropout": 0.05,
        "lora_target_modules": ("q_proj", "v_proj"),
        "max_sequence_length": 512,
        "eval_every": 100,
        "checkpoint_every": 200,
    }
    assert (job.adapter, job.seed, job.method) == ("lora", 1337, "sft")
    assert job.dataset.split == pytest.approx((0.9, 0.1, 0.0))
    options = job.provider_options["local"]
    assert options["max_time"] == 600
    assert options["dtype"] == "bfloat16"
    assert "### Instruction:" in options["chat_template"]


def test_iterations_and_steps_are_told_apart(workspace: Path) -> None:
    answered = lines(read(LORA, workspace))
    assert answered["train.micro_batch_size"].says.startswith("4 iterations of 2 rows are one step")
    assert "iterations" in answered["eval.max_iters"].says
    assert answered["eval.max_iters"].word == "left out"
    assert answered["eval.interval"].word == "mapped"
    assert "steps" in answered["train.lr_warmup_steps"].says


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("finetune", {"adapter": "lora"}),
        ("finetune_lora", {"adapter": "lora"}),
        ("finetune_full", {"adapter": "full"}),
        ("finetune_lora --quantize bnb.nf4", {"adapter": "qlora", "quantization": "nf4"}),
        ("finetune_lora --quantize bnb.fp4-dq", {"adapter": "qlora", "quantization": "fp4-dq"}),
        ("finetune_lora --quantize=bnb.int8-training", {"adapter": "qlora", "quantization": "int8"}),
        ("finetune --lora_key --lora_projection true --lora_mlp true", {"lora_target_modules": "all-linear"}),
        ("finetune --lora_head true", {"lora_target_modules": ("q_proj", "v_proj", "lm_head")}),
        ("finetune --optimizer SGD --optimizer.momentum 0.9", {"optimizer": "torch.optim.SGD", "momentum": 0.9}),
        ("finetune --optimizer bitsandbytes.optim.PagedAdamW8bit", {"optimizer": "adamw_torch"}),
        ("finetune --devices 2", {"processes": 2}),
        ("finetune --data.json_path split", {"train": "split/train.json", "validation": "split/val.jsonl"}),
        ("finetune --data.prompt_style llama3", {"chat_template": None}),
        ("finetune --data.mask_prompt true", {"prompt_loss_weight": 0.0}),
    ],
)
def test_a_command_line_is_a_configuration(command: str, expected: dict[str, Any], workspace: Path) -> None:
    words = command.split(" ", 1)
    flags = "--data JSON --data.json_path rows.json" if "json_path" not in command else "--data JSON"
    job = import_job(f"litgpt {words[0]} tiny {flags} {' '.join(words[1:])}").job
    options = dict(job.provider_options.get("local", {}))
    arguments = options.pop("optimizer_arguments", {})
    actual = (
        job.hyperparameters.model_dump() | job.dataset.model_dump() | options | arguments | {"adapter": job.adapter}
    )
    assert {key: actual.get(key) for key in expected} == expected
    assert job.model == {"local": "tiny"}


def test_flags_replace_what_a_file_says(workspace: Path) -> None:
    (workspace / "lora.yaml").write_text(LORA)
    imported = import_job("litgpt finetune_lora --config lora.yaml --train.epochs 2 --optimizer.init_args.lr=1e-3 tiny")
    assert imported.job.hyperparameters.epochs == 2
    assert imported.job.hyperparameters.learning_rate == 1e-3
    assert imported.job.hyperparameters.adam_beta2 == 0.95
    assert imported.job.model == {"local": "tiny"}


def test_continued_pretraining_trains_on_texts(workspace: Path) -> None:
    imported = import_job(
        "litgpt pretrain pythia-160m --initial_checkpoint_dir EleutherAI/pythia-160m --data TextFiles"
        " --data.train_data_path texts --train.max_seq_length 128 --train.global_batch_size 4 --train.max_tokens 10_240"
        " --train.lr_warmup_steps 2"
    )
    job = imported.job
    assert (job.adapter, job.dataset.path, job.dataset.split) == ("full", "texts", (0.9, 0.1, 0.0))
    assert job.hyperparameters.max_steps == 20
    assert job.hyperparameters.max_grad_norm == 1.0
    assert job.hyperparameters.min_lr_ratio == pytest.approx(0.04)
    assert lines(imported)["train.max_tokens"].says == "20 steps of 4 rows of 128 tokens"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("litgpt chat tiny", "litgpt chat trains no model"),
        ("litgpt ", r"litgpt \(nothing\) trains no model"),
        ("litgpt finetune_adapter tiny", "LLaMA-Adapter is not there"),
        ("litgpt finetune 'tiny", "is no command line"),
        ("litgpt finetune tiny --data FLAN", "data: the rows of FLAN are not known here"),
        ("litgpt finetune tiny --data JSON", "data.json_path: is not set"),
        ("litgpt finetune tiny --data JSON --data.json_path texts", "texts has no train.json and no train.jsonl"),
        ("litgpt finetune --data JSON --data.json_path rows.json", "checkpoint_dir: is not set"),
        ("litgpt pretrain pythia-160m --data TextFiles", "initial_checkpoint_dir: is not set"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --quantize gptq", "'gptq' is not there"),
        (
            "litgpt finetune tiny --data JSON --data.json_path rows.json --lora_query false --lora_value false",
            "all off",
        ),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --optimizer lion.Lion", "not of torch.optim"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --train.epochs many", "'many' cannot be read"),
        ("litgpt finetune tiny --config nowhere.yaml", "no such job file"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --optimizer.betas 0.9", "not a pair of numbers"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --optimizer.lr 0", "learning_rate"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --quantize [a]", "is not there"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --train.global_batch_size .nan", "not a number"),
        ("litgpt finetune tiny --data JSON --data.json_path rows.json --train 5 --data.val_split_fraction 3", "split"),
    ],
)
def test_what_no_job_expresses_is_refused(source: str, sentence: str, workspace: Path) -> None:
    with pytest.raises(InvalidJob, match=sentence):
        import_job(source)


def test_the_command_writes_a_job(workspace: Path) -> None:
    from llmtune.cli.app import app

    done = CliRunner().invoke(app, ["import", "litgpt finetune tiny --data JSON --data.json_path rows.json"])
    assert done.exit_code == 0, done.output
    assert "default   lora_r = 8 -> lora_rank: not set; LitGPT's default" in done.output
    job = TuningJob.load(workspace / "job.yaml")
    assert job.dataset.path is not None
    assert job.dataset.path.endswith("rows.json")
    assert not plan(job, "local").refusals
