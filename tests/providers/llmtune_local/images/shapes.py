"""Small models of text and images with random weights, built from configurations; rows with squares of a colour."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLOURS = {"red": (220, 40, 40), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 200, 40)}

# The shapes of these templates are the families'; the words are ours.
_PARTS = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}MARK{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    + _PARTS.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>")
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    + _PARTS.replace("MARK", "<start_of_image>")
    + "{{ '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
#: Content is only rendered as a list of parts.
LISTS = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize + ':' }}{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ ' ' + p.text }}{% elif p.type == 'image' %}<image>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_QWEN_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 48}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}}
_SIZE = {"height": 16, "width": 16}
_GRID = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 1024}}


@dataclass(frozen=True)
class Shape:
    """How the configuration of a family is made small, and its tokens, template and image processor."""

    family: str
    settings: dict[str, Any]
    template: str
    tokens: dict[str, str]
    """Special tokens by the setting of the configuration that holds their number ("" for none)."""

    processor: str
    processing: dict[str, Any] = field(default_factory=dict)


_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "": "<|im_start|> <|im_end|>",
}
SHAPES = {
    shape.family: shape
    for shape in (
        Shape(
            "qwen3_vl",
            {
                "text_config": _TEXT | _MROPE | {"head_dim": 12},
                "vision_config": _QWEN_TOWER
                | {"patch_size": 8, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            },
            CHATML,
            _QWEN_TOKENS,
            "Qwen2VLImageProcessor",
            _GRID,
        ),
        Shape(
            "qwen2_5_vl",
            {
                "text_config": _TEXT | _MROPE,
                "vision_config": _QWEN_TOWER | {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1]},
            },
            CHATML,
            _QWEN_TOKENS,
            "Qwen2VLImageProcessor",
            _GRID,
        ),
        Shape(
            "gemma3",
            {
                "text_config": _TEXT | {"head_dim": 12, "sliding_window": 64},
                "vision_config": _TOWER,
                "mm_tokens_per_image": 4,
            },
            TURNS,
            {
                "image_token_index": "<image_soft_token>",
                "boi_token_index": "<start_of_image>",
                "eoi_token_index": "<end_of_image>",
                "": "<turn> <end>",
            },
            "Gemma3ImageProcessor",
            {"size": _SIZE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        ),
        Shape(
            "smolvlm",
            {
                "text_config": _TEXT | {"model_type": "llama"},
                "vision_config": _TOWER | {"image_size": 16, "patch_size": 4},
                "scale_factor": 2,
            },
            LISTS,
            {
                "image_token_id": "<image>",
                "": "<fake_token_around_image> <global-img> <row_1_col_1> <|im_start|> <end_of_utterance>",
            },
            "SmolVLMImageProcessor",
            {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}},
        ),
        Shape(
            "llava",
            {
                "text_config": _TEXT | {"model_type": "llama"},
                "vision_config": _TOWER | {"model_type": "clip_vision_model", "projection_dim": 32},
            },
            CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>"),
            {"image_token_index": "<image>", "": "<|im_start|> <|im_end|>"},
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 16}, "crop_size": _SIZE},
        ),
    )
}


def make_tokenizer(shape: Shape) -> Any:
    """Build a byte-level tokenizer with the special tokens of a shape."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = [token for text in shape.tokens.values() for token in text.split()]
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<pad>", *specials)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=specials,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = shape.template
    return tokenizer


def build(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of this family with random weights, its tokenizer and its image processor."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    shape = SHAPES[family]
    tokenizer = make_tokenizer(shape)
    numbers = {name: tokenizer.convert_tokens_to_ids(token) for name, token in shape.tokens.items() if name}
    sizes = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    settings = shape.settings | {"text_config": sizes | shape.settings["text_config"]}
    config = AutoConfig.for_model(family, **settings, **numbers)
    config.architectures = [MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family]]
    torch.manual_seed(seed)
    network = AutoModelForImageTextToText.from_config(config)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a projector that begins at zero would hide every image
            torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor: Any = getattr(transformers, f"{shape.processor}Pil")(**shape.processing)
    processor.save_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_processor_type": shape.processor}), encoding="utf-8"
    )
    return folder


def picture(colour: tuple[int, int, int], *, size: tuple[int, int] = (16, 16), format: str = "PNG") -> bytes:
    """Return the file of an image of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def row(name: str, url: str, *, question: str = "Is it red, green, blue or yellow?") -> dict[str, Any]:
    """Return a chat row as OpenAI's fine-tuning takes it."""
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": name}]}


def squares(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows that ask for the colour of a square, whose shade differs from row to row."""
    import random

    random_numbers = random.Random(seed)
    rows = []
    for number in range(count):
        name = list(COLOURS)[number % len(COLOURS)]
        shade = tuple(max(0, min(255, channel + random_numbers.randint(-25, 25))) for channel in COLOURS[name])
        rows.append(row(name, data_url(picture(shade))))
    random_numbers.shuffle(rows)
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows), encoding="utf-8")
    return path
