"""The model card of the embedded base model, written from what the build saw."""

# The card's lines are as long as they read best.
# ruff: noqa: E501
from __future__ import annotations

import importlib.metadata as metadata
import platform
from dataclasses import dataclass

from tiny_corpus import SERVICES_LEFT_OUT, Corpus
from tiny_model import CONTEXT, VOCABULARY
from tiny_train import ANSWER_WEIGHT, LENGTHS, PROMPT_SHARE, TOKENS_PER_STEP, Progress


@dataclass
class Facts:
    """What is known before the training begins."""

    command: str
    corpus: Corpus
    documents: int
    chats: int
    prose_tokens: int
    chat_tokens: int
    chat_share: float
    rates: tuple[float, float]
    parameters: int
    threads: int
    machine: str
    seed: int
    planned_steps: int


def write(facts: Facts, progress: Progress, prose: float, answers: float, far: float, seconds: float) -> str:
    """Build the card as Markdown. Losses are in nats per token."""
    recent = progress.losses[-50:]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "tokenizers"))
    sources = "\n".join(
        f"| {s.name} | {s.version} | {s.licence} | {s.files} | {s.documents} | {s.characters / 1e6:.2f} |"
        for s in facts.corpus.sources
    )
    left_out = "; ".join(facts.corpus.left_out) or "none"
    rows = ", ".join(f"{share:.0%} of the steps at {length}" for share, length in LENGTHS)
    partial = "" if progress.steps == facts.planned_steps else f" (a checkpoint; {facts.planned_steps} were planned)"
    return f"""# tiny

The base model that llmtune carries with it, so that a demo and tests can really train on a bare machine without a
network: `model="tiny"`. A small Llama trained from nothing by `tools/tiny_models/build_tiny.py` in the llmtune repository. It
knows a chat format, copies from its prompt, and has word vectors worth tuning; it is no assistant. Do not use it for
anything but tuning demos and tests.

- Architecture: `LlamaForCausalLM`, {facts.parameters:,} parameters, tied embeddings, vocabulary {VOCABULARY}, context {CONTEXT}
- Files: bfloat16 safetensors; loads with plain `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`
- Tokenizer: byte-level BPE with all 256 bytes, so every text round-trips; turns `<|im_start|>role ... <|im_end|>`,
  end of sequence `<|im_end|>`, padding `<|pad|>`
- Licence: Apache-2.0, as the repository

## Training

- Steps: {progress.steps}{partial} of {TOKENS_PER_STEP} tokens; {progress.tokens / 1e6:.2f} M tokens, {facts.chat_share:.0%} of them chats
- Rows: {rows}
- Optimizer: Muon (rate {facts.rates[0]:g}) for the layers' matrices, AdamW (rate {facts.rates[1]:g}) for embeddings and norms; 4 % warm-up, cosine
- Loss: all tokens of prose weigh 1, those of answers {ANSWER_WEIGHT:g}, and {PROMPT_SHARE:.0%} of the prompt tokens of chats, drawn at random, 1
- Loss at the end (mean of the last {len(recent)} steps): {sum(recent) / max(1, len(recent)):.3f} nats per weighted token
- Held-out loss: {prose:.3f} on prose in rows of 256 tokens, {far:.3f} in rows of {CONTEXT}; {answers:.3f} on the answers of chats
- Time: {progress.seconds:.0f} s of training, {seconds:.0f} s in all, {facts.threads} threads, {facts.machine}
- Seed: {facts.seed}; Python {platform.python_version()}, {versions}
- Command: `{facts.command}`

## Text

{facts.documents} prose documents ({facts.prose_tokens / 1e6:.2f} M tokens encoded), the documentation that comes with the
sources below, stripped to paragraphs that read as English and without repetitions; and {facts.chats} synthetic chats
({facts.chat_tokens / 1e6:.2f} M tokens): copying, spelling, counting, choosing among listed options, extracting a field,
sorting words and sentences about home, garden, animals, music and the like under neutral labels, and naming a
definition from the first sentence of its documentation ({len(facts.corpus.names)} of those).

| Source | Version | Licence | Files | Documents | M characters |
|---|---|---|---|---|---|
{sources}

Left out for want of a plainly permissive licence, or not installed: {left_out}.

Never seen: the demo's tickets, banking77, SST-2, GSM8K. Paragraphs that mention tickets, help desks, customer support
or these sets are dropped, and service models about customer support are not read (`{SERVICES_LEFT_OUT.pattern}`).
"""
