"""Locations of models (a folder, an embedded model, the hub's cache) and their configurations."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidJob
from llmtune_local.libraries import prepare_libraries
from llmtune_local.models.gguf_file import find_gguf, loading_options
from llmtune_local.run_state.cache import stamp

#: Types of models that are encoders, by their name in transformers.
ENCODERS = ("bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2", "xlm-roberta", "albert", "mpnet")


#: Models inside this package, by the name a job gives.
EMBEDDED = {"tiny": "tiny", "tiny-encoder": "tiny_encoder"}
#: Every name that this package's folder has had, which saved adapters may name their base by. None may be removed.
FOLDERS = frozenset({"llmtune_local"})


def locate(model: str) -> str:
    """Return what transformers loads for a model id: the folder of an embedded model, else the id itself.

    Saved adapters name their base this way, so that `AutoPeftModelForCausalLM.from_pretrained(adapter)` loads one of
    `tiny` on every machine where llmtune is installed in the same place. Elsewhere llmtune still recognises it
    (`split_adapter`); for PEFT give the base by hand:
    `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(locate("tiny")), adapter)`.
    """
    if model not in EMBEDDED:
        return model
    return str(Path(__file__).parents[1] / EMBEDDED[model])


def locate_for_loading(model: str) -> tuple[str, Path | None]:
    """Return the folder or id that `from_pretrained` takes for a model, and its GGUF file where it is one."""
    file = None if model in EMBEDDED else find_gguf(model)
    return (locate(model), None) if file is None else (str(file.parent), file)


def saved_gguf(model: str) -> Path | None:
    """Return the GGUF file that a saved model was trained from, even where it is gone; None for any other base."""
    try:
        return locate_for_loading(model)[1]
    except InvalidJob:
        return Path(model)


def load_config(model: str, revision: str | None = None, method: str = "sft") -> Any:
    """Load the model's configuration.

    Raises `InvalidJob` when there is no such model, or it does not generate text (in method classification: it takes no
    head for labels).
    """
    prepare_libraries()
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    base, _ = split_adapter(model)
    path, gguf = locate_for_loading(base)
    if gguf is None and Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise InvalidJob(f"the folder {path} holds no model (no config.json and no .gguf file)", where="model")
    if gguf is not None and method == "classification":
        raise InvalidJob(
            f"{base!r} is a GGUF file, which holds a model that generates text",
            where="model",
            hint="method classification trains encoders, such as tiny-encoder or answerdotai/ModernBERT-base",
        )
    try:
        config = (
            AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
            if gguf is None
            else copy.deepcopy(_read_gguf_config(gguf, stamp(str(gguf))))
        )
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
    encodes = config.model_type in ENCODERS and not getattr(config, "is_decoder", False)
    if encodes or (config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not has_text_part(config)):
        raise InvalidJob(
            f"{base!r} is a {config.model_type} model, which {_reason_not_causal(config, encodes=encodes)}",
            where="model",
            hint="method classification tunes encoders" if encodes else None,
        )
    return config


@functools.lru_cache(maxsize=4)
def _read_gguf_config(file: Path, stamp: tuple[object, ...]) -> Any:
    """Read the configuration from a GGUF file: its vocabulary is read with it, which takes seconds."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(file.parent), trust_remote_code=False, **loading_options(file))


def has_text_part(config: Any) -> bool:
    """Return whether this is a model of text and images (or sound), of which only the text part is trained.

    It is then saved under the names that the text part has there: the model was published so, or transformers has no
    class for the text part alone.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    class_name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    if class_name is None or getattr(config, "is_encoder_decoder", False) or config.get_text_config() is config:
        return False
    text = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return text is None or class_name in (getattr(config, "architectures", None) or ())


def auto_class(config: Any) -> Any:
    """Return the transformers class that loads a model which generates text."""
    import transformers

    return transformers.AutoModelForImageTextToText if has_text_part(config) else transformers.AutoModelForCausalLM


def _reason_not_causal(config: Any, *, encodes: bool) -> str:
    if getattr(config, "is_encoder_decoder", False) and not encodes:
        return "generates text with an encoder and a decoder: decoder-only models can be trained here"
    return "does not generate text"


def split_adapter(model: str) -> tuple[str, Path | None]:
    """Return base model and adapter folder of a folder with a LoRA adapter; of any other model itself and None."""
    folder = Path(model)
    settings = folder / "adapter_config.json"
    if model in EMBEDDED or not settings.is_file():
        return model, None
    base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InvalidJob(f"the adapter in {folder} does not name its base model", where="model")
    return _embedded_name(str(base)), folder


#: Held while a model is loaded: transformers changes settings of the whole process meanwhile (the default dtype, how
#: weights are created and initialised), and two threads that load at once leave them broken for every later load.
LOADING = threading.RLock()


@contextlib.contextmanager
def no_progress_bars(*, warnings: bool = True) -> Iterator[None]:
    """Keep transformers from drawing progress bars on the terminal while it reads and writes weights: one at a time.

    Without `warnings` it does not report weights that are missing in the file either.
    """
    from transformers.utils import logging

    settings: Any = logging
    with LOADING:
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
    """Return the first line of an error that is not empty, or the error's name."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


def _embedded_name(base: str) -> str:
    """Return the name of an embedded model where `base` is its folder in an installation that no longer exists."""
    path = Path(base)
    if path.parent.name not in FOLDERS or path.exists():
        return base
    return next((name for name, folder in EMBEDDED.items() if folder == path.name), base)
