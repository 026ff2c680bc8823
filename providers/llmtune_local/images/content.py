"""The images that stand in rows: taken out of their data URLs and opened, with limits on their size.

Nothing is fetched and no file is opened by a name that a row gives: a row of a training file, or a request to
`llmtune serve`, can only show what it carries itself.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from llmtune.data.rendering.images import ImageProblem
from llmtune.errors import MissingExtra

if TYPE_CHECKING:
    from llmtune.data.example import ImagePart

T = TypeVar("T")

#: Bytes and pixels of an image at most, and images of a row.
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
MAX_IMAGES = 64
#: Formats that are opened, by Pillow's names.
FORMATS = ("JPEG", "PNG", "WEBP")
#: Characters of an address that a message shows.
_SHOWN = 60
_EMBED = "write it into the row as data:image/png;base64,..."


def read_content(image: ImagePart) -> bytes:
    """Return the bytes of an image that stands in its row. Raises `ImageProblem` for any other, and above the limit."""
    return _read_url(image.url)


@lru_cache(maxsize=8)  # a row is rendered once for each of its trained turns and more
def _read_url(url: str) -> bytes:
    if not url.startswith("data:"):
        name = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
        what = (
            "is an address, and nothing is fetched here"
            if "://" in url
            else "is the name of a file, and none is opened"
        )
        raise ImageProblem(f"the image {name!r} {what}", f"{_EMBED} (docs/vision.md has a script)")
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ImageProblem(f"the image {url[:_SHOWN]!r} holds no base64", _EMBED)
    if len(text) * 3 // 4 > MAX_BYTES:
        raise ImageProblem(f"an image has more than {MAX_BYTES // 1_000_000} MB", "make it smaller")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ImageProblem("the base64 of an image cannot be read", "encode its file again") from None
    if not content:
        raise ImageProblem("an image is empty", "take it out")
    return content


def read_size(content: bytes) -> tuple[int, int]:
    """Return width and height of an image in pixels, from its head alone. Raises as `open_image`."""
    return _open(content, lambda image: (int(image.width), int(image.height)))


def open_image(content: bytes, *, max_pixels: int | None = None) -> Any:
    """Return a Pillow image in RGB, upright, scaled down to `max_pixels` where it has more.

    Raises `ImageProblem` where it cannot be read or is too large, `MissingExtra` without Pillow.
    """

    def decode(opened: Any) -> Any:
        from PIL import ImageOps

        return ImageOps.exif_transpose(opened).convert("RGB")

    image = _open(content, decode)
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        from PIL import Image

        scale = (max_pixels / pixels) ** 0.5
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def _open(content: bytes, read: Callable[[Any], T]) -> T:
    """Return what `read` makes of the opened image, which is decoded when it asks for that."""
    try:
        from PIL import Image
    except ImportError as fault:
        raise MissingExtra("images", "pillow", purpose="reading images") from fault
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused below
            opened: Any = Image.open(io.BytesIO(content), formats=FORMATS)
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return read(opened)
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise ImageProblem(f"an image has more than {MAX_PIXELS:,} pixels", "make it smaller") from None
    except Exception as problem:  # noqa: BLE001 - a broken file makes the decoders raise nearly anything
        raise ImageProblem(
            f"an image of {len(content):,} bytes cannot be read as {', '.join(FORMATS)} ({type(problem).__name__})",
            "convert it, such as to PNG",
        ) from None
