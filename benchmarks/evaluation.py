"""Answers and label scores of a local model, against plain transformers, interleaved in one run.

    python benchmarks/evaluation.py [--rounds 3] [--prompts 200] [--json FILE]

Rows are generated: prompts of 10 to 60 words, one half of the runs behind one system prompt of 200 words; answers of
16 tokens at most; 8 and 77 labels. Models: the embedded `tiny`, and a random-weight Llama (hidden 512, 8 layers,
vocabulary 32,000). Greedy, float32.

- one by one: `generate` of transformers, a prompt at a time (the peer that the ratios are against)
- their batches: the same in padded batches of 32, by length
- ours: `LocalGenerator.generate`
- labels, theirs: each label behind each prompt, a batch of all labels a prompt, logits by the model's own head; on one
  prompt in twenty, the rest would take as long each
- labels, ours: `LocalGenerator.score_labels`

Floor of tokens through the model: one by one and batches read every prompt and every answer once; ours reads a shared
beginning once; label scores read every prompt once and each distinct beginning of a label once a prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = (
    *("time", "date", "file", "list", "name", "type", "user", "role", "card"),
    *("bank", "order", "refund", "please", "where", "when", "help", "today"),
)
ANSWER = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--models", default="tiny,llama-512")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__},",
        end="",
    )
    print(f" {cores} cores, {asked.prompts} prompts, medians of {asked.rounds} rounds\n")
    found = []
    with tempfile.TemporaryDirectory() as place:
        for name in asked.models.split(","):
            folder = name if name == "tiny" else str(llama(Path(place) / name))
            found += [compare(name, folder, asked.prompts, asked.rounds, system=system) for system in (False, True)]
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def llama(folder: Path) -> Path:
    """A random model with the tokenizer of `tiny`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmtune_local.models.hub import locate

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        num_hidden_layers=8,
        intermediate_size=1536,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate("tiny")).save_pretrained(folder)
    return folder


def prompts(count: int, *, system: bool) -> list[Any]:
    from llmtune.data.example import Message
    from llmtune.provider.generation import GenerationRequest

    draw = random.Random(0)

    def words(number: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(number))

    first = (Message("system", words(200)),) if system else ()
    return [
        GenerationRequest(messages=(*first, Message("user", words(draw.randint(10, 60)))), max_tokens=ANSWER)
        for _ in range(count)
    ]


def label_set(count: int) -> list[str]:
    draw = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < count:
        found["_".join(draw.choice(WORDS) for _ in range(draw.randint(1, 3)))] = None
    return list(found)


def compare(name: str, folder: str, count: int, rounds: int, *, system: bool) -> dict[str, Any]:
    """One table: every way on the same prompts, in turn."""
    from llmtune_local.inference.generator import LocalGenerator

    requests = prompts(count, system=system)
    few, many = label_set(8), label_set(77)
    sample = requests[: max(1, count // 20)]  # their way takes minutes on all
    with LocalGenerator(model=folder, options={"dtype": "float32"}) as ours:
        ours.generate(requests[:2])
        theirs = Plain(folder, ours)
        ways: dict[str, Callable[[], Any]] = {
            "one by one": lambda: theirs.generate(requests, 1),
            "their batches of 32": lambda: theirs.generate(requests, 32),
            "ours": lambda: [answer.text for answer in ours.generate(requests)],
            "8 labels, theirs": lambda: theirs.score(sample, few),
            "8 labels, ours": lambda: ours.score_labels(requests, few),
            "77 labels, theirs": lambda: theirs.score(sample, many),
            "77 labels, ours": lambda: ours.score_labels(requests, many),
        }
        wall: dict[str, list[float]] = {way: [] for way in ways}
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        last: dict[str, Any] = {}
        for _ in range(rounds):
            for way, run in ways.items():
                began, used = time.perf_counter(), time.process_time()
                last[way] = run()
                wall[way].append(time.perf_counter() - began)
                cpu[way].append(time.process_time() - used)
    same = sum(a == b for a, b in zip(last["one by one"], last["ours"], strict=True))
    off = max(
        abs(a - b) / max(1.0, abs(a))
        for labels in ("8 labels", "77 labels")
        for one, other in zip(last[f"{labels}, theirs"], last[f"{labels}, ours"], strict=False)
        for a, b in zip(one, other, strict=True)
    )
    asked = {way: len(sample) if way.endswith("labels, theirs") else count for way in ways}
    # Milliseconds a prompt.
    middle = {way: 1000 * statistics.median(times) / asked[way] for way, times in wall.items()}
    print(f"{name}, {'behind one system prompt of 200 words' if system else 'no system prompt'}")
    print("| way | wall ms a prompt | CPU ms a prompt | prompts/s | times one by one |")
    print("|---|---|---|---|---|")
    for way in ways:
        ratio = middle["one by one"] / middle[way]
        used = 1000 * statistics.median(cpu[way]) / asked[way]
        print(f"| {way} | {middle[way]:.1f} | {used:.1f} | {1000 / middle[way]:.0f} | {ratio:.1f} |")
    print(
        f"{same} of {count} answers are the same text; label scores differ by {off:.1e} at most, relatively\n",
        flush=True,
    )
    return {"model": name, "system": system, "wall": wall, "cpu": cpu, "same": same, "off": off}


class Plain:
    """transformers as its documentation has it."""

    def __init__(self, folder: str, ours: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from llmtune_local.models.hub import locate

        self.torch = torch
        _, self.renderer = ours._load()
        self.model = AutoModelForCausalLM.from_pretrained(locate(folder), dtype=torch.float32).eval()
        self.stop = sorted(self.renderer.stop_ids)

    def generate(self, requests: list[Any], together: int) -> list[str]:
        torch, tokenizer = self.torch, self.renderer.tokenizer
        rendered = [self.renderer.prompt_ids(request.messages) for request in requests]
        order = (
            sorted(range(len(rendered)), key=lambda at: -len(rendered[at])) if together > 1 else range(len(rendered))
        )
        found = [""] * len(rendered)
        for first in range(0, len(rendered), together):
            chosen = [order[at] for at in range(first, min(first + together, len(rendered)))]
            longest = max(len(rendered[at]) for at in chosen)
            ids = torch.tensor([[self.stop[0]] * (longest - len(rendered[at])) + list(rendered[at]) for at in chosen])
            mask = torch.tensor([[0] * (longest - len(rendered[at])) + [1] * len(rendered[at]) for at in chosen])
            with torch.no_grad():
                out = self.model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=ANSWER,
                    do_sample=False,
                    eos_token_id=self.stop,
                    pad_token_id=self.stop[0],
                )
            for at, row in zip(chosen, out[:, longest:], strict=True):
                found[at] = tokenizer.decode(row, skip_special_tokens=True).strip()
        return found

    def score(self, requests: list[Any], labels: list[str]) -> list[list[float]]:
        from llmtune_local.inference.label_scoring import Answers

        torch = self.torch
        answers, found = Answers(self.renderer, labels), []
        for request in requests:
            prompt, said = answers.after(request)
            longest = max(map(len, said))
            ids = torch.tensor([[*prompt, *answer, *([0] * (longest - len(answer)))] for answer in said])
            with torch.no_grad():
                likely = self.model(input_ids=ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
            each = likely.gather(2, ids[:, len(prompt) :, None]).squeeze(2)
            found.append([float(row[: len(answer)].sum()) for row, answer in zip(each, said, strict=True)])
        return found


if __name__ == "__main__":
    sys.exit(main())
