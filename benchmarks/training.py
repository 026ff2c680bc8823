"""Training steps of the local trainer against HF Trainer + PEFT and TRL's SFTTrainer, interleaved.

    python benchmarks/training.py                       # 32k vocabulary, 60 steps
    python benchmarks/training.py --vocabulary 152000
    python benchmarks/training.py --system 300          # every row begins with the same 300 tokens
    python benchmarks/training.py --steps 12 --only hf,hf-best,llmtune
    python benchmarks/training.py --shape 1b --batch 32 --steps 20 # on a GPU

On a GPU the peers have Liger's kernels in their strongest settings, weights are read in bf16 as they are saved, and the
table tells tokens and FLOPs a second; `trl-flex` is packed with FlexAttention, `llmtune-bare` is without Liger.

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

OURS = {"llmtune": "float32", "llmtune-bf16": "bfloat16", "llmtune-bare": "bfloat16", "llmtune-compiled": "bfloat16"}
PEERS = ("hf", "hf-best", "trl", "trl-best", "trl-free", "trl-flex")
ALL = ("hf", "hf-best", "trl", "trl-best", "trl-free", "llmtune", "llmtune-bf16")
ALL_GPU = (
    "hf",
    "hf-best",
    "trl",
    "trl-best",
    "trl-free",
    "trl-flex",
    "llmtune-bare",
    "llmtune-compiled",
    "llmtune-bf16",
)
#: Width, inner width, layers, heads, heads of keys, whether the head is the embedding: Llama 3.2 1B's and 3.1 8B's.
SHAPES = {
    "small": (512, 1408, 8, 8, None, False),
    "1b": (2048, 8192, 16, 32, 8, True),
    "8b": (4096, 14336, 32, 32, 8, False),
}


# --- what is trained on ----------------------------------------------------------------------------------------------
def make_world(folder: Path, *, vocabulary: int, system: int, family: str, size: str) -> None:
    """A model of random weights with a word tokenizer, and the rows, in the order in which llmtune takes them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

    from llmtune_local.batching.step_order import epoch_order

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
    width, inner, layers, heads, keys, tied = SHAPES[size]
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys or (heads if family == "llama" else heads // 2),
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 5,
        "tie_word_embeddings": tied,
    }
    config = LlamaConfig(**shape) if family == "llama" else Qwen3Config(**shape, head_dim=width // heads)
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = AutoModelForCausalLM.from_config(config)
    if torch.cuda.is_available():
        network = network.bfloat16()
    network.save_pretrained(folder / "model")
    del network
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
    (folder / "order.json").write_text(json.dumps(epoch_order(ROWS, SEED, 0)))


def tokens_in_order(folder: Path) -> list[dict[str, list[int]]]:
    """The rows as llmtune tokenises them, in its order, for the peers."""
    from llmtune.data.io.reading import load
    from llmtune_local.batching.token_rows import tokenise
    from llmtune_local.models.loading import load_tokenizer

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
        import torch

        from llmtune_local.models.hardware import peak_memory

        peak = peak_memory("cuda" if torch.cuda.is_available() else "cpu")
        told = {"seconds": seconds, "cpu": _cpu() - self.used, "loss": loss, "peak": peak}
        print(json.dumps(told), flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(folder: Path, name: str, steps: int) -> None:
    """The worker's own trainer on a run folder, set as on an idle machine, which this is in its turn."""
    from llmtune_local.libraries import prepare_libraries

    prepare_libraries(spin=True)
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunFiles, RunRequest, TrainingConfig, WorkerOptions
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.trainer import Trainer

    turns = Turns()
    if name in ("llmtune-bare", "llmtune-compiled"):
        sys.modules["liger_kernel"] = None  # type: ignore[assignment]

    class Watched(Trainer):
        def setup(self) -> None:
            super().setup()
            if name == "llmtune-compiled":
                for module in self.network.decoder.modules():
                    if type(module).__name__.endswith("Norm"):
                        module.compile(dynamic=True)

        def step(self, number: int) -> Any:
            turns.wait()
            values, step = super().step(number)
            turns.done(values["train/loss"])
            return values, step

    request = RunRequest(
        model=str(folder / "model"),
        files=RunFiles(train=str(folder / "rows.jsonl")),
        seed=SEED,
        hyperparameters=TrainingConfig(
            epochs=1, max_steps=steps, batch_size=BATCH, learning_rate=RATE, lr_schedule="constant", lora_alpha=32
        ),
        options=WorkerOptions(dtype=OURS[name]),  # type: ignore[arg-type]
    )
    run = RunDir(folder / name)
    run.path.mkdir()
    with StatusWriter(run) as journal:
        trainer = Watched(run, request, journal, lambda: False)
        trainer.setup()
        print(f"{name}: {', '.join(trainer.network.features)}", file=sys.stderr)
        trainer.fit()


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

    gpu = torch.cuda.is_available()
    half = gpu or name in ("hf-best", "trl-best", "trl-free") or (name == "trl" and _has_half())
    device_rows = BATCH if gpu and "-" in name else DEVICE_ROWS
    common: dict[str, Any] = {
        "output_dir": str(folder / name),
        "max_steps": steps,
        "per_device_train_batch_size": device_rows,
        "gradient_accumulation_steps": BATCH // device_rows,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "bf16": half,
        "use_liger_kernel": gpu and "-" in name,
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16 if gpu else torch.float32)
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
        if name in ("trl-best", "trl-flex"):
            # A pack holds as many rows as a step of the others in the mean: the same tokens a step.
            lengths = [len(row["input_ids"]) for row in rows]
            pack = max(1024, max(lengths))
            packs = max(1, round(BATCH * statistics.mean(lengths) / pack))
            best |= {"packing": True, "max_length": pack}
            # One pack at a time: without flash attention, attention grows with the square of what goes in at once.
            at_once = packs if name == "trl-flex" else 1
            common |= {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": packs // at_once}
        elif name == "trl-free":
            best |= {"padding_free": True, "max_length": None}
            rows_at_once = 8 if gpu else FREE_ROWS
            common |= {
                "per_device_train_batch_size": rows_at_once,
                "gradient_accumulation_steps": BATCH // rows_at_once,
            }
        else:
            best |= {"max_length": None}
        model.set_attn_implementation("flex_attention" if name == "trl-flex" else "sdpa")
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
class Died(Exception):
    """A tool's process ended before its time."""


class Tool:
    """One process that does a step when it is told to."""

    def __init__(self, name: str, folder: Path, steps: int, threads: int) -> None:
        self.name = name
        self.steps: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self.log = (folder / f"{name}.log").open("w")
        told = {"tool": name, "folder": folder, "steps": steps, "batch": BATCH}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *(f"--{key}={value}" for key, value in told.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "LLMTUNE_HOME": str(folder / "home")},
        )
        self.ready = 0.0

    def wait(self) -> None:
        """Until it stands before its first step."""
        self._answer()
        self.ready = time.monotonic() - self.began
        print(f"{self.name}: first step after {self.ready:.1f} s", file=sys.stderr, flush=True)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait()
                raise Died(f"{self.name} died:\n{Path(self.log.name).read_text()[-3000:]}")
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
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows an optimizer step")
    parser.add_argument("--only", help="tools, in the order of their turns")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    globals()["BATCH"] = asked.batch
    if asked.tool:
        (ours if asked.tool in OURS else theirs)(asked.folder, asked.tool, asked.steps)
        return 0
    with tempfile.TemporaryDirectory(prefix="llmtune-training-") as home:
        folder = Path(home)
        make_world(folder, vocabulary=asked.vocabulary, system=asked.system, family=asked.family, size=asked.shape)
        tools: list[Tool] = []
        try:
            gpu = on_gpu()
            for name in asked.only.split(",") if asked.only else ALL_GPU if gpu else ALL:
                tools.append(Tool(name, folder, asked.steps, asked.threads))
                if not gpu:  # on a CPU each has the machine to itself while it starts
                    tools = standing(tools)
            if gpu:
                tools = standing(tools)
            for number in range(asked.steps):
                for tool in list(tools):
                    try:
                        tool.step(last=number == asked.steps - 1)
                    except Died as problem:
                        print(problem, file=sys.stderr, flush=True)
                        tools.remove(tool)
                        continue
                    spent = tool.steps[-1]
                    print(f"{number + 1}: {tool.name} {spent['seconds']:.3f} s", file=sys.stderr, flush=True)
            for tool in tools:
                told = [line for line in Path(tool.log.name).read_text().splitlines() if line.startswith(tool.name)]
                print(*told, sep="\n", file=sys.stderr)
        finally:
            for tool in tools:
                tool.close()
    table(tools, asked)
    return 0


def standing(tools: list[Tool]) -> list[Tool]:
    """Those that reach their first step; the others' last words are printed."""
    found = []
    for tool in tools:
        try:
            if not tool.ready:
                tool.wait()
            found.append(tool)
        except Died as problem:
            print(problem, file=sys.stderr, flush=True)
    return found


def on_gpu() -> bool:
    """Whether the tools run on CUDA; asked in a process of its own, which leaves no context behind here."""
    asked = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def table(tools: list[Tool], asked: argparse.Namespace) -> None:
    """Medians without each tool's first step, and the losses' largest difference from plain HF's."""
    from importlib.metadata import version

    print(
        f"{asked.family} ({asked.shape}), vocabulary {asked.vocabulary:,}, shared system prompt {asked.system} tokens,"
    )
    print(f"{BATCH} rows a step, {asked.steps} steps in turn, {asked.threads} threads;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl")))
    width, inner, layers, heads, keys, _ = SHAPES[asked.shape]
    side = width * (keys or (heads if asked.family == "llama" else heads // 2)) // heads
    frozen = layers * (2 * width * width + 2 * width * side + 3 * width * inner)
    tokens = BATCH * (asked.system + 325 + 42.5)
    flops = 4 * frozen * tokens + 4 * width * asked.vocabulary * BATCH * 42.5
    print(f"about {tokens:,.0f} tokens and {flops / 1e12:.2f} TFLOP a step (4 x weights a token, head where trained)")
    print(
        f"{'':<16} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'ready s':>8} {'loss':>9} {'off by':>8}"
        f" {'tokens/s':>9} {'TFLOP/s':>8}"
    )
    plain = next((tool for tool in tools if tool.name == "hf"), None)
    for tool in tools:
        later = tool.steps[1:] or tool.steps
        wall, cpu = (statistics.median(step[key] for step in later) for key in ("seconds", "cpu"))
        off = ""
        if plain is not None and tool.name not in ("hf-best", "trl-best", "trl-flex"):  # these take other rows
            pairs = zip(tool.steps, plain.steps, strict=True)
            off = f"{max(abs(mine['loss'] - its['loss']) / its['loss'] for mine, its in pairs):.1e}"
        print(
            f"{tool.name:<16} {wall:>8.3f} {cpu:>8.2f} {tool.steps[-1]['peak'] / 1e9:>8.2f} {tool.ready:>8.1f}"
            f" {tool.steps[-1]['loss']:>9.5f} {off:>8} {tokens / wall:>9,.0f} {flops / wall / 1e12:>8.2f}"
        )
    names = {tool.name: statistics.median(step["seconds"] for step in tool.steps[1:] or tool.steps) for tool in tools}
    for mine, peers in (("llmtune", ("hf",)), ("llmtune-bf16", ("hf-best", "trl-best", "trl-free", "trl-flex"))):
        for peer in peers:
            if mine in names and peer in names:
                print(f"{mine} is {names[peer] / names[mine]:.2f} x as fast as {peer}")


if __name__ == "__main__":
    sys.exit(main())
