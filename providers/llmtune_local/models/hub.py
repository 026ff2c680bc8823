"""Where a model is: a folder, the embedded ones, the hub's cache; and its configuration."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidJob
from llmtune_local.libraries import prepare_libraries

_ENCODERS = ("bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2", "xlm-roberta", "albert", "mpnet")


#: Models inside this package, by the name a job gives.
EMBEDDED = {"tiny": "tiny", "tiny-encoder": "tiny_encoder"}
#: Every name that this package's folder has had: adapters that were saved then name their base by it. None goes away.
FOLDERS = frozenset({"llmtune_local"})


def locate(model: str) -> str:
    """What transformers loads for a model id: `tiny` and `tiny-encoder` are folders inside this package, anything
    else is itself.

    Saved adapters name their base this way, so that `AutoPeftModelForCausalLM.from_pretrained(adapter)` loads one of
    `tiny` on every machine where llmtune lies in the same place. Elsewhere llmtune itself still knows it
    (`adapter_of`); for PEFT give the base by hand:
    `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(locate("tiny")), adapter)`.
    """
    if model not in EMBEDDED:
        return model
    return str(Path(__file__).parents[1] / EMBEDDED[model])


def check_model(model: str, revision: str | None = None, method: str = "sft") -> Any:
    """The model's configuration. Raises `InvalidJob` when there is no such model, or not one that generates text (in
    method classification: not one that takes a head for labels)."""
    prepare_libraries()
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    base, _ = adapter_of(model)
    path = locate(base)
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise InvalidJob(f"the folder {path} holds no model (no config.json)", where="model")
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        raise InvalidJob(
            f"there is no model {base!r}: {first_line(problem)}",
            where="model",
            hint="give a Hugging Face id such as Qwen/Qwen3-0.6B, a folder with a model, or tiny",
        ) from None
    if method == "classification":
        if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            raise InvalidJob(
                f"{base!r} is a {config.model_type} model, which transformers gives no head for labels",
                where="model",
                hint="take an encoder, such as tiny-encoder or answerdotai/ModernBERT-base",
            )
        return config
    encodes = config.model_type in _ENCODERS and not getattr(config, "is_decoder", False)
    if encodes or (config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not has_text_part(config)):
        raise InvalidJob(
            f"{base!r} is a {config.model_type} model, which {_why_not(config, encodes=encodes)}",
            where="model",
            hint="method classification tunes encoders" if encodes else None,
        )
    return config


def has_text_part(config: Any) -> bool:
    """Whether this is a model of text and images (or sound), whose text part is trained and saved under the names that
    it has there: so published, or with no class for the text part alone."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    if whole is None or getattr(config, "is_encoder_decoder", False) or config.get_text_config() is config:
        return False
    text = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return text is None or whole in (getattr(config, "architectures", None) or ())


def auto_class(config: Any) -> Any:
    """The transformers class that loads a model which generates text."""
    import transformers

    return transformers.AutoModelForImageTextToText if has_text_part(config) else transformers.AutoModelForCausalLM


def _why_not(config: Any, *, encodes: bool) -> str:
    if getattr(config, "is_encoder_decoder", False) and not encodes:
        return "generates text with an encoder and a decoder: decoder-only models can be trained here"
    return "does not generate text"


def adapter_of(model: str) -> tuple[str, Path | None]:
    """The base model and the adapter folder when `model` is a folder with a LoRA adapter; else itself and None."""
    folder = Path(model)
    settings = folder / "adapter_config.json"
    if model in EMBEDDED or not settings.is_file():
        return model, None
    base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InvalidJob(f"the adapter in {folder} does not name its base model", where="model")
    return _embedded(str(base)), folder


@contextlib.contextmanager
def no_progress_bars(*, warnings: bool = True) -> Iterator[None]:
    """Keep transformers from drawing bars on the terminal while it reads and writes weights; that is not ours to print.

    Without `warnings` it does not report weights that are not in the file either.
    """
    from transformers.utils import logging

    settings: Any = logging
    had_bars, verbosity = settings.is_progress_bar_enabled(), settings.get_verbosity()
    settings.disable_progress_bar()
    if not warnings:
        settings.set_verbosity_error()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if had_bars:
            settings.enable_progress_bar()


def first_line(problem: BaseException) -> str:
    """The first line of an error that says something, or its name."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


def _embedded(base: str) -> str:
    """The name of an embedded model where `base` is its folder in an installation that is not there any more."""
    place = Path(base)
    if place.parent.name not in FOLDERS or place.exists():
        return base
    return next((name for name, folder in EMBEDDED.items() if folder == place.name), base)
