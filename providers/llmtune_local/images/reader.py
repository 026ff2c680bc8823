"""Images as a model reads them: the marks in the text, where they stand among the tokens, and the pixels."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from llmtune.data.rendering.images import ImageProblem
from llmtune_local.images.content import MAX_IMAGES, open_image, read_content, read_size
from llmtune_local.images.families import Family, family_names, find_family, image_token

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune.data.example import ImagePart

#: Bytes of processed images that are kept for the next time they are needed.
_KEPT_BYTES = 256 << 20
#: Expanded marks that are kept: a row is rendered once for each of its trained turns and more.
_KEPT_MARKS = 4096


class RowImage(NamedTuple):
    """An image of a tokenised row: its content, or the file that holds it, and the first of its tokens."""

    digest: str
    content: bytes | Path
    first: int

    def read(self) -> bytes:
        """Return its content."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class NoImages:
    """The reader of a model whose images are not read: it refuses every one. `reason` says why, after "a turn holds an
    image, and"."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def check(self, images: Sequence[ImagePart]) -> None:
        """Refuse images."""
        if images:
            raise ImageProblem(
                f"a turn holds an image, and {self._reason}",
                f"take the row out, or a model of another type: {family_names()}",
                code="not_text",
            )

    def expand(self, text: str, images: Sequence[ImagePart]) -> str:
        """Return the text, which must have no images."""
        self.check(images)
        return text


class ModelImages:
    """The reader of one model. `load_processor` returns transformers' image processor and is called for the first
    image; `keep` is a folder for the images of rows (None: they stay in memory), `max_pixels` the size to which larger
    images are scaled down. Without `decode`, of images of one size only the first is decoded: enough to count tokens,
    which depend on the size alone."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        load_processor: Callable[[], Any],
        *,
        max_pixels: int | None = None,
        keep: Path | None = None,
        decode: bool = True,
    ) -> None:
        family = find_family(config)
        assert family is not None
        self.family: Family = family
        self.config, self.tokenizer = config, tokenizer
        self._load_processor = load_processor
        self.max_pixels, self.keep, self._decode = max_pixels, keep, decode
        self.token = image_token(config)
        self.mark = str(family.mark(config, tokenizer))
        self._token_text = str(tokenizer.convert_ids_to_tokens(self.token))
        self._marks: OrderedDict[str, str] = OrderedDict()
        self._inputs: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._inputs_bytes = 0

    @cached_property
    def processor(self) -> Any:
        """The image processor."""
        return self._load_processor()

    def check(self, images: Sequence[ImagePart]) -> None:
        """Raise `ImageProblem` where there are too many images, or one is not in its row."""
        if len(images) > MAX_IMAGES:
            raise ImageProblem(f"{len(images)} images in the row; at most {MAX_IMAGES} are read", "cut the row")
        for image in images:
            read_content(image)

    def expand(self, text: str, images: Sequence[ImagePart]) -> str:
        """Return the text with the marks of all images as the model reads them. Raises `ImageProblem`."""
        pieces = text.split(self.mark)
        if len(pieces) - 1 != len(images):
            self._refuse_count(len(pieces) - 1, len(images))
        if self._token_text != self.mark and self._token_text in text:
            raise ImageProblem(f"the text holds {self._token_text!r}, which stands for an image", "take it out")
        if not images:
            return text
        expanded = [pieces[0]]
        for image, piece in zip(images, pieces[1:], strict=True):
            expanded += [self._expand_mark(image), piece]
        return "".join(expanded)

    def _refuse_count(self, marks: int, images: int) -> NoReturn:
        if marks < images:
            raise ImageProblem(
                f"the chat template leaves out an image ({images} in the turns, {marks} in its text)",
                "use the model's own template, and images in the user's turns",
            )
        raise ImageProblem(
            f"the text holds {self.mark!r}, which stands for an image ({marks} of them, and {images} images)",
            "take it out of the text: images are parts of a turn",
        )

    def _expand_mark(self, image: ImagePart) -> str:
        content = read_content(image)
        key = _digest(content) if self._decode else str(read_size(content))
        if key not in self._marks:
            inputs = self._process(content)
            self._marks[key] = self.family.expand(self.config, self.tokenizer, self.processor, inputs)
            if self._decode:
                self._keep_inputs(key, inputs)
            if len(self._marks) > _KEPT_MARKS:
                self._marks.popitem(last=False)
        return self._marks[key]

    def place(self, images: Sequence[ImagePart], ids: Sequence[int]) -> tuple[RowImage, ...]:
        """Return the images of a rendered row with the places of their tokens in `ids`."""
        if not images:
            return ()
        at = [index for index, token in enumerate(ids) if token == self.token]
        placed, start = [], 0
        for image in images:
            content = read_content(image)
            placed.append(RowImage(_digest(content), self._store(content), at[start]))
            start += self._expand_mark(image).count(self._token_text)
        assert start == len(at)
        return tuple(placed)

    def _store(self, content: bytes) -> bytes | Path:
        """Write an image to the folder, under a name by its content, unless it is there; return where it is."""
        if self.keep is None:
            return content
        path = self.keep / _digest(content)
        if not path.is_file():
            self.keep.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}-{id(self)}.tmp")
            temporary.write_bytes(content)
            temporary.replace(path)
        return path

    def inputs(self, ids: Tensor, images: Sequence[RowImage]) -> dict[str, Any]:
        """Return what the model takes beside the tokens [rows, length], whose images these are in order."""
        import torch

        parts = [self._inputs_of(image) for image in images]
        family = self.family
        joined: dict[str, Any] = {
            name: torch.cat([part[name] for part in parts], dim=family.axis).to(ids.device)
            for name in family.inputs
            if name in parts[0]
        }
        if family.types_as is not None:
            joined[family.types_as] = (ids == self.token).long()
        return joined

    def _inputs_of(self, image: RowImage) -> dict[str, Tensor]:
        if image.digest in self._inputs:
            self._inputs.move_to_end(image.digest)
            return self._inputs[image.digest]
        return self._keep_inputs(image.digest, self._process(image.read()))

    def _keep_inputs(self, digest: str, processed: Any) -> dict[str, Tensor]:
        inputs = {name: processed[name] for name in self.family.inputs if name in processed}
        if digest not in self._inputs:
            self._inputs[digest] = inputs
            self._inputs_bytes += _size(inputs)
        while self._inputs_bytes > _KEPT_BYTES and len(self._inputs) > 1:
            self._inputs_bytes -= _size(self._inputs.popitem(last=False)[1])
        return inputs

    def _process(self, content: bytes) -> Any:
        image = open_image(content, max_pixels=self.max_pixels)
        try:
            return self.processor(
                images=[image],
                return_tensors="pt",
                input_data_format="channels_last",
                **self.family.processing,
            )
        except ValueError as problem:  # such as an image that is far too wide
            size = f"{image.width:,} x {image.height:,}"
            raise ImageProblem(
                f"the model takes no image of {size} pixels: {problem}", "change its size, or take it out"
            ) from None


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _size(inputs: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in inputs.values())
