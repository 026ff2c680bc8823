"""Train the embedded base model `tiny` from nothing, on text that this machine already holds.

    python tools/tiny_models/build_tiny.py [--steps N] [--out providers/llmtune_local/tiny]

It gathers documentation text from CPython and installed packages (`tiny_corpus`), makes chats (`tiny_chats`), trains
a byte-complete tokenizer and a small Llama (`tiny_model`), and writes both with a model card that says what went in
and what came out. Nothing is downloaded. The demo's tickets and the evaluation sets are never read.

With the same package versions, thread count and seed, the text and its order are the same; the weights agree up to
the rounding of the machine's matrix multiplication.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from pathlib import Path

import tiny_card
import tiny_chats
import tiny_corpus
import tiny_model
import tiny_train

STEPS = 2400
CHAT_SHARE = 0.55
MATRIX_RATE, OTHER_RATE = 7e-3, 1e-2
HELD_OUT_DOCUMENTS, HELD_OUT_NAMES = 1000, 2000
#: shorter documents are labels more than prose; they serve the naming exercises only.
SHORTEST_DOCUMENT = 60


def say(text: str) -> None:
    """Print at once: the run is watched through pipes."""
    print(text, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "providers/llmtune_local/tiny")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of 4096 tokens")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--small-corpus", action="store_true", help="read a few files only (for a smoke test)")
    parser.add_argument("--checkpoint-every", type=int, default=400, help="steps between two writes of the model")
    parser.add_argument("--state", type=Path, help="keep the state here, and continue from it where it exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    begun = time.perf_counter()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a shared machine, waiting threads must not spin
    tiny_train.keep_memory()
    import torch

    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)

    say("gathering documentation text ...")
    corpus = tiny_corpus.gather(small=args.small_corpus)
    documents = [text for text in corpus.documents if len(text) >= SHORTEST_DOCUMENT]
    names = list(corpus.names)
    rng.shuffle(documents)
    rng.shuffle(names)
    held = min(HELD_OUT_DOCUMENTS, len(documents) // 5)
    held_names = min(HELD_OUT_NAMES, len(names) // 5)
    say(
        f"{sum(s.files for s in corpus.sources)} files of {len(corpus.sources)} sources: {len(documents)} documents, "
        f"{sum(map(len, documents)) / 1e6:.1f} M characters, {len(names)} names"
    )

    say("training the tokenizer ...")
    sample = tiny_chats.chats(names[held_names:], args.seed + 1, 20_000)
    tokenizer = tiny_model.train_tokenizer(documents[held : held + 30_000] + [m["content"] for c in sample for m in c])

    need = args.steps * tiny_train.TOKENS_PER_STEP
    # 40 tokens a document and 55 a chat are below the averages: there is always enough, and little is encoded in vain.
    targets = documents[held : held + int(need * (1 - CHAT_SHARE) / 40) + 500]
    prose = tiny_train.encode_prose(tokenizer, targets)
    chats = tiny_chats.chats(names[held_names:], args.seed + 2, int(need * CHAT_SHARE / 55) + 500)
    chat_stream = tiny_train.encode_chats(tokenizer, chats, args.seed)
    held_prose = tiny_train.encode_prose(tokenizer, documents[:held])
    held_chats = tiny_train.encode_chats(
        tokenizer, tiny_chats.chats(names[:held_names], args.seed + 3, 3000), args.seed
    )
    say(
        f"tokens at hand: prose {len(prose.tokens) / 1e6:.2f} M, chats {len(chat_stream.tokens) / 1e6:.2f} M; "
        f"to be trained on: {need / 1e6:.2f} M"
    )

    model = tiny_model.new_model(tokenizer, args.seed)
    say(f"training {sum(p.numel() for p in model.parameters()):,} parameters on {args.threads} threads ...")
    facts = tiny_card.Facts(
        command=f"python tools/tiny_models/build_tiny.py --steps {args.steps} --seed {args.seed}"
        + (" --small-corpus" if args.small_corpus else ""),
        corpus=corpus,
        documents=len(documents),
        chats=len(chats),
        prose_tokens=len(prose.tokens),
        chat_tokens=len(chat_stream.tokens),
        chat_share=CHAT_SHARE,
        rates=(MATRIX_RATE, OTHER_RATE),
        parameters=sum(p.numel() for p in model.parameters()),
        threads=args.threads,
        machine=f"{platform.system()} {platform.machine()}",
        seed=args.seed,
        planned_steps=args.steps,
    )

    def publish(progress: tiny_train.Progress) -> None:
        model.eval()
        prose_loss = tiny_train.held_out_loss(model, held_prose, answers_only=False)
        chat_loss = tiny_train.held_out_loss(model, held_chats, answers_only=True)
        far = tiny_train.held_out_loss(model, held_prose, answers_only=False, length=tiny_model.CONTEXT)
        model.train()
        tiny_model.save(model, tokenizer, args.out)
        card = tiny_card.write(facts, progress, prose_loss, chat_loss, far, time.perf_counter() - begun)
        (args.out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        say(f"written to {args.out}: held-out loss {prose_loss:.3f} on prose, {chat_loss:.3f} on answers")

    config = tiny_train.TrainingConfig(
        steps=args.steps,
        seed=args.seed,
        chat_share=CHAT_SHARE,
        matrix_rate=MATRIX_RATE,
        other_rate=OTHER_RATE,
        checkpoint_every=args.checkpoint_every,
        state=args.state,
    )
    progress = tiny_train.train(model, prose, chat_stream, config, say=say, checkpoint=publish)
    publish(progress)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    say(f"done in {time.perf_counter() - begun:.0f} s; {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
