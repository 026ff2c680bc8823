"""The families of models whose images are read: which marks stand for an image in the text, and how many.

transformers' own processors do the same, but some need packages for video to be made at all (torchvision, num2words),
so only their image processors are used. `expand` of each family is tested against transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: The inputs that an image processor makes of one image.
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """How models of some types read images.

    `mark` returns the token that stands for an image in a rendered conversation, and `expand` what it is replaced by
    for an image with these inputs. `inputs` are those that the model takes, joined along `axis` for several images;
    `types_as` is the name under which it takes which tokens are of images, where it does.
    """

    models: tuple[str, ...]
    mark: Callable[[Any, Any], str | None]
    expand: Callable[[Any, Any, Any, Inputs], str]
    inputs: tuple[str, ...] = ("pixel_values",)
    axis: int = 0
    types_as: str | None = None
    processing: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the image processor that differ from a model's own."""

    mixes_in_weights: bool = False
    """Whether the model puts images among the embeddings of tokens in the precision of its weights."""


def image_token(config: Any) -> int:
    """Return the token that a model replaces by what it sees."""
    return int(config.image_token_id)


def _token(config: Any, tokenizer: Any) -> str:
    return _text_of(tokenizer, image_token(config)) or ""


def _text_of(tokenizer: Any, token: int) -> str | None:
    """Return a token's text; None where the tokenizer has no such token."""
    text = tokenizer.convert_ids_to_tokens(int(token)) if int(token) < len(tokenizer) else None
    return None if text is None else str(text)


def _expand_qwen(config: Any, tokenizer: Any, processor: Any, inputs: Inputs) -> str:
    patches = int(inputs["image_grid_thw"][0].prod())
    return _token(config, tokenizer) * (patches // int(processor.merge_size) ** 2)


def _gemma_mark(config: Any, tokenizer: Any) -> str | None:
    return _text_of(tokenizer, config.boi_token_index)


def _expand_gemma(config: Any, tokenizer: Any, processor: Any, inputs: Inputs) -> str:
    begin, end = _gemma_mark(config, tokenizer), _text_of(tokenizer, config.eoi_token_index)
    return f"\n\n{begin}{_token(config, tokenizer) * int(config.mm_tokens_per_image)}{end}\n\n"


def _expand_tiles(config: Any, tokenizer: Any, processor: Any, inputs: Inputs) -> str:
    """Return the marks of an image that was cut into tiles: row by row, then the whole image."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    marks = _token(config, tokenizer) * (patches // config.scale_factor**2)
    fence = "<fake_token_around_image>"
    rows, columns = int(inputs["rows"][0][0]), int(inputs["cols"][0][0])
    lines = [
        "".join(f"{fence}<row_{row + 1}_col_{column + 1}>{marks}" for column in range(columns)) + "\n"
        for row in range(rows)
    ]
    return "".join([*lines, "\n" if lines else "", fence, "<global-img>", marks, fence])


def _expand_llava(config: Any, tokenizer: Any, processor: Any, inputs: Inputs) -> str:
    height, width = inputs["pixel_values"].shape[-2:]
    patch = int(config.vision_config.patch_size)
    # CLIP's tower has a token for the whole image before its patches; the strategy "default" drops the first.
    whole = 1 if "clip" in config.vision_config.model_type else 0
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return _token(config, tokenizer) * (int(height // patch) * int(width // patch) + whole - dropped)


FAMILIES = (
    Family(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
        mark=_token,
        expand=_expand_qwen,
        inputs=("pixel_values", "image_grid_thw"),
        types_as="mm_token_type_ids",
    ),
    Family(
        ("gemma3",),
        mark=_gemma_mark,
        expand=_expand_gemma,
        types_as="token_type_ids",
        processing={"do_pan_and_scan": False},  # crops have sentences of their own around them
    ),
    Family(
        ("smolvlm", "idefics3"),
        mark=_token,
        expand=_expand_tiles,
        inputs=("pixel_values", "pixel_attention_mask"),
        axis=1,
        processing={"return_row_col_info": True},
        mixes_in_weights=True,
    ),
    Family(("llava",), mark=_token, expand=_expand_llava),
)


def find_family(config: Any) -> Family | None:
    """Return the family of a model by its configuration; None where its images are not read here."""
    return next((family for family in FAMILIES if config.model_type in family.models), None)


def has_marks(config: Any, tokenizer: Any) -> bool:
    """Return whether the tokenizer has the tokens that stand for an image in a model of a family."""
    family = find_family(config)
    return family is not None and bool(family.mark(config, tokenizer)) and bool(_token(config, tokenizer))


def family_names() -> str:
    """Return the types of models whose images are read, for people."""
    return ", ".join(name for family in FAMILIES for name in family.models)
