"""The training loop of the embedded base model: packed rows, Muon and AdamW, made for a few CPU cores."""

from __future__ import annotations

import ctypes
import functools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_model import CONTEXT, END_OF_TEXT, render

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

TOKENS_PER_STEP = 4096
#: (share of the steps, row length): short rows are faster on a CPU; the long ones at the end teach the whole context.
LENGTHS = ((0.50, 128), (0.30, 256), (0.12, 512), (0.08, CONTEXT))
#: share of a chat's prompt tokens that the loss looks at, drawn at random; of answers and prose it sees every token.
PROMPT_SHARE = 0.3
#: weight of an answer's tokens; every other token that the loss looks at weighs 1.
ANSWER_WEIGHT = 2.0


def keep_memory() -> None:
    """Ask glibc not to give freed blocks back: fresh pages for every activation cost half of the time on a CPU."""
    if sys.platform.startswith("linux"):
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        except (OSError, AttributeError):
            pass


@functools.cache
def low_precision() -> torch.dtype:
    """bfloat16 where this processor multiplies it faster than float32 (AVX512-BF16, AMX), else float32."""
    import torch

    def seconds(kind: torch.dtype) -> float:
        left_factor, right = torch.ones(2048, 512, dtype=kind), torch.ones(512, 512, dtype=kind)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            left_factor @ right
            times.append(time.perf_counter() - begun)
        return min(times)

    return torch.bfloat16 if seconds(torch.bfloat16) < seconds(torch.float32) else torch.float32


@dataclass
class Stream:
    """Tokens of one kind of text, with their loss weights, and where each document begins."""

    tokens: torch.Tensor
    weights: torch.Tensor
    starts: list[int]


def encode_prose(tokenizer: Tokenizer, documents: Sequence[str]) -> Stream:
    """Documents one after the other, each closed by the end-of-text token."""
    import torch

    end = tokenizer.token_to_id(END_OF_TEXT)
    tokens: list[int] = []
    starts: list[int] = []
    for encoding in tokenizer.encode_batch(list(documents), add_special_tokens=False):
        starts.append(len(tokens))
        tokens += [*encoding.ids, end]
    return Stream(torch.tensor(tokens), torch.ones(len(tokens)), starts)


def encode_chats(tokenizer: Tokenizer, chats: Sequence[Sequence[dict[str, str]]], seed: int) -> Stream:
    """Chats as the template renders them, each closed by the end-of-text token.

    Weights: 2 on answers, 1 on the prompt tokens that were drawn, 0 on the others."""
    import torch

    draw = random.Random(seed).random
    end = tokenizer.token_to_id(END_OF_TEXT)
    pieces = [render(chat) for chat in chats]
    flat = tokenizer.encode_batch([text for chat in pieces for text, _ in chat], add_special_tokens=False)
    tokens: list[int] = []
    weights: list[float] = []
    starts: list[int] = []
    encodings = iter(flat)
    for chat in pieces:
        starts.append(len(tokens))
        for _, answer in chat:
            ids = next(encodings).ids
            tokens += ids
            weights += [ANSWER_WEIGHT if answer else float(draw() < PROMPT_SHARE) for _ in ids]
        tokens.append(end)
        weights.append(0.0)
    return Stream(torch.tensor(tokens), torch.tensor(weights), starts)


def rows(stream: Stream, length: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless rows of `length` + 1 tokens, each starting where a document starts, in shuffled order.

    The document that a row's end cuts off is dropped with it, unless it is longer than half a row: then it goes on
    in the next row."""
    rng = random.Random(seed)
    bounds = [*stream.starts, len(stream.tokens)]
    while True:
        order = list(range(len(stream.starts)))
        rng.shuffle(order)
        import torch

        parts: list[tuple[int, int]] = []
        filled = 0
        for i in order:
            begin, end = bounds[i], bounds[i + 1]
            while begin < end:
                take = min(end - begin, length + 1 - filled)
                parts.append((begin, begin + take))
                filled += take
                if filled == length + 1:
                    yield (
                        torch.cat([stream.tokens[a:b] for a, b in parts]),
                        torch.cat([stream.weights[a:b] for a, b in parts]),
                    )
                    parts, filled = [], 0
                    if end - begin - take < length // 2:
                        break
                begin += take


def batches(prose: Stream, chats: Stream, share: float, length: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Batches of `TOKENS_PER_STEP` tokens of which `share` are chats."""
    import torch

    sources = (rows(prose, length, seed), rows(chats, length, seed + 1))
    count = TOKENS_PER_STEP // length
    owed = 0.0
    while True:
        chosen = []
        for _ in range(count):
            owed += share
            chosen.append(next(sources[1] if owed >= 1 else sources[0]))
            owed -= owed >= 1
        yield torch.stack([t for t, _ in chosen]), torch.stack([w for _, w in chosen])


def summed_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of weight x negative log-likelihood in nats; the logits exist for 1024 positions at a time only."""
    result: torch.Tensor = _loss_function().apply(hidden, head, targets, weights)
    return result


@functools.cache
def _loss_function() -> Any:
    import torch

    class Loss(torch.autograd.Function):
        """Head and cross-entropy in one node; its gradient is made in the forward pass."""

        @staticmethod
        def forward(ctx: Any, hidden: Any, head: Any, targets: Any, weights: Any) -> Any:
            kind = low_precision()
            low, small = hidden.to(kind), head.to(kind)
            grad_hidden, grad_head = torch.empty_like(low), torch.zeros_like(head)
            total = torch.zeros(())
            for i in range(0, len(targets), 1024):
                part, weight = low[i : i + 1024], weights[i : i + 1024, None]
                target = targets[i : i + 1024, None]
                logits = (part @ small.t()).float()
                norm = logits.logsumexp(-1, keepdim=True)
                total += ((norm - logits.gather(1, target)) * weight).sum()
                logits.sub_(norm).exp_()
                logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=logits.dtype))
                grad = logits.mul_(weight).to(kind)
                torch.mm(grad, small, out=grad_hidden[i : i + 1024])
                grad_head += grad.t() @ part
            ctx.save_for_backward(grad_hidden, grad_head)
            return total

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> Any:
            grad_hidden, grad_head = ctx.saved_tensors
            return grad_hidden.float() * outer[0], grad_head * outer[0], None, None

    return Loss


@dataclass
class Progress:
    """What the training did."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def _batch_loss(model: LlamaForCausalLM, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum the weighted loss of a block of rows of n + 1 tokens."""
    import torch

    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision() is torch.bfloat16):
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    counted = weights[:, 1:] > 0
    return summed_loss(hidden[counted], model.lm_head.weight, tokens[:, 1:][counted], weights[:, 1:][counted])


def held_out_loss(model: LlamaForCausalLM, stream: Stream, answers_only: bool, length: int = 256) -> float:
    """Mean loss in nats per token on held-out text: all tokens of prose, or the answers of chats."""
    import torch

    source = rows(stream, length, 0)
    total = count = 0.0
    with torch.no_grad():
        for _ in range(6):
            chosen = [next(source) for _ in range(4096 // length)]
            tokens, weights = torch.stack([t for t, _ in chosen]), torch.stack([w for _, w in chosen])
            if answers_only:
                weights = (weights == ANSWER_WEIGHT).float()
            total += float(_batch_loss(model, tokens, weights))
            count += float(weights[:, 1:].sum())
    return total / max(count, 1.0)


def schedule(step: int, steps: int) -> float:
    """Factor on the peak rate: linear warm-up over 4 % of the steps, then a cosine down to 2 %."""
    warm = max(1, int(steps * 0.04))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def optimizers(model: LlamaForCausalLM, matrix_rate: float, other_rate: float) -> list[Any]:
    """Muon (K. Jordan et al., 2024) for the layers' matrices, AdamW for embeddings and norms.

    Muon reaches a loss in fewer tokens than AdamW, and tokens are what a CPU lacks."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    remaining = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=matrix_rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(remaining, lr=other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training: steps of `TOKENS_PER_STEP` tokens, the share of chats, and the two learning rates."""

    steps: int
    seed: int
    chat_share: float
    matrix_rate: float
    other_rate: float
    checkpoint_every: int
    state: Path | None
    """File that the state is saved to every hundred steps, and resumed from if it exists."""


def train(
    model: LlamaForCausalLM,
    prose: Stream,
    chats: Stream,
    config: TrainingConfig,
    *,
    say: Callable[[str], None],
    checkpoint: Callable[[Progress], None],
) -> Progress:
    """Train the model; `say` gets a progress line every 50 steps, `checkpoint` the progress at each checkpoint.

    A resumed training draws the batches of its first steps again, so that it equals one without interruption.
    """
    import torch

    steps, state = config.steps, config.state
    groups = optimizers(model, config.matrix_rate, config.other_rate)
    peaks = [[g["lr"] for g in o.param_groups] for o in groups]
    ends, done = [], 0.0
    for share, length in LENGTHS:
        done += share
        ends.append((round(done * steps), length))
    progress = _resume(state, model, groups)
    first, begun = progress.steps, time.perf_counter() - progress.seconds
    source, current = None, 0
    for step in range(steps):
        length = next(n for end, n in ends if step < end)
        if length != current:
            source, current = batches(prose, chats, config.chat_share, length, config.seed + length), length
        assert source is not None
        tokens, weights = next(source)
        if step < first:
            continue
        factor = schedule(step, steps)
        loss = _batch_loss(model, tokens, weights) / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(groups, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.steps, progress.tokens = step + 1, progress.tokens + tokens[:, 1:].numel()
        progress.seconds = time.perf_counter() - begun
        progress.losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            recent = progress.losses[-50:]
            say(
                f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.3f}  row {length}  "
                f"{progress.tokens / progress.seconds:.0f} tokens/s  {progress.seconds:.0f} s"
            )
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
            checkpoint(progress)
        if state is not None and (step + 1) % 100 == 0:
            optimizer_states = [optimizer.state_dict() for optimizer in groups]
            saved = {"model": model.state_dict(), "groups": optimizer_states, "progress": vars(progress)}
            torch.save(saved, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
    return progress


def _resume(state: Path | None, model: LlamaForCausalLM, groups: list[Any]) -> Progress:
    import torch

    if state is None or not state.exists():
        return Progress()
    checkpoint = torch.load(state, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    for optimizer, values in zip(groups, checkpoint["groups"], strict=True):
        optimizer.load_state_dict(values)
    return Progress(**checkpoint["progress"])
