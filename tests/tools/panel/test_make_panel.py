"""The shipped panel: as its script makes it, and nothing of it in what the embedded models were trained on."""

from __future__ import annotations

import gzip
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmtune.evaluation.panel.questions import load_panel

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "tools" / "tiny_models"

#: Shorter sentences ("Hello.", "rot") stand in any text.
FEWEST_WORDS = 4

#: Lower case; what ends a sentence as NUL, and what is no word as a blank: fast over hundreds of megabytes.
SIGNS = bytes(
    0 if chr(code) in '.!?:;<>"|{}' else ord(chr(code).lower()) if chr(code).isalnum() or code in b"\0_" else 32
    for code in range(128)
) + bytes(range(128, 256))


def test_it_is_as_the_script_makes_it() -> None:
    script = ROOT / "tools" / "panel" / "make_panel.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "general.jsonl: as made\n"), done.stderr


def split_sentences(text: bytes) -> Iterator[bytes]:
    """Yield the sentences of a text in lower case, words alone, each long enough to be nobody else's by chance."""
    for piece in text.replace(b"\n\n", b"\0").translate(SIGNS).split(b"\0"):
        if len(words := piece.split()) >= FEWEST_WORDS:
            yield b" ".join(words)


@pytest.fixture(scope="module")
def sentences() -> set[bytes]:
    """The sentences of all questions, system prompts and reference answers."""
    turns = (turn for question in load_panel(True).questions for turn in question.row.messages)
    return {sentence for turn in turns for sentence in split_sentences(turn.words.encode())}


def test_none_of_its_sentences_is_in_the_chats_of_tiny(sentences: set[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MODELS))
    import tiny_chats

    assert len(sentences) > 300
    names = [("pandas", "read_table", "Read a table from a file.")] * 30
    chats = tiny_chats.chats(names, 22, 6000)
    trained = {sentence for chat in chats for turn in chat for sentence in split_sentences(turn["content"].encode())}
    assert len(trained) > 3000
    assert not sentences & trained


@pytest.mark.slow
def test_none_of_its_sentences_is_in_the_prose_of_tiny(sentences: set[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is made of these files, so what is in none of them is not in it."""
    monkeypatch.syspath_prepend(str(MODELS))
    import tiny_corpus

    roots = [Path(sysconfig.get_path("stdlib"))]
    roots += [root for package, _ in tiny_corpus.PACKAGES.values() if (root := tiny_corpus._package_root(package))]
    files = [
        path for root in roots for path in root.rglob("*.py") if "site-packages" not in path.relative_to(root).parts
    ]
    botocore = tiny_corpus._package_root("botocore")
    assert botocore is not None
    files += sorted((botocore / "data").glob("*/*/service-2.json.gz"))
    assert len(files) > 5000
    beginnings = {tuple(sentence.split(None, 2)[:2]) for sentence in sentences}
    common = set()
    for path in files:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        pieces = data.replace(b"\n\n", b"\0").translate(SIGNS).split(b"\0")
        candidates = (piece for piece in pieces if tuple(piece.split(None, 2)[:2]) in beginnings)
        common |= {sentence for piece in candidates if (sentence := b" ".join(piece.split())) in sentences}
    assert not common
