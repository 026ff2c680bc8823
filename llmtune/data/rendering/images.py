"""What renders the images of a conversation: a backend's reader of them, for one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llmtune.data.example import ImagePart


class ImageProblem(ValueError):
    """An image that cannot be given to the model: `message` says why, `remedy` how to change the row, `code` is that of
    the finding."""

    def __init__(self, message: str, remedy: str, *, code: str = "image") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


class ImageReader(Protocol):
    """The images of conversations, as one model is given them."""

    def check(self, images: Sequence[ImagePart]) -> None:
        """Raise `ImageProblem` where the model reads no images, not so many, or not such."""
        ...

    def expand(self, text: str, images: Sequence[ImagePart]) -> str:
        """Return a rendered text in which the mark of each image is replaced by all marks that the model reads it as.

        `images` are those of the turns in the text, in order. Raises `ImageProblem` for an image that cannot be read,
        or where there are not as many marks in the text as images.
        """
        ...
