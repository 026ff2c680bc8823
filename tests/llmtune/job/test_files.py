"""Job files that are none: each is one sentence, after little computing."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune.errors import InvalidJob
from llmtune.importers import import_job
from llmtune.job.files import LARGEST, read_mapping
from llmtune.job.values import DEPTH


def alias_bomb() -> str:
    names = "abcdefghij"
    lines = [f"a: &a [{', '.join(['x'] * 9)}]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in itertools.pairwise(names)]
    return "\n".join(lines)


ODD = {
    "aliases.yaml": (alias_bomb(), "counted as often as aliases repeat them"),
    "itself.yaml": ("name: &a [*a]", "nested too deeply"),
    "itself-by-name.yaml": ("name: &a {x: *a}", "nested too deeply"),
    "deep-flow.yaml": ("name: " + "[" * 5000 + "]" * 5000, "too (long, or too )?deeply"),
    "deep-block.yaml": ("".join(" " * level + "a:\n" for level in range(1200)), "nested too deeply"),
    "deep-list.yaml": ("name:\n  " + "- " * 5000 + "x", "nested too deeply"),
    "deep.json": ('{"name": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "deep-900.json": ('{"name": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
    "digits.yaml": ("seed: " + "9" * 6000, "more than 64 bits"),
    "digits.json": ('{"seed": ' + "9" * 6000 + "}", "more than 64 bits"),
    "hexadecimal.yaml": ("seed: 0x" + "f" * 6000, "seed is a whole number of more than 64 bits"),
    "sixty-five-bits.json": ('{"seed": 36893488147419103232}', "seed is a whole number of more than 64 bits"),
    "key.yaml": ("0x" + "f" * 200 + ": 1", "a name is a whole number of more than 64 bits"),
    "nul.json": ('{"dataset": {"train": "a\\u0000b"}}', "dataset.train holds a NUL"),
    "nul-in-a-name.json": ('{"a\\u0000b": 1}', "a name holds a NUL"),
    "surrogate.json": ('{"tags": ["\\ud800"]}', "tags holds half a surrogate pair"),
    "surrogate-in-a-name.json": ('{"\\ud800": 1}', "a name holds half a surrogate pair"),
    "date.yaml": ("name: 2001-99-99", "a value cannot be read: month"),
    "object.yaml": ("name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "long.yaml": ("x: y\n" * (LARGEST // 4), "a job file has at most"),
    "many.yaml": (
        "".join(f"k{number}: [1, 2]\n" for number in range(50_000)),
        "takes too long|more than 100,000 values",
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("read", [read_mapping, lambda path: import_job(path, kind="trl")], ids=["job", "import"])
def test_an_odd_file_is_one_sentence(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    text, sentence = ODD[name]
    path = tmp_path / name
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(InvalidJob, match=sentence) as caught:
        read(path)
    assert time.process_time() - begun < 4
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 400 + len(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", ["pipe.yaml", "pipe.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidJob, match="not a regular file but a pipe"):
        read_mapping(tmp_path / name)


def test_folders_devices_and_names_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="not a regular file but a folder"):
        read_mapping(tmp_path)
    with pytest.raises(InvalidJob, match="is not the name of a file"):
        read_mapping(Path("a\0b.yaml"))
    if Path("/dev/zero").exists():
        with pytest.raises(InvalidJob, match="a pipe, a socket or a device"):
            read_mapping(Path("/dev/zero"))


def test_aliases_and_levels_that_people_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("base: &base {epochs: 3}\nhyperparameters: {<<: *base, seed: 9223372036854775807}\nagain: *base\n")
    assert read_mapping(path) == {
        "base": {"epochs": 3},
        "hyperparameters": {"epochs": 3, "seed": 2**63 - 1},
        "again": {"epochs": 3},
    }
    path.write_text("a: " + "[" * (DEPTH - 2) + "]" * (DEPTH - 2))
    assert read_mapping(path)
