"""Configurations of other trainers become jobs, and every key is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import llmtune
from llmtune.errors import InvalidJob
from llmtune.importing import Imported, import_job
from llmtune.job import TuningJob

ROWS = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]} for n in range(30)
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"q {n}"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    for n in range(30)
]

#: The keys of the trainers' own published examples, each with a value it could have there.
AXOLOTL_ALWAYS = """
base_model: tiny
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
load_in_8bit: false
strict: false
dataset_prepared_path: last_run_prepared
output_dir: ./outputs/out
sequence_len: 256
pad_to_sequence_len: true
wandb_project:
wandb_name: mine
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
lr_scheduler: cosine
learning_rate: 2e-4
group_by_length: false
bf16: auto
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
special_tokens:
  pad_token: <|end|>
"""
AXOLOTL = {
    "lora": """
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
datasets: [{path: rows.jsonl, type: chat_template, field_messages: messages, message_field_role: role}]
chat_template: llama3
val_set_size: 0.05
train_on_inputs: false
optimizer: adamw_bnb_8bit
warmup_steps: 10
sample_packing: false
""",
    "qlora": """
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
datasets: [{path: rows.jsonl, type: chat_template}]
val_set_size: 0
optimizer: paged_adamw_32bit
warmup_ratio: 0.1
sample_packing: true
""",
    "full": """
datasets: [{path: rows.jsonl}]
val_set_size: 0.1
optimizer: paged_adamw_8bit
warmup_steps: 100
sample_packing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
""",
    "dpo": """
rl: dpo
adapter: lora
lora_r: 8
lora_alpha: 16
datasets: [{path: pairs.jsonl, type: chat_template.default, field_chosen: chosen, field_rejected: rejected}]
dataset_exact_deduplication: true
val_set_size: 0
optimizer: adamw_torch
dpo_beta: 0.2
""",
    "dora": """
adapter: lora
peft_use_dora: true
lora_r: 8
lora_alpha: 16
lora_mlp_kernel: true
datasets: [{path: rows.jsonl}, {path: more.jsonl}]
val_set_size: 0.1
optimizer: adamw_torch_fused
train_on_inputs: true
early_stopping_patience: 3
eval_steps: 20
""",
    "hub": """
adapter: lora
lora_r: 8
lora_alpha: 16
datasets: [{path: tatsu-lab/alpaca, type: alpaca}]
val_set_size: 0.05
optimizer: lion_pytorch
some_new_key: 7
""",
}
FACTORY_ALWAYS = """
model_name_or_path: tiny
trust_remote_code: true
do_train: true
template: qwen3_nothink
cutoff_len: 256
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves/out
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
FACTORY = {
    "lora": "stage: sft\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: chats,others\n",
    "qlora": "stage: sft\nfinetuning_type: lora\nquantization_bit: 4\nlora_target: q_proj,v_proj\ndataset: chats\n",
    "full": "stage: sft\nfinetuning_type: full\ndataset: chats\ndeepspeed: ds_z3_config.json\nval_size: 0.1\n"
    "per_device_eval_batch_size: 1\neval_strategy: steps\neval_steps: 50\n",
    "dpo": "stage: dpo\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\npref_beta: 0.1\npref_loss: sigmoid\n"
    "dataset: pairs\n",
    "dora": "stage: sft\nfinetuning_type: lora\nuse_dora: true\nlora_rank: 4\ndataset: chats\npacking: true\n",
    "eval": "stage: sft\nfinetuning_type: lora\ndataset: chats\neval_dataset: held_out\ntrain_on_prompt: true\n"
    "a_key_of_tomorrow: 1\n",
}
TRL_ALWAYS = """
model_name_or_path: tiny
dataset_name: rows.jsonl
output_dir: out
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 2.0e-4
num_train_epochs: 1
lr_scheduler_type: cosine
logging_steps: 25
eval_strategy: steps
eval_steps: 100
bf16: true
report_to: trackio
push_to_hub: true
"""
TRL = {
    "lora": "use_peft: true\nlora_r: 32\nlora_alpha: 16\nmax_length: 256\ncompletion_only_loss: true\n",
    "full": "max_length: 256\npacking: true\npacking_strategy: bfd\ngradient_checkpointing: true\n",
    "qlora": "use_peft: true\nload_in_4bit: true\nlora_r: 16\nmax_length: 256\nassistant_only_loss: true\n",
    "dpo": "loss_type: [sigmoid]\nbeta: 0.1\nmax_length: 256\nuse_peft: true\ndataset_num_proc: 8\n",
    "warmup": "warmup_steps: 0.03\nmax_length: 256\ncompletion_only_loss: false\nuse_peft: true\nlora_r: 8\n"
    "optim: adamw_8bit\n",
    "defaults": "dataset_text_field: text\nnot_a_key: 1\n",
}
EVERY = [
    *(("axolotl", name, AXOLOTL_ALWAYS + text) for name, text in AXOLOTL.items()),
    *(("llamafactory", name, FACTORY_ALWAYS + text) for name, text in FACTORY.items()),
    *(("trl", name, TRL_ALWAYS + text) for name, text in TRL.items()),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, rows in (("rows", ROWS), ("more", ROWS), ("pairs", PAIRS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "chats.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    (folder / "held.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("q ", "other "))
    (folder / "pairs.jsonl").write_text((tmp_path / "pairs.jsonl").read_text())
    info = {
        "chats": {"file_name": "chats.jsonl", "formatting": "chat"},
        "held_out": {"file_name": "held.jsonl", "formatting": "chat"},
        "pairs": {"file_name": "pairs.jsonl", "ranking": True},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def keys_of(text: str) -> set[str]:
    from ruamel.yaml import YAML

    return {key for key, value in YAML(typ="safe", pure=True).load(text).items() if value is not None}


def answered(found: Imported) -> set[str]:
    return {line.key.partition("[")[0] for line in found.lines}


@pytest.mark.parametrize(("tool", "name", "text"), EVERY, ids=lambda value: value if len(str(value)) < 20 else "")
def test_every_key_is_answered_and_the_job_is_planned(
    tool: str, name: str, text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = place / f"{tool}-{name}.yaml"
    config.write_text(text)
    monkeypatch.chdir(place)
    found = import_job(config)  # recognised without being told
    missing = keys_of(text) - answered(found)
    if tool == "trl":
        missing -= {"dataset_name"} if "dataset_name" in answered(found) else set()
    assert not missing
    assert all(line.says for line in found.left_out), [line.key for line in found.left_out if not line.says]
    found.job.save(place / "job.yaml")
    job = TuningJob.load(place / "job.yaml")
    assert job.hyperparameters == found.job.hyperparameters
    if "hub" in name:
        return  # its rows are elsewhere
    receipt = llmtune.plan(job, "local")
    refused = [text for text in receipt.refusals if "4-bit" not in text and "DPO" not in text]
    assert not refused


def test_axolotls_values_keep_their_meaning(place: Path) -> None:
    (place / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["lora"])
    found = import_job(place / "c.yaml")
    job, chosen = found.job, found.job.hyperparameters
    assert job.model == {"local": "tiny"}
    assert job.adapter == "lora"
    assert (chosen.batch_size, chosen.epochs, chosen.learning_rate, chosen.lr_schedule) == (8, 4, 2e-4, "cosine")
    assert (chosen.lora_rank, chosen.lora_alpha, chosen.lora_target_modules) == (32, 16, "all-linear")
    assert (chosen.warmup_steps, chosen.prompt_loss_weight, chosen.optimizer) == (10, 0.0, "adamw_torch")
    assert chosen.max_sequence_length == 256
    assert job.dataset.on_too_long == "drop"
    assert job.dataset.split == pytest.approx((0.95, 0.05, 0.0))
    assert job.seed == 42
    assert job.provider_options == {"local": {"gradient_checkpointing": True}}
    said = {line.key: line for line in found.lines}
    assert said["optimizer"].word == "converted"
    assert "2 rows x 4 passes = 8 rows" in said["micro_batch_size"].says
    assert said["wandb_name"].word == "left out"


def test_an_optimizer_that_is_not_there_is_left_out_by_name(place: Path) -> None:
    (place / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["hub"])
    found = import_job(place / "c.yaml")
    left = {line.key: line.says for line in found.left_out}
    assert "lion_pytorch" in left["optimizer"]
    assert "not known to llmtune" in left["some_new_key"]
    assert found.job.hyperparameters.optimizer is None
    assert found.job.dataset.path == "hf://tatsu-lab/alpaca"
    assert found.job.dataset.format == "alpaca"


def test_llamafactorys_dataset_is_found_through_its_list(place: Path) -> None:
    (place / "c.yaml").write_text(FACTORY_ALWAYS + FACTORY["eval"])
    found = import_job(place / "c.yaml")
    assert Path(str(found.job.dataset.train)).name == "chats.jsonl"
    assert Path(str(found.job.dataset.validation)).name == "held.jsonl"
    assert found.job.hyperparameters.prompt_loss_weight == 1.0
    assert found.job.dataset.on_too_long == "truncate"
    assert found.job.provider_options == {"local": {"dtype": "bfloat16"}}
    (place / "c.yaml").write_text((FACTORY_ALWAYS + FACTORY["lora"]).replace("dataset: chats,others", "dataset: lost"))
    lost = import_job(place / "c.yaml")
    assert lost.job.dataset.path == "data/lost.json"
    assert any("put its path here" in line.says for line in lost.lines)


def test_trls_defaults_are_written_down(place: Path) -> None:
    (place / "c.yaml").write_text("model_name_or_path: tiny\nmax_length: 256\ndataset_name: trl-lib/Capybara\n")
    found = import_job(place / "c.yaml")
    chosen = found.job.hyperparameters
    assert (chosen.learning_rate, chosen.epochs, chosen.batch_size, chosen.lr_schedule) == (2e-5, 3, 8, "linear")
    assert found.job.seed == 42
    assert found.job.adapter == "full"
    defaults = {line.key for line in found.lines if line.word == "default"}
    assert {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed"} <= defaults
    assert found.job.dataset.path == "hf://trl-lib/Capybara"


def test_trls_warmup_below_one_is_a_share(place: Path) -> None:
    (place / "c.yaml").write_text(TRL_ALWAYS + TRL["warmup"])
    chosen = import_job(place / "c.yaml").job.hyperparameters
    assert chosen.warmup_ratio == 0.03
    assert chosen.warmup_steps is None
    assert chosen.prompt_loss_weight == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (AXOLOTL_ALWAYS + "rl: kto\ndatasets: [{path: rows.jsonl}]\n", "rl: 'kto' is not there"),
        (AXOLOTL_ALWAYS, "datasets: names no dataset"),
        (FACTORY_ALWAYS + "stage: ppo\n", "stage: 'ppo' is not there"),
        (FACTORY_ALWAYS + "stage: sft\nfinetuning_type: freeze\ndataset: chats\n", "finetuning_type: 'freeze'"),
        (FACTORY_ALWAYS + "stage: dpo\npref_loss: orpo\ndataset: chats\n", "pref_loss: 'orpo'"),
        ("learning_rate: 1\n", "whose configuration"),
        ("base_model: [\n", "broken YAML"),
    ],
)
def test_what_no_job_expresses_is_refused_by_its_key(text: str, words: str, place: Path) -> None:
    (place / "c.yaml").write_text(text)
    with pytest.raises(InvalidJob, match=words):
        import_job(place / "c.yaml")


def test_a_value_out_of_range_names_the_file(place: Path) -> None:
    text = (AXOLOTL_ALWAYS + AXOLOTL["lora"]).replace("lora_dropout: 0.05", "lora_dropout: 3")
    (place / "c.yaml").write_text(text)
    with pytest.raises(InvalidJob, match=r"c\.yaml.*lora_dropout"):
        import_job(place / "c.yaml")


def test_the_command_writes_the_job_and_names_what_did_not_map(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.cli.app import app

    monkeypatch.chdir(place)
    (place / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["dora"])
    shown = CliRunner().invoke(app, ["import", "c.yaml"])
    assert shown.exit_code == 0, shown.output
    assert "left out  evals_per_epoch" in shown.output
    assert "left out  datasets[1]" in shown.output
    assert TuningJob.load("job.yaml").adapter == "dora"
    elsewhere = CliRunner().invoke(app, ["import", "c.yaml", "--out", "jobs/mine.yaml"])
    assert elsewhere.exit_code == 0, elsewhere.output
    assert len(Path(str(TuningJob.load("jobs/mine.yaml").dataset.path)).read_text().splitlines()) == 30
    again = CliRunner().invoke(app, ["import", "c.yaml"])
    assert again.exit_code != 0
    told = json.loads(CliRunner().invoke(app, ["import", "c.yaml", "--json"]).stdout)
    assert told["job"]["adapter"] == "dora"
    assert any(line["word"] == "left out" for line in told["lines"])


def test_a_vendors_job_becomes_a_job_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.cli.app import app
    from llmtune.runs import Pace, start
    from llmtune_openai.fake import FakeOpenAI

    monkeypatch.chdir(place)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LLMTUNE_HOME", str(place / "elsewhere"))
            made = TuningJob(
                name="router",
                dataset=str(place / "rows.jsonl"),
                model="gpt-4.1-mini-2025-04-14",
                hyperparameters=llmtune.Hyperparameters(**options),
            )
            start(made, "openai", yes=True).wait(pace=Pace(first=0.01, most=0.05))
        (job,) = vendor.jobs
        shown = CliRunner().invoke(app, ["import", job, "--from", "openai", "--out", "out/job.yaml"])
        assert shown.exit_code == 0, shown.output
        kept = TuningJob.load(place / "out/job.yaml")
        assert kept.model == {"openai": "gpt-4.1-mini-2025-04-14"}
        assert {name: getattr(kept.hyperparameters, name) for name in options} == options
        assert len(Path(str(kept.dataset.train)).read_text().splitlines()) == 24
        assert "data/train.jsonl" in (place / "out/job.yaml").read_text()
        assert not vendor.complaints
