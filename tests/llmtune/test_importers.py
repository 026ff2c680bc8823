"""Configurations of other trainers become jobs, and every key is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import llmtune
from llmtune.data.dataset import Dataset
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune.importers import import_job
from llmtune.importers.keys import Imported, ImportLine
from llmtune.job.spec import TuningJob
from llmtune.testing.faults import refusal
from llmtune_openai.fake.service import FakeOpenAI

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
    "hub": "max_length: null\ndataset_config: main\nuse_peft: true\nlora_target_modules: all-linear\n",
}
EVERY = [
    *(("axolotl", name, AXOLOTL_ALWAYS + text) for name, text in AXOLOTL.items()),
    *(("llamafactory", name, FACTORY_ALWAYS + text) for name, text in FACTORY.items()),
    *(
        ("trl", name, TRL_ALWAYS.replace("rows.jsonl", "teknium/Open-2.5" if name == "hub" else "rows.jsonl") + text)
        for name, text in TRL.items()
    ),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
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


def imported(workspace: Path, text: str) -> Imported:
    (workspace / "c.yaml").write_text(text)
    return import_job(workspace / "c.yaml")


def told(result: Imported) -> dict[str, ImportLine]:
    return {line.key: line for line in result.lines}


def keys_of(text: str) -> set[str]:
    from ruamel.yaml import YAML

    return {key for key, value in YAML(typ="safe", pure=True).load(text).items() if value is not None}


def answered(result: Imported) -> set[str]:
    return {line.key.partition("[")[0] for line in result.lines}


@pytest.mark.parametrize(("tool", "name", "text"), EVERY, ids=lambda value: value if len(str(value)) < 20 else "")
def test_every_key_is_answered_and_the_job_is_planned(
    tool: str, name: str, text: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workspace / f"{tool}-{name}.yaml"
    config.write_text(text)
    monkeypatch.chdir(workspace)
    result = import_job(config)  # recognised without being told
    assert not keys_of(text) - answered(result)
    assert all(line.says for line in result.left_out), [line.key for line in result.left_out if not line.says]
    result.job.save(workspace / "job.yaml")
    job = TuningJob.load(workspace / "job.yaml")
    assert job.hyperparameters == result.job.hyperparameters
    if "hub" in name:
        return  # its rows are elsewhere
    receipt = llmtune.plan(job, "local")
    refused = [text for text in receipt.refusals if "4-bit" not in text and "DPO" not in text]
    assert not refused


def test_axolotls_values_keep_their_meaning(workspace: Path) -> None:
    (workspace / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["lora"])
    result = import_job(workspace / "c.yaml")
    job, chosen = result.job, result.job.hyperparameters
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
    line = {line.key: line for line in result.lines}
    assert line["optimizer"].word == "converted"
    assert "2 rows x 4 passes = 8 rows" in line["micro_batch_size"].says
    assert line["wandb_name"].word == "left out"


def test_an_optimizer_that_is_not_there_is_left_out_by_name(workspace: Path) -> None:
    (workspace / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["hub"])
    result = import_job(workspace / "c.yaml")
    left_out = {line.key: line.says for line in result.left_out}
    assert "lion_pytorch" in left_out["optimizer"]
    assert "not known to llmtune" in left_out["some_new_key"]
    assert result.job.hyperparameters.optimizer is None
    assert result.job.dataset.path == "hf://tatsu-lab/alpaca"
    assert result.job.dataset.format == "alpaca"


def test_llamafactorys_dataset_is_found_through_its_list(workspace: Path) -> None:
    (workspace / "c.yaml").write_text(FACTORY_ALWAYS + FACTORY["eval"])
    result = import_job(workspace / "c.yaml")
    assert Path(str(result.job.dataset.train)).name == "chats.jsonl"
    assert Path(str(result.job.dataset.validation)).name == "held.jsonl"
    assert result.job.hyperparameters.prompt_loss_weight == 1.0
    assert result.job.dataset.on_too_long == "truncate"
    assert result.job.provider_options == {"local": {"dtype": "bfloat16"}}
    (workspace / "c.yaml").write_text(
        (FACTORY_ALWAYS + FACTORY["lora"]).replace("dataset: chats,others", "dataset: lost")
    )
    lost = import_job(workspace / "c.yaml")
    assert lost.job.dataset.path == "data/lost.json"
    assert any("put its path here" in line.says for line in lost.lines)


def test_trls_defaults_are_written_down(workspace: Path) -> None:
    (workspace / "c.yaml").write_text("model_name_or_path: tiny\nmax_length: 256\ndataset_name: trl-lib/Capybara\n")
    result = import_job(workspace / "c.yaml")
    chosen = result.job.hyperparameters
    assert (chosen.learning_rate, chosen.epochs, chosen.batch_size, chosen.lr_schedule) == (2e-5, 3, 8, "linear")
    assert result.job.seed == 42
    assert result.job.adapter == "full"
    defaults = {line.key for line in result.lines if line.word == "default"}
    assert {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed"} <= defaults
    assert result.job.dataset.path == "hf://trl-lib/Capybara"


def test_trls_warmup_below_one_is_a_share(workspace: Path) -> None:
    (workspace / "c.yaml").write_text(TRL_ALWAYS + TRL["warmup"])
    chosen = import_job(workspace / "c.yaml").job.hyperparameters
    assert chosen.warmup_ratio == 0.03
    assert chosen.warmup_steps is None
    assert chosen.prompt_loss_weight == 1.0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (AXOLOTL_ALWAYS + AXOLOTL["qlora"], 256),
        (FACTORY_ALWAYS + FACTORY["dora"], 256),
        (TRL_ALWAYS + TRL["full"], 256),
    ],
)
def test_a_trainer_that_packs_counts_packs_and_the_receipt_says_so(text: str, length: int, workspace: Path) -> None:
    (line,) = [
        line
        for line in imported(workspace, text).lines
        if line.key in ("micro_batch_size", "per_device_train_batch_size")
    ]
    assert f"counts packs of up to {length} tokens where llmtune counts rows" in line.says
    plain = imported(workspace, text.replace("packing: true", "packing: false"))
    assert not any("counts packs" in line.says for line in plain.lines)


def test_a_schedule_and_what_is_set_beside_it(workspace: Path) -> None:
    text = TRL_ALWAYS.replace("lr_scheduler_type: cosine", "lr_scheduler_type: cosine_with_min_lr")
    result = imported(
        workspace, text + "lr_scheduler_kwargs: {min_lr: 2.0e-5, num_cycles: 1, timescale: 3}\nmax_length: 256\n"
    )
    chosen = result.job.hyperparameters
    assert (chosen.lr_schedule, chosen.min_lr_ratio, chosen.lr_num_cycles) == ("cosine_with_min_lr", 0.1, 1)
    assert "no such setting" in told(result)["lr_scheduler_kwargs.timescale"].says
    rex = imported(workspace, (AXOLOTL_ALWAYS + AXOLOTL["lora"]).replace("lr_scheduler: cosine", "lr_scheduler: rex"))
    assert rex.job.hyperparameters.lr_schedule is None
    assert "the schedule rex is not there" in told(rex)["lr_scheduler"].says


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw_bnb_8bit", "adamw_torch"),
        ("paged_adamw_32bit", "adamw_torch"),
        ("adamw_torch_fused", "adamw_torch_fused"),
        ("galore_adamw_8bit", None),  # another update rule under a like name
        ("schedule_free_adamw", None),
    ],
)
def test_optimizers_go_by_their_update_rule(name: str, expected: str | None, workspace: Path) -> None:
    text = (AXOLOTL_ALWAYS + AXOLOTL["full"]).replace("paged_adamw_8bit", name)
    assert imported(workspace, text).job.hyperparameters.optimizer == expected


def test_axolotl_warms_up_when_it_is_not_told_to(workspace: Path) -> None:
    assert imported(workspace, AXOLOTL_ALWAYS + AXOLOTL["dpo"]).job.hyperparameters.warmup_ratio == 0.03
    told_to = imported(workspace, AXOLOTL_ALWAYS + AXOLOTL["lora"]).job.hyperparameters
    assert (told_to.warmup_ratio, told_to.warmup_steps) == (None, 10)


def test_steps_count_only_where_the_strategy_says_so(workspace: Path) -> None:
    text = FACTORY_ALWAYS + FACTORY["full"]
    assert imported(workspace, text).job.hyperparameters.eval_every == 50
    result = imported(workspace, text.replace("eval_strategy: steps", "save_strategy: epoch"))
    assert (result.job.hyperparameters.eval_every, result.job.hyperparameters.checkpoint_every) == (None, None)
    assert "only with eval_strategy: steps" in told(result)["eval_steps"].says


def test_a_warmup_of_both_kinds_is_read_as_the_trainer_reads_it(workspace: Path) -> None:
    both = FACTORY_ALWAYS + FACTORY["lora"] + "max_steps: -1\n"
    zero = imported(workspace, both + "warmup_steps: 0\n").job.hyperparameters
    assert (zero.warmup_ratio, zero.warmup_steps, zero.max_steps) == (0.1, None, None)
    result = imported(workspace, both + "warmup_steps: 20\n")
    assert (result.job.hyperparameters.warmup_ratio, result.job.hyperparameters.warmup_steps) == (None, 20)
    assert told(result)["warmup_ratio"].word == "left out"


def test_trl_trains_lora_only_with_use_peft(workspace: Path) -> None:
    result = imported(workspace, TRL_ALWAYS + "lora_r: 8\nmax_length: 256\n")
    assert result.job.adapter == "full"
    assert "only with use_peft" in told(result)["lora_r"].says
    with_it = imported(workspace, TRL_ALWAYS + "lora_r: 8\nuse_peft: true\nuse_rslora: true\nmax_length: null\n")
    assert with_it.job.adapter == "lora"
    assert with_it.job.provider_options["local"]["rslora"] is True
    assert with_it.job.hyperparameters.max_sequence_length is None
    assert "PEFT then takes its own list" in told(with_it)["lora_target_modules"].says


def test_where_no_key_says_what_is_trained_trl_goes_by_the_rows(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "pc.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    plain = TRL_ALWAYS + "max_length: 256\n"
    for rows, weight in (("rows.jsonl", 1.0), ("pc.jsonl", 0.0), ("elsewhere.jsonl", None)):
        result = imported(workspace, plain.replace("rows.jsonl", rows))
        assert result.job.hyperparameters.prompt_loss_weight == weight


def test_trls_own_loss_and_a_mixture_of_datasets(workspace: Path) -> None:
    text = TRL_ALWAYS.replace(
        "dataset_name: rows.jsonl", "datasets: [{path: trl-lib/Capybara, split: test}, {path: b/c}]"
    )
    result = imported(workspace, text + "loss_type: chunked_nll\nmax_length: 256\n")
    assert result.job.method == "sft"
    assert result.job.dataset.path == "hf://trl-lib/Capybara?split=test"
    assert told(result)["datasets[1]"].word == "left out"


def test_llamafactorys_columns_and_tags_are_answered(workspace: Path) -> None:
    rows = [{"question": f"q {n}", "answer": f"a {n}"} for n in range(30)]
    (workspace / "data" / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hub = {"hf_hub_url": "acme/chats-1.5", "subset": "en", "formatting": "sharegpt", "odd": 1}
    messages = {"columns": {"messages": "messages"}, "tags": {"role_tag": "role", "content_tag": "content"}}
    info = {
        "qa": {"file_name": "qa.jsonl", "columns": {"prompt": "question", "response": "answer", "kto_tag": "x"}},
        "hub": hub | messages,
    }
    (workspace / "data" / "dataset_info.json").write_text(json.dumps(info))
    result = imported(workspace, (FACTORY_ALWAYS + FACTORY["qlora"]).replace("dataset: chats", "dataset: qa"))
    assert result.job.dataset.columns == {"instruction": "question", "output": "answer"}
    assert told(result)["dataset_info.json: qa.columns.kto_tag"].word == "left out"
    assert llmtune.plan(result.job, "local").refusals == ()
    assert len(Dataset.from_spec(result.job.dataset).train) == 30
    away = imported(workspace, (FACTORY_ALWAYS + FACTORY["qlora"]).replace("dataset: chats", "dataset: hub"))
    assert away.job.dataset.path == "hf://acme/chats-1.5?config=en"
    assert "not known to llmtune" in told(away)["dataset_info.json: hub.odd"].says


def test_secrets_are_not_repeated(workspace: Path) -> None:
    result = imported(
        workspace, TRL_ALWAYS + "max_length: 256\nhub_token: hf_abc\nwandb_api_key: k123\neos_token: <e>\n"
    )
    assert "hf_abc" not in result.model_dump_json()
    assert "k123" not in result.model_dump_json()
    assert told(result)["eos_token"].value == "<e>"


@pytest.mark.slow
def test_every_field_of_the_real_configurations_is_known(workspace: Path) -> None:
    trl = pytest.importorskip("trl")
    import dataclasses

    scripts = dataclasses.asdict(trl.ModelConfig(model_name_or_path="tiny", use_peft=True))
    scripts |= dataclasses.asdict(trl.ScriptArguments(dataset_name="rows.jsonl"))
    for config, method in ((trl.SFTConfig, "sft"), (trl.DPOConfig, "dpo")):
        keys = json.loads(config(output_dir="out", bf16=False).to_json_string()) | scripts
        (workspace / "c.json").write_text(json.dumps(keys, default=str))
        result = import_job(workspace / "c.json")
        assert (result.job.method, result.job.adapter) == (method, "lora")
        assert not [line.key for line in result.left_out if "not known" in line.says]
        assert llmtune.plan(result.job, "local").refusals == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AXOLOTL_ALWAYS + "rl: kto\ndatasets: [{path: rows.jsonl}]\n", "rl: 'kto' is not there"),
        (AXOLOTL_ALWAYS, "datasets: names no dataset"),
        (FACTORY_ALWAYS + "stage: ppo\n", "stage: 'ppo' is not there"),
        (FACTORY_ALWAYS + "stage: sft\nfinetuning_type: freeze\ndataset: chats\n", "finetuning_type: 'freeze'"),
        (FACTORY_ALWAYS + "stage: dpo\npref_loss: orpo\ndataset: chats\n", "pref_loss: 'orpo'"),
        (TRL_ALWAYS + "max_length: 256\nnum_generations: 8\nbeta: 0.04\n", "num_generations: is of a GRPOConfig"),
        (TRL_ALWAYS + "max_length: 256\nbeta: 0.1\nf_divergence_type: js_divergence\n", "f_divergence_type: 'js"),
        (AXOLOTL_ALWAYS.replace("2e-4", "fast") + AXOLOTL["lora"], "learning_rate: 'fast' cannot be read"),
        (FACTORY_ALWAYS + "dataset: chats\nval_size: some\n", "val_size: 'some' is not a number"),
        ("learning_rate: 1\n", "which trainer this configuration is for"),
        ("base_model: [\n", "broken YAML"),
    ],
)
def test_what_no_job_expresses_is_refused_by_its_key(text: str, message: str, workspace: Path) -> None:
    (workspace / "c.yaml").write_text(text)
    with pytest.raises(InvalidJob, match=message):
        import_job(workspace / "c.yaml")


def test_a_value_out_of_range_names_the_file(workspace: Path) -> None:
    text = (AXOLOTL_ALWAYS + AXOLOTL["lora"]).replace("lora_dropout: 0.05", "lora_dropout: 3")
    (workspace / "c.yaml").write_text(text)
    with pytest.raises(InvalidJob, match=r"c\.yaml.*lora_dropout"):
        import_job(workspace / "c.yaml")


def test_the_command_writes_the_job_and_names_what_did_not_map(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtune.cli.app import app

    monkeypatch.chdir(workspace)
    (workspace / "c.yaml").write_text(AXOLOTL_ALWAYS + AXOLOTL["dora"])
    outcome = CliRunner().invoke(app, ["import", "c.yaml"])
    assert outcome.exit_code == 0, outcome.output
    assert "left out  evals_per_epoch" in outcome.output
    assert "left out  datasets[1]" in outcome.output
    assert TuningJob.load("job.yaml").adapter == "dora"
    elsewhere = CliRunner().invoke(app, ["import", "c.yaml", "--out", "jobs/mine.yaml"])
    assert elsewhere.exit_code == 0, elsewhere.output
    assert len(Path(str(TuningJob.load("jobs/mine.yaml").dataset.path)).read_text().splitlines()) == 30
    again = CliRunner().invoke(app, ["import", "c.yaml"])
    assert again.exit_code != 0
    output = json.loads(CliRunner().invoke(app, ["import", "c.yaml", "--json"]).stdout)
    assert output["job"]["adapter"] == "dora"
    assert any(line["word"] == "left out" for line in output["lines"])


def test_python_is_not_run(workspace: Path) -> None:
    (workspace / "train.py").write_text("from trl import SFTConfig\n")
    with pytest.raises(InvalidJob, match="Python is not run") as caught:
        import_job(workspace / "train.py")
    assert "to_json_string" in str(caught.value.hint)


def test_a_vendors_job_becomes_a_job_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.cli.app import app
    from llmtune.runs.api import start
    from llmtune.runs.poller import PollInterval

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LLMTUNE_HOME", str(workspace / "elsewhere"))
            job_spec = TuningJob(
                name="router",
                dataset=str(workspace / "rows.jsonl"),
                model="gpt-4.1-mini-2025-04-14",
                hyperparameters=llmtune.Hyperparameters(**options),
            )
            start(job_spec, "openai", yes=True).wait(pace=PollInterval(first=0.01, most=0.05))
        (job,) = vendor.jobs
        outcome = CliRunner().invoke(app, ["import", job, "--from", "openai", "--out", "out/job.yaml"])
        assert outcome.exit_code == 0, outcome.output
        imported_job = TuningJob.load(workspace / "out/job.yaml")
        assert imported_job.model == {"openai": "gpt-4.1-mini-2025-04-14"}
        assert {name: getattr(imported_job.hyperparameters, name) for name in options} == options
        assert len(Path(str(imported_job.dataset.train)).read_text().splitlines()) == 24
        assert Path(str(imported_job.dataset.train)).resolve().is_relative_to(workspace / "out" / "data")
        assert str(workspace) not in (workspace / "out/job.yaml").read_text(), "the folder can be moved as a whole"
        assert not vendor.complaints


@pytest.fixture
def two_jobs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """Run a vendor with two jobs of one name, each trained on rows of its own."""
    from llmtune.runs.api import start
    from llmtune.runs.poller import PollInterval

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LLMTUNE_HOME", str(workspace / "elsewhere"))
            for number in (1, 2):
                rows = workspace / f"rows-{number}.jsonl"
                rows.write_text((workspace / "rows.jsonl").read_text().replace("q ", f"question {number}-"))
                job = TuningJob(name="router", dataset=str(rows), model="gpt-4.1-mini-2025-04-14")
                start(job, "openai", yes=True, allow_unknown_cost=True).wait(pace=PollInterval(first=0.01, most=0.05))
        assert len(vendor.jobs) == 2
        yield vendor
        assert not vendor.complaints


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(vendor: FakeOpenAI) -> int:
    return sum(call.path.endswith("/content") for call in vendor.requests)


def import_with(*arguments: str) -> Result:
    from llmtune.cli.app import app

    return CliRunner().invoke(app, ["import", *arguments, "--from", "openai"])


def test_two_imports_share_no_file(two_jobs: FakeOpenAI, workspace: Path) -> None:
    for number, job in enumerate(two_jobs.jobs, start=1):
        outcome = import_with(job, "--out", f"out/{number}.yaml", "--overwrite")
        assert outcome.exit_code == 0, outcome.output
    for number in (1, 2):
        dataset = TuningJob.load(workspace / f"out/{number}.yaml").dataset
        for path in (dataset.train, dataset.validation):
            text = Path(str(path)).read_text()
            assert f"question {number}-" in text
            assert f"question {3 - number}-" not in text


def test_an_import_replaces_no_file_and_fetches_nothing_then(two_jobs: FakeOpenAI, workspace: Path) -> None:
    first, second = two_jobs.jobs
    assert import_with(first, "--out", "out/job.yaml").exit_code == 0
    before, looks = files_of(workspace / "out"), fetched(two_jobs)
    # The job file; the training rows, for a job file of another name and where none is written.
    for arguments, file in (
        ([second, "--out", "out/job.yaml"], "job.yaml"),
        ([first, "--out", "out/other.yaml"], "train.jsonl"),
        ([first, "--out", "out/other.yaml", "--json"], "train.jsonl"),
    ):
        refused = import_with(*arguments)
        assert refused.exit_code != 0
        assert isinstance(refused.exception, LlmtuneError)
        assert file in refused.exception.message
        hint = str(refused.exception.hint)
        assert "--out" in hint
        assert "--overwrite" in hint
    with pytest.raises(LlmtuneError, match="already there"):
        import_job(first, "openai", data=workspace / "out" / "data")
    assert files_of(workspace / "out") == before
    assert fetched(two_jobs) == looks
    assert import_with(first, "--out", "elsewhere.yaml").exit_code == 0, "its rows are beside the other job file"


def test_a_file_is_replaced_when_that_is_asked_for(two_jobs: FakeOpenAI, workspace: Path) -> None:
    job = next(iter(two_jobs.jobs))
    assert import_with(job, "--out", "out/job.yaml").exit_code == 0
    before = files_of(workspace / "out")
    for name in before:
        (workspace / "out" / name).write_text("changed")
    assert import_with(job, "--out", "out/job.yaml", "--overwrite").exit_code == 0
    assert files_of(workspace / "out") == before
    (workspace / "out/data").rename(workspace / "moved")
    import_job(job, "openai", data=workspace / "out" / "data")
    for path in (workspace / "out/data").rglob("*.jsonl"):
        path.write_text("changed")
    import_job(job, "openai", data=workspace / "out" / "data", overwrite=True)
    assert files_of(workspace / "out") == before


def test_an_import_whose_second_file_does_not_come_leaves_nothing_and_can_be_tried_again(
    two_jobs: FakeOpenAI, workspace: Path
) -> None:
    job = next(iter(two_jobs.jobs))
    two_jobs.faults.add(refusal(503, "overloaded"), route="get_content", after=1)
    assert import_with(job, "--out", "out/job.yaml").exit_code != 0
    assert files_of(workspace / "out") == {}
    assert import_with(job, "--out", "out/job.yaml").exit_code == 0


def test_a_training_file_that_has_expired_still_gives_a_job(two_jobs: FakeOpenAI, workspace: Path) -> None:
    job, record = next(iter(two_jobs.jobs.items()))
    for role in ("training_file", "validation_file"):
        del two_jobs.files[record.body[role]]
    outcome = import_with(job, "--out", "out/job.yaml")
    assert outcome.exit_code == 0, outcome.output
    job_file = TuningJob.load(workspace / "out/job.yaml")
    assert job_file.dataset.validation is None
    assert not Path(str(job_file.dataset.train)).exists()
    assert f"put your own copy of the rows at {job_file.dataset.train}" in outcome.stdout
    assert "left out  validation file" in outcome.stdout


def test_every_key_of_a_vendors_job_is_answered(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    rows = (workspace / "rows.jsonl").read_bytes()
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        model = vendor.add_tuned_model(
            train=rows,
            suffix="router",
            job_id="ft-AF1legacy0001",  # ids were once spelled so
            metadata={"team": "search", "llmtune_run": "abc"},
            integrations=[{"type": "wandb", "wandb": {"project": "tickets", "name": None}}],
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
        )
        vendor.told = {"hyperparameters": {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": "auto"}}
        result = import_job(model, "openai", data=workspace / "data")
        record = vendor.describe_job(vendor.jobs["ft-AF1legacy0001"])
    lines = {line.key: line for line in result.lines}
    assert lines["n_epochs"].field == "hyperparameters.epochs"
    assert result.job.hyperparameters.epochs == 4
    assert lines["learning_rate_multiplier"].word == "left out"
    assert "chose it by itself" in lines["learning_rate_multiplier"].says
    assert result.job.hyperparameters.learning_rate_multiplier is None
    assert lines["integrations"].field == "provider_options.openai.wandb"
    assert result.job.provider_options == {"openai": {"wandb": {"project": "tickets"}}}
    assert lines["metadata.team"].field == "tags.team"
    assert result.job.tags == {"team": "search"}
    assert lines["metadata"].value == {"llmtune_run": "abc"}
    assert result.job.name == "router"
    elsewhere = {
        "training_file": "train file",
        "user_provided_suffix": "suffix or name",
        "hyperparameters": "n_epochs",
        "method": "n_epochs",
    }
    for key, value in record.items():
        if value not in (None, "", [], {}):
            assert elsewhere.get(key, key) in lines, f"{key} = {value!r} has no line"


def test_a_job_that_no_method_repeats_is_refused_in_one_sentence(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as vendor:
        monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", f"{vendor.url}/v1")
        model = vendor.add_tuned_model(train=b"{}", method={"type": "reinforcement", "reinforcement": {}})
        with pytest.raises(LlmtuneError, match="is a reinforcement job, which llmtune does not repeat"):
            import_job(model, "openai", data=workspace / "fetched")
    assert not (workspace / "fetched").exists()


def test_a_job_at_azure_becomes_a_job_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.runs.api import start
    from llmtune.runs.poller import PollInterval
    from llmtune_azure.fake.service import FakeAzure

    monkeypatch.chdir(workspace)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-test")
    monkeypatch.setenv("ARM_TOKEN", "az-test")
    with FakeAzure(api_key="az-test") as vendor:
        account = {
            "kind": "azure",
            "endpoint": vendor.url,
            "management_url": vendor.url,
            "management_token_env": "ARM_TOKEN",
            "subscription_id": "11111111-2222-3333-4444-555555555555",
            "resource_group": "tuning",
            "account_name": "mine",
        }
        lines = [f'{name} = "{value}"' for name, value in account.items()]
        (workspace / "llmtune.toml").write_text("\n".join(["[providers.azure-eu]", *lines, ""]))
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LLMTUNE_HOME", str(workspace / "elsewhere"))
            job_spec = TuningJob(
                name="router",
                dataset=str(workspace / "rows.jsonl"),
                model="gpt-4.1-mini-2025-04-14",
                hyperparameters=llmtune.Hyperparameters(epochs=2, batch_size=8),
                provider_options={"azure-eu": {"training_type": "GlobalStandard"}},
            )
            start(job_spec, "azure-eu", yes=True, allow_unknown_cost=True).wait(
                pace=PollInterval(first=0.01, most=0.05)
            )
        (job,) = vendor.jobs
        result = import_job(job, "azure-eu", data=workspace / "fetched")
        assert result.job.model == {"azure-eu": "gpt-4.1-mini-2025-04-14"}
        assert (result.job.hyperparameters.epochs, result.job.hyperparameters.batch_size) == (2, 8)
        assert len(Path(str(result.job.dataset.train)).read_text().splitlines()) == 24
        assert llmtune.plan(result.job, "azure-eu").refusals == ()
        assert not vendor.complaints
