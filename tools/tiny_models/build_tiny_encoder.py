"""Train the embedded encoder `tiny-encoder` from nothing, on text that this machine already holds.

    python tools/tiny_models/build_tiny_encoder.py [--steps N] [--out providers/llmtune_local/tiny_encoder]

The text is that of `build_tiny.py`: documentation of CPython and of installed packages under permissive licences
(`tiny_corpus`); nothing is downloaded, and the evaluation sets are never read. The model is a small BERT, trained to
fill in masked tokens. Its next-sentence half (the pooler) and every classification head start untrained.
"""

# The card's lines are as long as they read best.
# ruff: noqa: E501
from __future__ import annotations

import argparse
import importlib.metadata as metadata
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiny_corpus
import tiny_train

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, PreTrainedTokenizerFast

STEPS = 600
VOCABULARY = 6144
CONTEXT = 512
TOKENS_PER_STEP = 4096
#: (share of the steps, row length): short rows are faster on a CPU; the long ones at the end teach all positions.
LENGTHS = ((0.80, 64), (0.14, 128), (0.06, CONTEXT))
#: share of the tokens to fill in; more than BERT's 15 % learns faster from few tokens (Wettig et al., arXiv:2202.08005).
MASKED = 0.30
MATRIX_RATE, OTHER_RATE = 7e-3, 2e-3
HELD_OUT = 1000
#: Neighbours on either side that count as near, for the word vectors it starts from.
WINDOW = 5
SHORTEST_DOCUMENT = 60
PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """WordPiece over lower-cased words, as BERT's; every character that the text has is a token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    printable = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=printable,
        limit_alphabet=300,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    ids = {token: core.token_to_id(token) for token in (CLS, SEP)}
    core.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def new_model(vocabulary: int, seed: int) -> BertForMaskedLM:
    """Create an untrained BERT: four layers, 192 wide."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=512,
        max_position_embeddings=CONTEXT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    return BertForMaskedLM(config)


def word_vectors(tokens: torch.Tensor, vocabulary: int, width: int) -> torch.Tensor:
    """Vectors [vocabulary, width] from which tokens stand near which: the leading singular vectors of their positive
    pointwise mutual information (Levy and Goldberg, 2014), near ones counting more.

    A small encoder spends most of a short training on finding these; counting finds them in seconds."""
    import numpy as np
    import torch
    from sklearn.utils.extmath import randomized_svd

    ids = tokens.numpy()
    counts = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        pairs = np.bincount(ids[:-distance].astype(np.int64) * vocabulary + ids[distance:], minlength=vocabulary**2)
        counts += pairs.reshape(vocabulary, vocabulary).astype(np.float32) / distance
    counts += counts.T
    counts[: len(SPECIAL)] = counts[:, : len(SPECIAL)] = 0
    row = counts.sum(axis=1, keepdims=True)
    smooth = row.T**0.75
    smooth /= smooth.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / (row * smooth))
    information = np.nan_to_num(np.maximum(information, 0.0), nan=0.0, posinf=0.0, neginf=0.0)
    left_vectors, singular, _ = randomized_svd(information, n_components=width, random_state=0)
    vectors = left_vectors * np.sqrt(singular)
    vectors[: len(SPECIAL)] = np.random.default_rng(0).normal(size=(len(SPECIAL), width)) * vectors.std()
    return torch.from_numpy(vectors / vectors.std()).float()


def rows(tokens: torch.Tensor, length: int, seed: int, cls: int, sep: int) -> Iterator[torch.Tensor]:
    """Rows of `length` tokens from anywhere in the text, each with [CLS] before and [SEP] after, for ever."""
    import torch

    draw = random.Random(seed)
    inside = length - 2
    before, after = torch.tensor([cls]), torch.tensor([sep])
    while True:
        start = draw.randrange(len(tokens) - inside)
        yield torch.cat((before, tokens[start : start + inside], after))


def mask(ids: torch.Tensor, generator: torch.Generator, vocabulary: int, mask_id: int) -> tuple[torch.Tensor, Any]:
    """Mask tokens: of the positions to predict, 80 % are masked, 10 % become another token, 10 % stay."""
    import torch

    chosen = (torch.rand(ids.shape, generator=generator) < MASKED) & (ids >= len(SPECIAL))
    how = torch.rand(ids.shape, generator=generator)
    inputs = ids.clone()
    inputs[chosen & (how < 0.8)] = mask_id
    random_tokens = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    swapped = chosen & (how >= 0.9)
    inputs[swapped] = random_tokens[swapped]
    return inputs, chosen


def loss_of(model: BertForMaskedLM, inputs: torch.Tensor, ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood in nats of the tokens to fill in; the head looks at no others."""
    import torch

    kind = tiny_train.low_precision()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
        hidden = model.bert(input_ids=inputs).last_hidden_state[chosen]
        logits = model.cls(hidden)
    return torch.nn.functional.cross_entropy(logits.float(), ids[chosen])


@dataclass
class Progress:
    """What the training did."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def train(model: BertForMaskedLM, tokens: torch.Tensor, tokenizer: Any, steps: int, seed: int) -> Progress:
    """Train for `steps` steps of `TOKENS_PER_STEP` tokens."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layer." in n]
    inside = {id(p) for p in matrices}
    plain_weights = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(plain_weights, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    peaks = [[g["lr"] for g in o.param_groups] for o in groups]
    ends, done = [], 0.0
    for share, length in LENGTHS:
        done += share
        ends.append((round(done * steps), length))
    generator = torch.Generator().manual_seed(seed)
    progress, begun, source, current = Progress(), time.perf_counter(), None, 0
    for step in range(steps):
        length = next(n for end, n in ends if step < end)
        if length != current:
            source = rows(tokens, length, seed + length, tokenizer.cls_token_id, tokenizer.sep_token_id)
            current = length
        assert source is not None
        ids = torch.stack([next(source) for _ in range(TOKENS_PER_STEP // length)])
        tokens_seen, chosen = mask(ids, generator, len(tokenizer), tokenizer.mask_token_id)
        loss = loss_of(model, tokens_seen, ids, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = tiny_train.schedule(step, steps)
        for optimizer, peak in zip(groups, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.steps, progress.seconds = step + 1, time.perf_counter() - begun
        progress.losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            recent = progress.losses[-50:]
            speed = progress.steps * TOKENS_PER_STEP / progress.seconds
            print(
                f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.3f}  row {length}  {speed:.0f} tokens/s"
                f"  {progress.seconds:.0f} s",
                flush=True,
            )
    return progress


def held_out(model: BertForMaskedLM, tokens: torch.Tensor, tokenizer: Any, length: int) -> float:
    """Loss on held-out text, in nats per masked token."""
    import torch

    source = rows(tokens, length, 0, tokenizer.cls_token_id, tokenizer.sep_token_id)
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    with torch.no_grad():
        for _ in range(6):
            ids = torch.stack([next(source) for _ in range(TOKENS_PER_STEP // length)])
            inputs, chosen = mask(ids, generator, len(tokenizer), tokenizer.mask_token_id)
            total += float(loss_of(model, inputs, ids, chosen))
    return total / 6


def save(model: BertForMaskedLM, tokenizer: Any, out: Path) -> None:
    """bfloat16 weights of encoder and masked-token head, with BERT's usual dropouts for tuning."""
    import copy

    import torch

    out.mkdir(parents=True, exist_ok=True)
    rounded: Any = copy.deepcopy(model).to(torch.bfloat16)
    rounded.config.hidden_dropout_prob = rounded.config.attention_probs_dropout_prob = 0.1
    rounded.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    for path in out.iterdir():
        path.chmod(0o644)


def card(
    args: argparse.Namespace,
    corpus: tiny_corpus.Corpus,
    counts: dict[str, int],
    progress: Progress,
    loss: dict[int, float],
) -> str:
    """Build the model card as Markdown."""
    sources = "\n".join(
        f"| {s.name} | {s.version} | {s.licence} | {s.files} | {s.documents} | {s.characters / 1e6:.2f} |"
        for s in corpus.sources
    )
    lengths = ", ".join(f"{share:.0%} of the steps at {length}" for share, length in LENGTHS)
    losses = ", ".join(f"{value:.3f} in rows of {length}" for length, value in loss.items())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "tokenizers"))
    return f"""# tiny-encoder

The encoder that llmtune carries with it, so that classification can really be trained and tested on a bare machine
without a network: `model="tiny-encoder"`, `method="classification"`. A small BERT trained from nothing by
`tools/tiny_models/build_tiny_encoder.py` in the llmtune repository. It has read a little technical English and nothing else; do
not use it for anything but demos and tests.

- Architecture: `BertForMaskedLM`, {counts["parameters"]:,} parameters, vocabulary {counts["vocabulary"]}, context {CONTEXT}; the pooler is not trained
- Files: bfloat16 safetensors; loads with plain `AutoModelForSequenceClassification.from_pretrained` and `AutoTokenizer.from_pretrained`
- Tokenizer: WordPiece, lower case
- Licence: Apache-2.0, as the repository

## Training

- Task: {MASKED:.0%} of the tokens are to be filled in (80 % masked, 10 % replaced, 10 % kept)
- Steps: {progress.steps} of {TOKENS_PER_STEP} tokens; {progress.steps * TOKENS_PER_STEP / 1e6:.2f} M tokens
- Rows: {lengths}
- Optimizer: Muon (rate {MATRIX_RATE:g}) for the layers' matrices, AdamW (rate {OTHER_RATE:g}) for the rest; 4 % warm-up, cosine
- Held-out loss, nats per masked token: {losses}
- Time: {progress.seconds:.0f} s of training, {args.threads} threads, {platform.system()} {platform.machine()}
- Seed: {args.seed}; Python {platform.python_version()}, {versions}
- Command: `python tools/tiny_models/build_tiny_encoder.py --steps {args.steps} --seed {args.seed}`

## Text

{counts["documents"]} prose documents ({counts["tokens"] / 1e6:.2f} M tokens), the documentation that comes with the sources below,
stripped to paragraphs that read as English and without repetitions.

| Source | Version | Licence | Files | Documents | M characters |
|---|---|---|---|---|---|
{sources}

Left out for want of a plainly permissive licence, or not installed: {"; ".join(corpus.left_out) or "none"}.

Never seen: the demo's tickets, banking77, SST-2, GSM8K; paragraphs that mention them are dropped.
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(__file__).parents[2] / "providers/llmtune_local/tiny_encoder"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps of {TOKENS_PER_STEP} tokens")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--small-corpus", action="store_true", help="read a few files only (for a smoke test)")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tiny_train.keep_memory()
    import torch

    torch.set_num_threads(args.threads)
    print("gathering documentation text ...", flush=True)
    corpus = tiny_corpus.gather(small=args.small_corpus)
    documents = [text for text in corpus.documents if len(text) >= SHORTEST_DOCUMENT]
    random.Random(args.seed).shuffle(documents)
    held = min(HELD_OUT, len(documents) // 5)
    tokenizer = train_tokenizer(documents[held : held + 40_000])

    def encode(texts: list[str]) -> torch.Tensor:
        """Documents one after the other, each closed by [SEP]."""
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return torch.tensor([token for one in encoded for token in (*one, tokenizer.sep_token_id)])

    need = args.steps * TOKENS_PER_STEP * 2
    tokens = encode(documents[held : held + need // 30 + 500])
    model = new_model(len(tokenizer), args.seed)
    embeddings = model.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight.copy_(word_vectors(tokens, len(tokenizer), model.config.hidden_size) * 0.15)
    counts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "documents": len(documents),
        "tokens": len(tokens),
    }
    print(f"training {counts['parameters']:,} parameters on {counts['tokens']:,} tokens of text ...", flush=True)
    progress = train(model, tokens, tokenizer, args.steps, args.seed)
    model.eval()
    apart = encode(documents[:held])
    loss = {length: held_out(model, apart, tokenizer, length) for length in (64, CONTEXT)}
    save(model, tokenizer, args.out)
    (args.out / "MODEL_CARD.md").write_text(card(args, corpus, counts, progress, loss), encoding="utf-8")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"done: held-out loss {loss}, {size / 1e6:.1f} MB in {args.out}", flush=True)


if __name__ == "__main__":
    main()
