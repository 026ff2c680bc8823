"""A tuned model as a folder: the files of its checkpoint, under names that PEFT and transformers load.

File names come from the service. Only the last part of one is used, and only those of weights as safetensors, of
configurations and of tokenizers are written: pickled weights (.bin, .pt) run code when they are loaded.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from llmtune.errors import InvalidJob, VendorError
from llmtune.provider import ModelRef
from llmtune_openai.client import Connection

_FILES = re.compile(r"[\w][\w.-]{0,120}\.(safetensors|json|jinja|txt|model)")
_BLOCK = 1 << 20
#: Bytes of one file; a full model of 70 billion parameters comes in files of 5 GB.
LARGEST = 64 << 30


def export(
    connection: Connection, model: ModelRef, files: Iterable[str], format: Literal["adapter", "merged"], into: Path
) -> tuple[str, ...]:
    """Download the checkpoint's `files` into the new folder `into`; return how to load it, in sentences.

    Raises:
        InvalidJob: the other format was trained, or the folder is not empty.
        VendorError: the service has no file that can be loaded.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InvalidJob(f"{into} is there already and is not empty", hint="name another folder with --out")
    is_adapter = bool(model.data.get("lora"))
    if format == "merged" and is_adapter:
        raise InvalidJob(
            f"{connection.title} holds the adapter of this run, not a merged model",
            hint=f"use --format adapter, and merge it into {model.base} with PEFT's merge_and_unload",
        )
    if format == "adapter" and not is_adapter:
        raise InvalidJob("this run tuned all weights: it has no adapter", hint="use --format merged")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".llmtune-export-") as folder:
        done = Path(folder) / "model"
        done.mkdir()
        left_out = [name for id in files if (name := _download(connection, id, done))]
        config = "adapter_config.json" if is_adapter else "config.json"
        if not (done / config).is_file():
            raise VendorError(f"{connection.title}: {model.id} has no {config} among its files")
        if into.exists():
            into.rmdir()
        done.rename(into)
    notes = [_how_to_load(model, into.absolute(), is_adapter)]
    if left_out:
        notes.append(f"left out, because loading them may run code or they are no model files: {', '.join(left_out)}")
    return tuple(notes)


def _download(connection: Connection, id: str, into: Path) -> str | None:
    """Write one file into the folder; return its name instead where it is not taken."""
    facts = connection.request(lambda sdk: sdk.files.with_raw_response.retrieve(id))
    name = PurePosixPath(str(facts.get("filename") or id)).name
    if not _FILES.fullmatch(name):
        return name
    size = 0
    with connection.translate_errors(), (into / name).open("wb") as file:
        streaming = connection.sdk.with_options(timeout=3600).files.with_streaming_response
        with streaming.content(id) as answer:
            for block in answer.iter_bytes(_BLOCK):
                size += len(block)
                if size > LARGEST:
                    raise VendorError(f"the download of {name} does not end: it is over {LARGEST >> 30} GiB")
                file.write(block)
    return None


def _how_to_load(model: ModelRef, folder: Path, is_adapter: bool) -> str:
    if is_adapter:
        return f'load it: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{model.base}"), "{folder}")'
    return f'load it: AutoModelForCausalLM.from_pretrained("{folder}")'
