"""The tokens and inputs of rows with images are those of transformers' own processors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
import transformers
from PIL import Image

from llmtune.data.formats.chat import CHAT
from llmtune.data.rendering.tokenize import Renderer
from llmtune_local.images.families import FAMILIES, find_family, has_marks
from llmtune_local.models.hub import load_config
from llmtune_local.models.loading import load_images, load_tokenizer
from tests.providers.llmtune_local.images import shapes

SIZES = [(16, 16), (60, 20), (9, 40)]


def published_processor(family: str, config: Any, tokenizer: Any, image_processor: Any) -> Any:
    """Return transformers' processor of a family. Those that need packages for video are made without their
    constructor, which asks for them."""
    names = {"qwen3_vl": "Qwen3VL", "qwen2_5_vl": "Qwen2_5_VL", "smolvlm": "SmolVLM", "gemma3": "Gemma3"}
    kind = getattr(transformers, f"{names.get(family, 'Llava')}Processor")
    vision = config.vision_config
    if family == "llava":
        return kind(
            image_processor,
            tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=1,
        )
    if family == "gemma3":
        for name, token in (("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<image_soft_token>")):
            setattr(tokenizer, f"{name}_token", token)
            setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        return kind(image_processor, tokenizer, image_seq_length=config.mm_tokens_per_image)
    processor = object.__new__(kind)
    processor.tokenizer, processor.image_processor = tokenizer, image_processor
    processor.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    processor.image_token_id = config.image_token_id
    if family == "smolvlm":
        processor.fake_image_token, processor.global_image_token = "<fake_token_around_image>", "<global-img>"
        processor.image_seq_len = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    return processor


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_tokens_and_inputs_are_those_of_the_familys_processor(family: str, tmp_path: Path) -> None:
    shapes.build(family, tmp_path)
    config, tokenizer = load_config(str(tmp_path)), load_tokenizer(str(tmp_path))
    reader: Any = load_images(str(tmp_path), None, tokenizer)
    contents = [shapes.picture((200, 30, 90), size=size) for size in SIZES]
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Compare these."}]
    parts += [{"type": "image_url", "image_url": {"url": shapes.data_url(content)}} for content in contents]
    parts.append({"type": "text", "text": "Which is largest?"})
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "the second"}]
    example = CHAT.read({"messages": messages}, 1, [])
    (row,) = Renderer(tokenizer, images=reader).render(example)

    answer: Any = "the second"
    if family == "smolvlm":
        answer = [{"type": "text", "text": answer}]
    plain = [{"type": "image"} if part["type"] == "image_url" else part for part in parts]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": plain}, {"role": "assistant", "content": answer}], tokenize=False
    )
    processor = published_processor(family, config, tokenizer, reader.processor)
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    expected = processor(text=[text], images=[opened], add_special_tokens=False, return_tensors="pt")
    ids = torch.tensor([row.ids])
    assert ids.tolist() == expected["input_ids"].tolist()
    inputs = reader.inputs(ids, reader.place(row.images, row.ids))
    for name in {"pixel_values", *inputs} & set(expected):
        assert torch.equal(inputs[name].float(), expected[name].float()), name
    assert {"pixel_values", *inputs} - {"token_type_ids", "mm_token_type_ids"} <= set(expected)


def test_every_family_is_one_that_transformers_has() -> None:
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert {model for family in FAMILIES for model in family.models} <= set(names)


def test_a_tokenizer_without_the_marks_reads_no_images(tmp_path: Path) -> None:
    shapes.build("qwen3_vl", tmp_path)
    config, tokenizer = load_config(str(tmp_path)), load_tokenizer(str(tmp_path))
    assert has_marks(config, tokenizer)
    config.image_token_id = 10**6
    assert not has_marks(config, tokenizer)
    config.model_type = "paligemma"
    assert find_family(config) is None
