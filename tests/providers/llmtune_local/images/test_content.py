"""Images are read from their rows alone, within limits, and a broken one is a sentence."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from PIL import Image

from llmtune.data.example import ImagePart
from llmtune.data.rendering.images import ImageProblem
from llmtune_local.images import content as images
from tests.providers.llmtune_local.images import shapes

PICTURE = shapes.picture((10, 20, 30))


def part(content: bytes, kind: str = "image/png") -> ImagePart:
    return ImagePart(shapes.data_url(content, kind))


def test_the_bytes_of_an_image_are_those_of_its_row() -> None:
    assert images.read_content(part(PICTURE)) == PICTURE
    assert images.read_content(part(PICTURE, "image/png;charset=utf-8")) == PICTURE


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/a.png", "is an address, and nothing is fetched here"),
        ("gs://bucket/a.png", "is an address"),
        ("s3://bucket/a.png", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("/etc/passwd", "is the name of a file, and none is opened"),
        ("pictures/a.png", "is the name of a file"),
        ("x" * 500, r"the image 'x{60}\.\.\.' is the name"),
        ("data:image/png,abc", "holds no base64"),
        ("data:image/png;base64", "holds no base64"),
        ("data:image/png;base64,a", "base64 of an image cannot be read"),
        ("data:image/png;base64,@@@@", "base64 of an image cannot be read"),
        ("data:image/png;base64,\u00fc", "base64 of an image cannot be read"),
        ("data:image/png;base64,", "an image is empty"),
        ("data:image/png;base64," + "A" * (images.MAX_BYTES * 4 // 3 + 8), "more than 20 MB"),
    ],
)
def test_what_is_not_in_the_row_or_broken_is_refused(url: str, says: str) -> None:
    with pytest.raises(ImageProblem, match=says) as problem:
        images.read_content(ImagePart(url))
    assert problem.value.remedy


@pytest.mark.parametrize("format", images.FORMATS)
def test_every_named_format_is_opened(format: str) -> None:
    opened = images.open_image(shapes.picture((10, 200, 30), size=(6, 4), format=format))
    assert (opened.mode, opened.size) == ("RGB", (6, 4))


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(ImageProblem, match="cannot be read as JPEG, PNG, WEBP"):
        images.open_image(shapes.picture((10, 200, 30), format=format))


@pytest.mark.parametrize("broken", [b"hello", PICTURE[:40], PICTURE[: len(PICTURE) // 2], b"\0" * 100])
def test_a_broken_image_is_a_sentence(broken: bytes) -> None:
    with pytest.raises(ImageProblem, match=f"an image of {len(broken)} bytes cannot be read"):
        images.open_image(broken)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_a_small_file_of_a_huge_image_is_refused_before_it_is_decoded(side: int) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    for read in (images.open_image, images.read_size):
        with pytest.raises(ImageProblem, match="more than 50,000,000 pixels"):
            read(huge)


def test_images_are_upright_and_in_rgb() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (8, 4)).save(file, "JPEG", exif=exif)
    opened = images.open_image(file.getvalue())
    assert (opened.mode, opened.size) == ("RGB", (4, 8))


def test_larger_images_are_scaled_down_and_smaller_ones_are_not() -> None:
    content = shapes.picture((1, 2, 3), size=(40, 20))
    assert images.open_image(content, max_pixels=200).size == (20, 10)
    assert images.open_image(content, max_pixels=800).size == (40, 20)
    assert images.read_size(content) == (40, 20)


def test_no_file_is_opened_by_a_name_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURE)
    with pytest.raises(ImageProblem):
        images.read_content(ImagePart(str(path)))
    assert base64.b64decode(shapes.data_url(PICTURE).partition(",")[2]) == path.read_bytes()
