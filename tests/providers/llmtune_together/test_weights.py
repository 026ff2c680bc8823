"""Archives of weights, as anybody could have written them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune.errors import VendorError
from llmtune_together import weights
from llmtune_together.weights import move_files, unpack

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"{}", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content) if info.type == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write(path: Path, *members: Member, pack: Callable[[bytes], bytes] = bytes) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.size else None)
    path.write_bytes(pack(plain.getvalue()))
    return path


def bring_home(archive: Path, folder: Path) -> dict[str, bytes]:
    """Unpack the files of the adapter and return them by name."""
    unpack(archive, folder / "unpacked")
    home = move_files(folder / "unpacked", folder / "home", "together")
    assert all(not file.is_symlink() for file in folder.rglob("*"))
    return {file.name: file.read_bytes() for file in home.iterdir()}


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data))


def bzip2(data: bytes) -> bytes:
    import bz2

    return bz2.compress(data)


def xz(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bzip2, xz, zstd], ids=["plain", "gz", "bz2", "xz", "zst"])
def test_an_adapter_comes_out_of_every_kind_of_archive(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    archive = write(
        tmp_path / "a",
        member("x/y/adapter_config.json", b'{"r": 1}'),
        member("x/y/adapter_model.safetensors", b"weights"),
        member("x/y/tokenizer.json"),
        member("x/y/tokenizer.model"),
        member("x/y/chat_template.jinja"),
        member("x/y/checkpoint/adapter_config.json", b'{"r": 2}'),
        pack=pack,
    )
    files = bring_home(archive, tmp_path)
    assert files["adapter_config.json"] == b'{"r": 1}'
    assert sorted(files) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer.model",
    ]


def test_only_regular_files_of_an_adapter_are_taken(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    flag = victim / "adapter_config.json"
    flag.write_text("untouched")
    link = {"type": tarfile.SYMTYPE, "size": 0}
    archive = write(
        tmp_path / "a",
        member("m/adapter_config.json", b'{"r": 4}'),
        member("m/tokenizer.json", linkname="../../../../etc/passwd", **link),
        member("m/vocab.json", linkname=str(flag), **(link | {"type": tarfile.LNKTYPE})),
        member("m/merges.txt", type=tarfile.FIFOTYPE, size=0),
        member("m/added_tokens.json", type=tarfile.CHRTYPE, size=0),
        # A folder that leads out, and a file behind it.
        member("out", linkname=str(victim), **link),
        member("out/adapter_config.json", b"overwritten"),
        member(f"{victim}/adapter_config.json", b"overwritten"),
        member("../victim/adapter_config.json", b"overwritten"),
        member("m/../../victim/adapter_config.json", b"overwritten"),
        member("m/pytorch_model.bin", b"pickle"),
        member("m/run.py", b"code"),
        member("m/..", b"x"),
        member("m/", b"x"),
    )
    assert bring_home(archive, tmp_path)["adapter_config.json"] == b'{"r": 4}'
    assert flag.read_text() == "untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "home", "unpacked", "victim"]
    assert [file.name for file in (tmp_path / "home").iterdir()] == ["adapter_config.json"]


def test_a_sparse_file_is_not_written_out(tmp_path: Path) -> None:
    # A GNU sparse member: a regular file by its type, 1 TiB by its claim, and no byte of content.
    info = tarfile.TarInfo("m/adapter_model.safetensors")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    archive = write(tmp_path / "a", member("m/adapter_config.json"))
    archive.write_bytes(bytes(header) + archive.read_bytes())
    assert list(bring_home(archive, tmp_path)) == ["adapter_config.json"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "zeros"])
def test_a_small_archive_that_stands_for_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(weights, "FREE", 1 << 16)
    archive = write(
        tmp_path / "a", member("m/adapter_config.json"), member(f"m/{name}", bytes(8 << 20)), pack=gzip.compress
    )
    with pytest.raises(VendorError, match=r"unpacks to more than [\d,]+ bytes: no adapter does"):
        unpack(archive, tmp_path / "unpacked")
    assert sum(file.stat().st_size for file in (tmp_path / "unpacked").rglob("*")) < 4 << 20


def test_a_download_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST", 1 << 20)
    with pytest.raises(VendorError, match="does not end"):
        weights._save((bytes(1 << 18) for _ in iter(int, 1)), tmp_path / "a")
    assert (tmp_path / "a").stat().st_size <= 1 << 20


BROKEN = {
    "nothing": b"",
    "no archive": b"this is a page of a proxy" * 100,
    "half a gzip": gzip.compress(bytes(range(256)) * 64)[:200],
    "gzip of noise": gzip.compress(b"\x07" * 4096),
    "zstandard of noise": b"\x28\xb5\x2f\xfd" + b"\xff" * 64,
    "xz of noise": b"\xfd7zXZ\x00" + b"\xff" * 64,
    "bzip2 of noise": b"BZh9" + b"\xff" * 64,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(BROKEN[name])
    with pytest.raises(VendorError, match="cannot be unpacked"):
        unpack(tmp_path / "a", tmp_path / "unpacked")


def test_an_archive_cut_off_in_a_file_is_a_sentence(tmp_path: Path) -> None:
    archive = write(tmp_path / "a", member("m/adapter_config.json", b"x" * 5000))
    archive.write_bytes(archive.read_bytes()[:2048])
    with pytest.raises(VendorError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "unpacked")
