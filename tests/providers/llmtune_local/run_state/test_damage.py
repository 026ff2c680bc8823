"""Files that a crash has damaged: each fault has one sentence, and what is whole has none."""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune_local.run_state.damage import (
    DamagedFile,
    DiskFull,
    artefact_fault,
    checkpoint_fault,
    describe,
    is_full,
    safetensors_fault,
)


def write_weights(path: Path, values: int = 8) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * 4 * values)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_weights(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 4}\n')
    (folder / "tokenizer.json").write_text('{"added": []}')
    return folder


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "is missing"), (b"", "is empty"), (b"\0" * 4096, "nothing but zero bytes"), (b'{"a": ', "is cut off")],
)
def test_each_damage_has_its_sentence(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    assert sentence in describe(path)
    assert str(path) in describe(path)


def test_a_folder_in_place_of_a_file_has_one_too(tmp_path: Path) -> None:
    assert "cannot be read" in describe(tmp_path)


def test_a_whole_adapter_has_no_fault(adapter: Path) -> None:
    assert artefact_fault(adapter) is None


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: cut(folder / "adapter_model.safetensors", 100), "is cut off: it has 100 bytes"),
        (lambda folder: cut(folder / "adapter_model.safetensors", 20), "is cut off"),
        (lambda folder: cut(folder / "adapter_model.safetensors", 3), "is cut off"),
        (lambda folder: cut(folder / "adapter_model.safetensors", 0), "is empty"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(bytes(500)), "zero bytes"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_bytes(bytes(20)), "zero bytes"),
        (lambda folder: cut(folder / "tokenizer.json", 5), "tokenizer.json is cut off"),
        (lambda folder: folder.rename(folder.parent / "away"), "adapter is missing"),
    ],
)
def test_a_damaged_adapter_is_named(damage: Callable[[Path], object], sentence: str, adapter: Path) -> None:
    damage(adapter)
    assert sentence in (artefact_fault(adapter) or "")


def test_a_file_that_was_written_must_be_there(adapter: Path) -> None:
    files = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json")
    assert artefact_fault(adapter, files) is None
    (adapter / "tokenizer.json").unlink()
    assert artefact_fault(adapter) is None
    assert "tokenizer.json is missing" in (artefact_fault(adapter, files) or "")


def test_every_part_of_a_model_must_be_there(adapter: Path) -> None:
    index = {"weight_map": {"a": "adapter_model.safetensors", "b": "part-2.safetensors"}}
    (adapter / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "part-2.safetensors is missing" in (artefact_fault(adapter) or "")
    write_weights(adapter / "part-2.safetensors")
    assert artefact_fault(adapter) is None


def test_weights_that_safetensors_itself_has_written_are_whole(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(0)}, path, metadata={"format": "pt"})
    assert safetensors_fault(path) is None
    cut(path, path.stat().st_size - 1)
    assert "is cut off" in (safetensors_fault(path) or "")


def test_a_checkpoint_is_whole_when_its_archive_has_an_end(tmp_path: Path) -> None:
    assert "is missing" in (checkpoint_fault(tmp_path) or "")
    with zipfile.ZipFile(tmp_path / "trainer.pt", "w") as archive:
        archive.writestr("data", "x" * 5000)
    assert checkpoint_fault(tmp_path) is None
    cut(tmp_path / "trainer.pt", 2000)
    assert "is cut off" in (checkpoint_fault(tmp_path) or "")
    (tmp_path / "trainer.pt").write_bytes(bytes(3000))
    assert "zero bytes" in (checkpoint_fault(tmp_path) or "")


@pytest.mark.parametrize(
    ("problem", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EFBIG, "File too large"), True),
        (RuntimeError("PytorchStreamWriter failed writing file: file write failed"), True),
        (DiskFull("8 MB are needed"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (DamagedFile("x is empty"), False),
        (KeyboardInterrupt("No space left on device"), False),
    ],
)
def test_a_full_disk_is_recognised_in_every_librarys_words(problem: BaseException, full: bool) -> None:
    assert is_full(problem) is full
