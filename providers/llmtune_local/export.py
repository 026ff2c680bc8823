"""A tuned model as a folder that others load: the adapter as PEFT has it, or one model with the adapter merged in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidJob
from llmtune_local.models import loading as models
from llmtune_local.models import shape
from llmtune_local.models.hub import check_model
from llmtune_local.run_state.damage import DamagedFile, artefact_fault
from llmtune_local.training.checkpoints import write_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

Format = Literal["adapter", "merged"]

#: The ranks vLLM has kernels for (`--max-lora-rank`, docs.vllm.ai, 2026-11).
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def export(artefact: Path, data: Mapping[str, Any], format: Format, into: Path) -> tuple[str, ...]:
    """Write the model to the folder `into`, with its tokenizer and chat template; how it is served, in sentences.

    `data` is what the run's reference says of the model: base, revision, method. The folder must not be there, or be
    empty; it appears when it is complete.

    Raises:
        InvalidJob: there is no adapter to give (all weights were tuned), or the folder holds something.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InvalidJob(f"{into} is there already and is not empty", hint="name another folder with --out")
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


def _empty(into: Path) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    if into.exists():
        into.rmdir()
    return into.absolute()


def _copy_folder(artefact: Path, into: Path) -> None:
    files = [path for path in artefact.iterdir() if path.is_file()]

    def write(folder: Path) -> None:
        for path in files:
            shutil.copyfile(path, folder / path.name)  # with the mode of new files, not the run folder's

    write_folder(_empty(into), write, needs=sum(path.stat().st_size for path in files))


def _merge(artefact: Path, data: Mapping[str, Any], into: Path) -> None:
    """Merge in float32 on the CPU; the result is in the precision that the base was published in."""
    import peft
    import torch

    base, revision = str(data["model"]), data.get("revision")
    tokenizer = models.load_tokenizer(str(artefact), revision)
    labelled = data.get("method") == "classification"
    published = getattr(check_model(base, revision, data.get("method", "sft")), "dtype", None)
    if labelled:
        from llmtune_local.models.encoder import LABELS_FILE, load_tuned

        network, _ = load_tuned(base, artefact, revision, "cpu", tokenizer)
    else:
        loaded = models.load_base(base, revision, dtype=torch.float32, device="cpu")
        network = peft.PeftModel.from_pretrained(loaded, artefact).merge_and_unload()
    half = not labelled and published in (torch.float16, torch.bfloat16)

    def write(path: Path) -> None:
        models.save_artefact(network, tokenizer, path, half=half)
        _copy_processor(base, revision, path)
        if labelled:
            shutil.copy(artefact / LABELS_FILE, path)

    bytes_ = sum(parameter.numel() for parameter in network.parameters()) * (2 if half else 4)
    write_folder(_empty(into), write, needs=bytes_)


def _copy_processor(base: str, revision: str | None, into: Path) -> None:
    """Copy what a model of text and images is served with beside its weights: how images are read."""
    folder = shape.folder_of(base, revision)
    if folder is None or not shape.text_part_of(folder):
        return
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, into)


def _adapter_notes(into: Path, settings: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, ...]:
    if (why := _not_beside(settings)) is not None:
        return (f"vLLM does not serve {why}: export it with --format merged", _peft_note(into, data))
    command = _beside(into.absolute(), settings, data, "tuned")
    return (f"vLLM serves it beside its base: {command}   (ask for the model 'tuned')", _peft_note(into, data))


def _not_beside(settings: Mapping[str, Any]) -> str | None:
    """What of an adapter keeps vLLM from serving it beside its base; None where nothing does."""
    rank = _largest_rank(settings)
    for blocks, says in (
        (settings.get("use_dora"), "a DoRA adapter"),
        (settings.get("modules_to_save"), "an adapter with whole modules in it"),
        (settings.get("target_parameters"), "an adapter on parameters, such as those of routed experts"),
        (rank > _RANKS[-1], f"an adapter of rank {rank}"),
    ):
        if blocks:
            return says
    return None


def _beside(folder: Path, settings: Mapping[str, Any], data: Mapping[str, Any], name: str) -> str:
    base = settings.get("base_model_name_or_path") or data.get("model")
    rank = next(rank for rank in _RANKS if _largest_rank(settings) <= rank)
    # Beside its base, answers would end as the base's do.
    ends = f" --generation-config {folder}" if (folder / "generation_config.json").is_file() else ""
    return f"vllm serve {base} --enable-lora --lora-modules {name}={folder} --max-lora-rank {rank}{ends}"


def _largest_rank(settings: Mapping[str, Any]) -> int:
    """The rank that an adapter needs room for: a pattern may give some of its layers a larger one."""
    return max([int(settings.get("r", 16)), *map(int, (settings.get("rank_pattern") or {}).values())])


def _auto_class(folder: Path) -> str:
    return "AutoModelForImageTextToText" if shape.text_part_of(folder) else "AutoModelForCausalLM"


def _peft_note(into: Path, data: Mapping[str, Any]) -> str:
    base = shape.folder_of(str(data.get("model", "")), data.get("revision"))
    if base is not None and shape.text_part_of(base):
        loaded = f"AutoModelForImageTextToText.from_pretrained({str(data['model'])!r})"
        return f"PEFT loads it: PeftModel.from_pretrained({loaded}, {str(into)!r})"
    return f"PEFT loads it: AutoPeftModelForCausalLM.from_pretrained({str(into)!r})"


def _merged_notes(into: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    if data.get("method") == "classification":
        return (
            f"vLLM serves it: {_whole(into.absolute(), data)}   (POST /classify)",
            f"transformers loads it: AutoModelForSequenceClassification.from_pretrained({str(into)!r})",
        )
    return (
        f"vLLM serves it: {_whole(into.absolute(), data)}   (the chat template is in the folder)",
        f"transformers loads it: {_auto_class(into)}.from_pretrained({str(into)!r})",
    )


def _whole(folder: Path, data: Mapping[str, Any]) -> str:
    return f"vllm serve {folder}" + (" --runner pooling" if data.get("method") == "classification" else "")


def serving_command(artefact: Path, data: Mapping[str, Any], name: str) -> str | None:
    """How vLLM serves the model from where it lies, under `name`; None where it has to be exported merged first."""
    place = artefact / "adapter_config.json"
    if not place.is_file():
        return f"{_whole(artefact, data)} --served-model-name {name}"
    settings = json.loads(place.read_text(encoding="utf-8"))
    return None if _not_beside(settings) is not None else _beside(artefact, settings, data, name)


def artefact_of(folder: str) -> Path:
    """The folder of a tuned model. Raises `DamagedFile` where it is gone, or holds no whole one."""
    path = Path(folder)
    if fault := artefact_fault(path):
        raise DamagedFile(fault)
    return path
