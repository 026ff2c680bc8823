"""Training steps of the local trainer against HF Trainer + PEFT and TRL's SFTTrainer, interleaved.

    python benchmarks/training.py                       # 32k vocabulary, 60 steps
    python benchmarks/training.py --vocabulary 152000
    python benchmarks/training.py --system 300          # every row begins with the same 300 tokens
    python benchmarks/training.py --steps 12 --only hf,hf-best,llmtune

The floor, in FLOPs a token: forward and the gradient of the inputs through every frozen linear layer, 4 x its weights
(no gradient of the frozen weights themselves), and what the attention and the trained positions' logits add.

2,000 generated chats (prompts of 50 to 600 tokens, answers of 5 to 80, trained on answers alone), a Llama of random
weights (hidden 512, 8 layers, 8 heads) or a Qwen3 of the same shape, LoRA of rank 16 on all linear layers, dropout 0,
16 rows an optimizer step, the same rows in the same order for all but those peers whose strength it is to choose
another. Every tool has a process of its own, keeps its own loop, and is let through one optimizer step at a time, in
turn: what disturbs the machine disturbs all. Peers come as they come (`hf`, `trl`) and in the strongest settings found
(`hf-best`: bf16, rows grouped by length; `trl-best`: packed, no checkpointing, bf16; `trl-free`: padding-free, the
same). Needs `pip install 'llmtune-sdk[local,bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 2000
BATCH = 16
RATE = 1e-4
SEED = 3
#: Rows a forward pass of the peers: their default; and what was fastest of 1, 2, 4 and 8 for padding-free TRL.
DEVICE_ROWS = 8
FREE_ROWS = 1

OURS = {"llmtune": "float32", "llmtune-bf16": "bfloat16"}
PEERS = ("hf", "hf-best", "trl", "trl-best", "trl-free")


# --- what is trained on ----------------------------------------------------------------------------------------------
def make_world(folder: Path, *, vocabulary: int, system: int, family: str) -> None:
    """A model of random weights with a word tokenizer, and the rows, in the order in which llmtune takes them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

    from llmtune_local.batching import order

    words = ["<pad>", "<unk>", "<user>", "<system>", "<assistant>", "<end>"]
    words += [f"w{number}" for number in range(vocabulary - len(words))]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", eos_token="<end>", model_max_length=4096
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8 if family == "llama" else 4,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 5,
        "tie_word_embeddings": False,
    }
    config = LlamaConfig(**shape) if family == "llama" else Qwen3Config(**shape, head_dim=64)
    torch.manual_seed(SEED)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")

    draw = random.Random(SEED)

    def text(count: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary - 6)}" for _ in range(count))

    rules = text(system - 2) if system else None
    rows = []
    for _ in range(ROWS):
        messages = [{"role": "user", "content": text(draw.randint(50, 600) - 3)}]
        messages.append({"role": "assistant", "content": text(draw.randint(5, 80) - 1)})
        rows.append({"messages": [*([{"role": "system", "content": rules}] if rules else []), *messages]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "order.json").write_text(json.dumps(order(ROWS, SEED, 0)))


def tokens_in_order(folder: Path) -> list[dict[str, list[int]]]:
    """The rows as llmtune tokenises them, in its order, for the peers."""
    from llmtune.data.reading import load
    from llmtune_local.model import load_tokenizer
    from llmtune_local.rows import tokenise

    rows = tokenise(load_tokenizer(str(folder / "model")), load(str(folder / "rows.jsonl"))).rows
    return [
        {"input_ids": row.ids.tolist(), "completion_mask": row.completion.astype(int).tolist()}
        for number in json.loads((folder / "order.json").read_text())
        for row in rows[number]
    ]


# --- one tool in its process -----------------------------------------------------------------------------------------
class Turns:
    """Waits for its turn before each step and says afterwards what the step was."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.used = 0.0

    def wait(self) -> None:
        if self.began is not None:
            return
        print(json.dumps({"ready": True}), flush=True)
        if not sys.stdin.readline().strip():
            os._exit(0)
        self.used = _cpu()
        self.began = time.monotonic()

    def done(self, loss: float | None) -> None:
        assert self.began is not None
        seconds, self.began = time.monotonic() - self.began, None
        from llmtune_local.machine import peak_memory

        peak = peak_memory("cpu")
        told = {"seconds": seconds, "cpu": _cpu() - self.used, "loss": loss, "peak": peak}
        print(json.dumps(told), flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(folder: Path, name: str, steps: int) -> None:
    """The worker's own trainer on a run folder."""
    from llmtune_local.journal import Journal
    from llmtune_local.rundir import Recipe, RunDir, RunFiles, RunRequest, WorkerOptions
    from llmtune_local.trainer import Trainer

    turns = Turns()

    class Watched(Trainer):
        def step(self, number: int) -> Any:
            turns.wait()
            values, step = super().step(number)
            turns.done(values["train/loss"])
            return values, step

    request = RunRequest(
        model=str(folder / "model"),
        files=RunFiles(train=str(folder / "rows.jsonl")),
        seed=SEED,
        hyperparameters=Recipe(
            epochs=1, max_steps=steps, batch_size=BATCH, learning_rate=RATE, lr_schedule="constant", lora_alpha=32
        ),
        options=WorkerOptions(dtype=OURS[name]),  # type: ignore[arg-type]
    )
    run = RunDir(folder / name)
    run.path.mkdir()
    with Journal(run) as journal:
        trainer = Watched(run, request, journal, lambda: False)
        trainer.prepare()
        trainer.loop()


def theirs(folder: Path, name: str, steps: int) -> None:
    """A peer: its own trainer, its own collator, its own loop."""
    import peft
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    turns = Turns()

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                turns.done(float(logs["loss"]))

    half = name in ("hf-best", "trl-best", "trl-free") or (name == "trl" and _has_half())
    common: dict[str, Any] = {
        "output_dir": str(folder / name),
        "max_steps": steps,
        "per_device_train_batch_size": DEVICE_ROWS,
        "gradient_accumulation_steps": BATCH // DEVICE_ROWS,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": half,
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = tokens_in_order(folder)
    adapter = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer: Any
    if name.startswith("hf"):
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

        for row in rows:
            mask = row.pop("completion_mask")
            row["labels"] = [token if wanted else -100 for token, wanted in zip(row["input_ids"], mask, strict=True)]
        torch.manual_seed(SEED)
        trainer = Trainer(
            model=peft.get_peft_model(model, adapter),
            args=TrainingArguments(
                **common, train_sampling_strategy="group_by_length" if name == "hf-best" else "sequential"
            ),
            train_dataset=Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        )
    else:
        from trl import SFTConfig, SFTTrainer

        best: dict[str, Any] = {"gradient_checkpointing": False} if name != "trl" else {}
        if name == "trl-best":
            # A pack holds as many rows as a step of the others in the mean: the same tokens a step.
            lengths = [len(row["input_ids"]) for row in rows]
            pack = max(1024, max(lengths))
            packs = max(1, round(BATCH * statistics.mean(lengths) / pack))
            best |= {"packing": True, "max_length": pack}
            # One pack at a time: without flash attention, attention grows with the square of what goes in at once.
            common |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": packs}
        elif name == "trl-free":
            best |= {"padding_free": True, "max_length": None}
            common |= {"per_device_train_batch_size": FREE_ROWS, "gradient_accumulation_steps": BATCH // FREE_ROWS}
        else:
            best |= {"max_length": None}
        model.set_attn_implementation("sdpa")
        torch.manual_seed(SEED)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**common, **best, train_sampling_strategy="sequential", completion_only_loss=True),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
        )
    trainer.add_callback(Watch())
    trainer.train()


def _has_half() -> bool:
    """Whether the processor multiplies in bf16; TRL turns it on by itself only on devices that say so."""
    import torch

    return bool(torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() == "AVX512")


# --- all in turn -----------------------------------------------------------------------------------------------------
class Tool:
    """One process that does a step when it is told to."""

    def __init__(self, name: str, folder: Path, steps: int, threads: int) -> None:
        self.name = name
        self.steps: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self.log = (folder / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--tool", name, "--folder", str(folder), "--steps", str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "LLMTUNE_HOME": str(folder / "home")},
        )
        self._answer()
        self.ready = time.monotonic() - self.began

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait()
                raise SystemExit(f"{self.name} died:\n{Path(self.log.name).read_text()[-3000:]}")
            if line.startswith("{") and '"' in line:
                try:
                    found: dict[str, Any] = json.loads(line)
                except json.JSONDecodeError:  # a tool's own log line
                    continue
                if "ready" in found or "seconds" in found:
                    return found

    def step(self, *, last: bool) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.steps.append(self._answer())
        if not last:
            self._answer()  # ready for the next

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--system", type=int, default=0, help="tokens of a system prompt that every row begins with")
    parser.add_argument("--family", choices=["llama", "qwen3"], default="llama")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default=",".join((*PEERS, *OURS)), help="tools, in the order of their turns")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tool:
        (ours if asked.tool in OURS else theirs)(asked.folder, asked.tool, asked.steps)
        return 0
    with tempfile.TemporaryDirectory(prefix="llmtune-training-") as home:
        folder = Path(home)
        make_world(folder, vocabulary=asked.vocabulary, system=asked.system, family=asked.family)
        tools = []
        try:
            for name in asked.only.split(","):
                tools.append(Tool(name, folder, asked.steps, asked.threads))
                print(f"{name}: first step after {tools[-1].ready:.1f} s", file=sys.stderr, flush=True)
            for number in range(asked.steps):
                for tool in tools:
                    tool.step(last=number == asked.steps - 1)
                    spent = tool.steps[-1]
                    print(f"{number + 1}: {tool.name} {spent['seconds']:.2f} s", file=sys.stderr, flush=True)
        finally:
            for tool in tools:
                tool.close()
    table(tools, asked)
    return 0


def table(tools: list[Tool], asked: argparse.Namespace) -> None:
    """Medians without each tool's first step, and the losses' largest difference from plain HF's."""
    from importlib.metadata import version

    print(
        f"{asked.family}, vocabulary {asked.vocabulary:,}, shared system prompt {asked.system} tokens, {BATCH} rows a"
    )
    print(f"{BATCH} rows a step, {asked.steps} steps in turn, {asked.threads} threads;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl")))
    print(f"{'':<13} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'ready s':>8} {'loss':>9} {'off by':>8}")
    plain = next((tool for tool in tools if tool.name == "hf"), None)
    for tool in tools:
        later = tool.steps[1:] or tool.steps
        wall, cpu = (statistics.median(step[key] for step in later) for key in ("seconds", "cpu"))
        off = ""
        if plain is not None and tool.name not in ("hf-best", "trl-best"):  # these take other rows
            pairs = zip(tool.steps, plain.steps, strict=True)
            off = f"{max(abs(mine['loss'] - its['loss']) / its['loss'] for mine, its in pairs):.1e}"
        print(
            f"{tool.name:<13} {wall:>8.2f} {cpu:>8.2f} {tool.steps[-1]['peak'] / 1e9:>8.2f} {tool.ready:>8.1f}"
            f" {tool.steps[-1]['loss']:>9.5f} {off:>8}"
        )
    names = {tool.name: statistics.median(step["seconds"] for step in tool.steps[1:] or tool.steps) for tool in tools}
    for mine, peers in (("llmtune", ("hf",)), ("llmtune-bf16", ("hf-best", "trl-best", "trl-free"))):
        for peer in peers:
            if mine in names and peer in names:
                print(f"{mine} is {names[peer] / names[mine]:.2f} x as fast as {peer}")


if __name__ == "__main__":
    sys.exit(main())
