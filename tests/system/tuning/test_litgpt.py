"""LitGPT's own tokens, masks and losses, beside ours for the same rows and settings; LitGPT has an environment of its
own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune.importers import import_job

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")
VERSION = "0.5.13"
STEPS, ROWS, BATCH, SEED = 6, 24, 4, 7

#: LitGPT's own loop (finetune_full), on rows in the order that it is given.
SCRIPT = """
import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.loggers import CSVLogger
from torch.utils.data import DataLoader

from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import JSON, get_sft_collate_fn
from litgpt.finetune.full import fit, get_lr_scheduler
from litgpt.model import GPT
from litgpt.prompts import Default
from litgpt.tokenizer import Tokenizer
from litgpt.utils import instantiate_torch_optimizer
from safetensors.torch import load_file

settings = json.loads(Path(sys.argv[1]).read_text())
model_folder = Path(settings["model"])
shape = json.loads((model_folder / "config.json").read_text())
config = Config(
    name="tiny",
    block_size=shape["max_position_embeddings"],
    n_layer=shape["num_hidden_layers"],
    n_head=shape["num_attention_heads"],
    n_query_groups=shape["num_key_value_heads"],
    head_size=shape["head_dim"],
    n_embd=shape["hidden_size"],
    intermediate_size=shape["intermediate_size"],
    vocab_size=shape["vocab_size"],
    padded_vocab_size=shape["vocab_size"],
    rotary_percentage=1.0,
    parallel_residual=False,
    bias=False,
    norm_class_name="RMSNorm",
    norm_eps=shape["rms_norm_eps"],
    mlp_class_name="LLaMAMLP",
    rope_base=10000,
)
weights = {name: tensor.float() for name, tensor in load_file(model_folder / "model.safetensors").items()}
state = {
    "transformer.wte.weight": weights["model.embed_tokens.weight"],
    "lm_head.weight": weights["model.embed_tokens.weight"],
    "transformer.ln_f.weight": weights["model.norm.weight"],
}
for number in range(config.n_layer):
    theirs, ours = f"transformer.h.{number}.", f"model.layers.{number}."
    state[theirs + "attn.qkv.weight"] = torch.cat(
        [weights[f"{ours}self_attn.{name}_proj.weight"] for name in ("q", "k", "v")]
    )
    state[theirs + "attn.proj.weight"] = weights[ours + "self_attn.o_proj.weight"]
    state[theirs + "norm_1.weight"] = weights[ours + "input_layernorm.weight"]
    state[theirs + "norm_2.weight"] = weights[ours + "post_attention_layernorm.weight"]
    for name, own in (("fc_1", "gate_proj"), ("fc_2", "up_proj"), ("proj", "down_proj")):
        state[f"{theirs}mlp.{name}.weight"] = weights[f"{ours}mlp.{own}.weight"]
model = GPT(config)
model.load_state_dict(state)
model.lm_head.weight = model.transformer.wte.weight  # tied, as the model's own configuration says

tokenizer = Tokenizer(model_folder)
data = JSON(
    Path(settings["data"]),
    mask_prompt=settings["mask_prompt"],
    prompt_style=settings["prompt_style"] if settings["prompt_style"] == "alpaca" else Default(),
    num_workers=0,
)
data.connect(tokenizer, batch_size=settings["batch"], max_seq_length=None)
data.setup()
rows = [
    {"ids": row["input_ids"].tolist(), "labels": row["labels"].tolist()}
    for row in (data.train_dataset[number] for number in range(len(data.train_dataset)))
]
logger = CSVLogger(sys.argv[2], flush_logs_every_n_steps=1)
fabric = L.Fabric(accelerator="cpu", devices=1, precision="32-true", loggers=logger)
model = fabric.setup(model)
optimizer = fabric.setup_optimizers(
    instantiate_torch_optimizer(
        {"class_path": "torch.optim.AdamW", "init_args": {"lr": settings["rate"], "weight_decay": 0.01}},
        model.parameters(),
    )
)
collate = get_sft_collate_fn()
batches = DataLoader(data.train_dataset, batch_sampler=settings["order"], collate_fn=collate)
held_out = DataLoader(data.test_dataset, batch_size=1, collate_fn=collate)
train = TrainArgs(
    save_interval=None, log_interval=1, global_batch_size=settings["batch"], micro_batch_size=settings["batch"],
    lr_warmup_steps=settings["warmup"], epochs=100, max_steps=settings["steps"],
)
scheduler = get_lr_scheduler(optimizer, warmup_steps=settings["warmup"], max_steps=settings["steps"])
progress = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "iter_num": 0, "step_count": 0}
fit(
    fabric, progress, batches, held_out, 1, False, model_folder, Path(sys.argv[2]), train,
    EvalArgs(interval=1000, max_new_tokens=8), data,
)
import csv

metrics = next(Path(sys.argv[2]).rglob("metrics.csv"))
losses = [float(line["loss"]) for line in csv.DictReader(metrics.open()) if line.get("loss")]
Path(sys.argv[3]).write_text(json.dumps({"rows": rows, "losses": losses}))
"""

WORDS = ("invoice", "parcel", "refund", "login", "address", "colour", "receipt", "coupon", "lamp", "kettle")


def write_data(folder: Path) -> list[dict[str, str]]:
    draw = random.Random(3)
    rows = [
        {
            "instruction": f"Sort these: {' '.join(draw.choices(WORDS, k=draw.randint(2, 9)))}.",
            "output": " ".join(sorted(draw.choices(WORDS, k=draw.randint(1, 5)))),
        }
        for _ in range(ROWS)
    ]
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "val.json").write_text(json.dumps(rows[:2]))
    return rows


def ask_litgpt(python: str, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Run the script in LitGPT's environment; return its tokens, labels and losses."""
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "settings.json").write_text(json.dumps(settings))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(folder)}
    done = subprocess.run(
        [python, "script.py", "settings.json", "out", "answer.json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer


def compare(python: str, folder: Path, *, mask_prompt: bool, prompt_style: str) -> None:
    """Tune with LitGPT and with the job that its configuration becomes; compare tokens, masks and losses."""
    from llmtune_local.batching.step_order import rows_of_step
    from llmtune_local.models.hub import locate
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.trainer import Trainer

    folder.mkdir(exist_ok=True)
    write_data(folder / "data")
    command = (
        f"litgpt finetune_full tiny --data JSON --data.json_path {folder / 'data'} --data.mask_prompt {mask_prompt}"
        f" --data.prompt_style {prompt_style} --train.global_batch_size {BATCH} --train.micro_batch_size {BATCH}"
        f" --train.lr_warmup_steps 2 --train.epochs 1 --train.max_steps {STEPS} --precision 32-true --seed {SEED}"
        " --optimizer.class_path torch.optim.AdamW --optimizer.init_args.lr 1e-3"
    )
    job = import_job(command).job
    options = job.provider_options["local"]
    request = RunRequest.model_validate(
        {
            "model": "tiny",
            "adapter": job.adapter,
            "files": {"train": job.dataset.train},
            "seed": job.seed,
            "hyperparameters": job.hyperparameters.model_dump(exclude_none=True),
            "options": options | {"device": "cpu"},
        }
    )
    run = RunDir(folder / "run")
    run.write_request(request)
    trainer = Trainer(run, request, StatusWriter(run), lambda: False)
    assert trainer.run() is not None
    ours = {line.step: line.value for line in run.read_metrics()[0] if line.series == "train/loss"}
    answer = ask_litgpt(
        python,
        folder / "litgpt",
        {
            "model": str(locate("tiny")),
            "data": str(folder / "data"),
            "mask_prompt": mask_prompt,
            "prompt_style": prompt_style,
            "batch": BATCH,
            "rate": 1e-3,
            "warmup": 2,
            "steps": STEPS,
            "order": [list(rows_of_step(ROWS, BATCH, SEED, step)) for step in range(STEPS)],
        },
    )
    weight = job.hyperparameters.prompt_loss_weight
    assert weight == (0.0 if mask_prompt else 1.0)
    for (row,), theirs in zip(trainer.train.rows, answer["rows"], strict=True):
        assert row.ids.tolist() == theirs["ids"]
        learned = row.completion.tolist() if mask_prompt else [True] * len(row.ids)
        # the first token has a label there, which nothing predicts
        assert learned[1:] == [label != -100 for label in theirs["labels"]][1:]
    assert len(answer["losses"]) == STEPS == len(ours)
    for step, loss in enumerate(answer["losses"], start=1):
        assert ours[step] == pytest.approx(loss, abs=1e-3), f"step {step}: {ours}, {answer['losses']}"


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.skipif(REGISTRY is None, reason="LLMTUNE_TEST_REGISTRY is not set, and no test goes to a registry unasked")
@pytest.mark.timeout(3000)
def test_tokens_masks_and_losses_are_litgpts(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    environment_folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment_folder)], check=True)
    python = str(environment_folder / "bin" / "python")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", f"litgpt=={VERSION}"], capture_output=True, text=True, env=clean
    )
    if installed.returncode:
        pytest.skip(f"no index here: {installed.stderr[-300:]}")
    compare(python, tmp_path / "masked", mask_prompt=True, prompt_style="alpaca")
    compare(python, tmp_path / "whole", mask_prompt=False, prompt_style="litgpt.prompts.Default")
