"""A tuned model as a folder that others load: the adapter as PEFT has it, or one model with the adapter merged in."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidJob
from llmtune_local.models import loading as models
from llmtune_local.models import shape
from llmtune_local.models.hub import load_config, saved_gguf
from llmtune_local.models.merging import load_merged
from llmtune_local.run_state.damage import DamagedFile, artefact_fault
from llmtune_local.run_state.run_dir import DECISIONS_FILE
from llmtune_local.training.checkpoints import write_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Format = Literal["adapter", "merged"]

#: Layers of a model of text and images that are outside of its text part, by their full names.
_OUTSIDE_TEXT = re.compile(r"(?:^|\.)(?:visual|vision_tower|vision_model|multi_modal_projector|connector)\.")

#: What to do where the folder cannot be written.
_OTHER_FOLDER = "name another folder with --out"

#: The ranks vLLM has kernels for (`--max-lora-rank`, docs.vllm.ai, 2026-11).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def export(artefact: Path, data: Mapping[str, Any], format: Format, into: Path) -> tuple[str, ...]:
    """Write the model to the folder `into`, with its tokenizer and chat template; return how to serve it, in sentences.

    `data` is the data of the run's model reference: base, revision, method. The folder must not exist, or be empty; it
    appears when it is complete.

    Raises:
        InvalidJob: there is no adapter to export (all weights were tuned), or the folder is not empty.
    """
    check_empty(into)
    adapter = (artefact / "adapter_config.json").is_file()
    if format == "adapter":
        if not adapter:
            raise InvalidJob("this run tuned all weights: it has no adapter", hint="use --format merged")
        _copy_folder(artefact, into)
        return _adapter_notes(into, json.loads((into / "adapter_config.json").read_text(encoding="utf-8")), data)
    if adapter:
        _merge(artefact, data, into)
    else:
        _copy_folder(artefact, into)
    return _merged_notes(into, data)


def check_empty(into: Path) -> None:
    """Raise `InvalidJob` where there is something in the folder that is to be written, or where it cannot be made."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InvalidJob(f"{into} is there already and is not empty", hint=_OTHER_FOLDER)
    above = next(folder for folder in into.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "is a file" if not above.is_dir() else "may not be written to"
        raise InvalidJob(f"{into} cannot be written: {above} {reason}", hint=_OTHER_FOLDER)


def make_parent(into: Path) -> None:
    """Make the folder around the one that is to be written. Raises `InvalidJob` where that cannot be done."""
    try:
        into.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidJob(f"{into} cannot be written: {problem.strerror}", hint=_OTHER_FOLDER) from None


def write_new(into: Path, write: Callable[[Path], None], *, needs: int) -> None:
    """Write the folder `into` by `write`, which needs so many bytes; it appears when it is complete.

    Raises `InvalidJob` where it cannot be written.
    """
    make_parent(into)
    final = into.absolute()
    try:
        write_folder(remove_empty(final), write, needs=needs)
    except OSError as problem:
        path = Path(problem.filename) if isinstance(problem.filename, str) else final
        if not path.is_relative_to(final.parent):  # a file that was read
            raise
        reason = problem.strerror or str(problem)
        raise InvalidJob(f"{into} cannot be written: {reason}", hint=_OTHER_FOLDER) from None


def remove_empty(into: Path) -> Path:
    """Remove the folder, which is empty if it is there, make the one around it, and return its full path."""
    into.parent.mkdir(parents=True, exist_ok=True)
    if into.exists():
        into.rmdir()
    return into.absolute()


def _copy_folder(artefact: Path, into: Path) -> None:
    files = [path for path in artefact.iterdir() if path.is_file()]

    def write(folder: Path) -> None:
        for path in files:
            shutil.copyfile(path, folder / path.name)  # with the mode of new files, not the run folder's

    write_new(into, write, needs=sum(path.stat().st_size for path in files))


def _merge(artefact: Path, data: Mapping[str, Any], into: Path) -> None:
    """Merge in float32 on the CPU; the result is in the precision in which the base was published."""
    import torch

    base, revision = str(data["model"]), data.get("revision")
    tokenizer = models.load_tokenizer(str(artefact), revision)
    labelled = data.get("method") == "classification"
    published = getattr(load_config(base, revision, data.get("method", "sft")), "dtype", None)
    if labelled:
        from llmtune_local.models.encoder import LABELS_FILE, load_tuned

        network, _ = load_tuned(base, artefact, revision, "cpu", tokenizer)
    else:
        network = load_merged(artefact, data)
    half = not labelled and published in (torch.float16, torch.bfloat16)

    def write(path: Path) -> None:
        models.save_artefact(network, tokenizer, path, half=half)
        models.copy_image_processor(base, revision, path)
        if (artefact / DECISIONS_FILE).is_file():
            shutil.copyfile(artefact / DECISIONS_FILE, path / DECISIONS_FILE)
        if labelled:
            shutil.copy(artefact / LABELS_FILE, path)

    bytes_ = sum(parameter.numel() for parameter in network.parameters()) * (2 if half else 4)
    write_new(into, write, needs=bytes_)


def _adapter_notes(into: Path, settings: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, ...]:
    if saved_gguf(str(data.get("model", ""))) is not None:
        return ("neither vLLM nor PEFT loads an adapter of a GGUF file's model: export it with --format merged",)
    if (why := reason_not_servable(settings)) is not None:
        return (f"vLLM does not serve {why}: export it with --format merged", _peft_note(into, data))
    command = serve_adapter_command(into.absolute(), settings, data, "tuned")
    return (f"vLLM serves it beside its base: {command}   (ask for the model 'tuned')", _peft_note(into, data))


def reason_not_servable(settings: Mapping[str, Any]) -> str | None:
    """Return which property of an adapter keeps vLLM from serving it beside its base; None where nothing does."""
    rank = _largest_rank(settings)
    for blocks, says in (
        (settings.get("use_dora"), "a DoRA adapter"),
        (settings.get("modules_to_save"), "an adapter with whole modules in it"),
        (
            any(_OUTSIDE_TEXT.search(name) for name in settings.get("target_modules") or ()),
            "an adapter on what reads images",
        ),
        (settings.get("target_parameters"), "an adapter on parameters, such as those of routed experts"),
        (settings.get("bias", "none") != "none" or settings.get("lora_bias"), "an adapter with biases"),
        (rank > _RANKS[-1], f"an adapter of rank {rank}"),
    ):
        if blocks:
            return says
    return None


def serve_adapter_command(folder: Path, settings: Mapping[str, Any], data: Mapping[str, Any], name: str) -> str:
    base = str(settings.get("base_model_name_or_path") or data.get("model"))
    revision = f" --revision {quote(str(data['revision']))}" if data.get("revision") and not Path(base).is_dir() else ""
    rank = next(rank for rank in _RANKS if _largest_rank(settings) <= rank)
    # Beside its base, answers would end as the base's do.
    ends = f" --generation-config {quote(str(folder))}" if (folder / "generation_config.json").is_file() else ""
    served = f"--lora-modules {quote(f'{name}={folder}')} --max-lora-rank {rank}"
    return f"vllm serve {quote(base)}{revision} --enable-lora {served}{ends}"


def _largest_rank(settings: Mapping[str, Any]) -> int:
    """Return the rank that vLLM must be set to: a pattern may give some of the adapter's layers a larger one."""
    return max([int(settings.get("r", 16)), *map(int, (settings.get("rank_pattern") or {}).values())])


def _auto_class(folder: Path) -> str:
    return "AutoModelForImageTextToText" if shape.has_text_config(folder) else "AutoModelForCausalLM"


def _peft_note(into: Path, data: Mapping[str, Any]) -> str:
    base = shape.find_model_folder(str(data.get("model", "")), data.get("revision"))
    if base is not None and shape.has_text_config(base):
        loaded = f"AutoModelForImageTextToText.from_pretrained({str(data['model'])!r})"
        return f"PEFT loads it: PeftModel.from_pretrained({loaded}, {str(into)!r})"
    return f"PEFT loads it: AutoPeftModelForCausalLM.from_pretrained({str(into)!r})"


def _merged_notes(into: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    if data.get("method") == "classification":
        return (
            f"vLLM serves it: {serve_model_command(into.absolute(), data)}   (POST /classify)",
            f"transformers loads it: AutoModelForSequenceClassification.from_pretrained({str(into)!r})",
        )
    return (
        f"vLLM serves it: {serve_model_command(into.absolute(), data)}   (the chat template is in the folder)",
        f"transformers loads it: {_auto_class(into)}.from_pretrained({str(into)!r})",
    )


def serve_model_command(folder: Path, data: Mapping[str, Any]) -> str:
    return f"vllm serve {quote(str(folder))}" + (" --runner pooling" if data.get("method") == "classification" else "")


def serving_command(artefact: Path, data: Mapping[str, Any], name: str) -> str | None:
    """Return how vLLM serves the model from its folder, under `name`; None where it has to be exported merged first."""
    config_path = artefact / "adapter_config.json"
    if not config_path.is_file():
        return f"{serve_model_command(artefact, data)} --served-model-name {name}"
    settings = json.loads(config_path.read_text(encoding="utf-8"))
    return (
        None
        if saved_gguf(str(data.get("model", ""))) is not None or reason_not_servable(settings) is not None
        else serve_adapter_command(artefact, settings, data, name)
    )


def artefact_of(folder: str) -> Path:
    """Return the folder of a tuned model. Raises `DamagedFile` where it is missing or incomplete."""
    path = Path(folder)
    if fault := artefact_fault(path):
        raise DamagedFile(fault)
    return path
