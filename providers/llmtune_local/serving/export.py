"""A tuned model of a run, written for an inference server: GGUF files, an Ollama folder, a vLLM folder.

What cannot be written, or would be answered differently, is refused by name before anything is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob
from llmtune_local import export as plain_export
from llmtune_local.models import loading, merging
from llmtune_local.models.hub import load_config
from llmtune_local.models.shape import reads_images
from llmtune_local.serving import families, gguf_model, ollama, vllm
from llmtune_local.serving.dialogue import Dialogue, read_dialogue
from llmtune_local.serving.gguf_tokenizer import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune.provider.abilities import Precision, ServerFormat
    from llmtune_local.serving.families import Family

#: Bytes per weight in a file, for the disk that is needed.
_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
#: Names of the files in a folder with an adapter beside its base.
BASE_FILE, ADAPTER_FILE = "base.gguf", "adapter.gguf"
#: What Ollama calls the model.
_OLLAMA_NAME = "tuned"


@dataclass(frozen=True)
class _Conversion:
    """A model that can be written as GGUF: everything that is checked before anything is written."""

    family: Family
    renderer: Renderer
    dialogue: Dialogue
    vocabulary: Vocabulary
    config: Any
    name: str

    @property
    def notes(self) -> list[str]:
        """What llama.cpp does differently, in sentences."""
        return [*self.vocabulary.differences, *families.notes(self.config)]


def model_file(precision: Precision) -> str:
    """Return the name of the file of a whole model."""
    return f"model-{precision}.gguf"


def export_for_server(
    artefact: Path, data: Mapping[str, Any], format: ServerFormat, into: Path, precision: Precision
) -> tuple[str, ...]:
    """Write the model to the folder `into` in the files of a server; return how to serve it, in sentences.

    `data` is the data of the run's model reference: base, revision, method, options. The folder must not exist, or be
    empty; it appears when it is complete.

    Raises:
        InvalidJob: the model cannot be written this way, or the folder is not empty.
        MissingExtra: the package that writes the files is not installed.
    """
    plain_export.check_empty(into)
    if format == "vllm":
        return _export_vllm(artefact, data, into)
    gguf_model.need_gguf()
    if data.get("method") == "classification":
        raise InvalidJob(
            "this run tuned a classifier, which llama.cpp does not serve with its labels", hint="use --format merged"
        )
    if reads_images(artefact):
        raise InvalidJob(
            "this model was tuned on rows with images, and the file would hold its text part alone",
            hint="use --format vllm, or --format merged",
        )
    if format == "gguf-adapter" and not (artefact / "adapter_config.json").is_file():
        raise InvalidJob("this run tuned all weights: it has no adapter", hint="use --format gguf")
    conversion = _prepare(artefact, data)
    if format == "gguf-adapter":
        return _export_adapter(artefact, data, conversion, into, precision)
    modelfile = _modelfile(conversion, model_file(precision)) if format == "ollama" else None
    network = merging.load_merged(artefact, data)

    def write(folder: Path) -> None:
        _write_model(folder / model_file(precision), network, conversion, precision)
        if modelfile is not None:
            (folder / "Modelfile").write_text(modelfile, encoding="utf-8")

    plain_export.write_new(into, write, needs=_size(network, precision))
    full = into.absolute()
    if format == "ollama":
        command = f"ollama create {_OLLAMA_NAME} -f {quote(str(full / 'Modelfile'))}"
        tools = "the template in the Modelfile has no tools: llama.cpp serves the same file with them"
        return (f"Ollama takes it: {command} && ollama run {_OLLAMA_NAME}", tools, *conversion.notes)
    command = f"llama-server -m {quote(str(full / model_file(precision)))} --jinja"
    return (f"llama.cpp serves it: {command}", *conversion.notes)


def _export_adapter(
    artefact: Path, data: Mapping[str, Any], conversion: _Conversion, into: Path, precision: Precision
) -> tuple[str, ...]:
    settings = json.loads((artefact / "adapter_config.json").read_text(encoding="utf-8"))
    tied = bool(getattr(conversion.config.get_text_config(), "tie_word_embeddings", False))
    if (fault := gguf_model.adapter_fault(settings, tied=tied)) is not None:
        raise InvalidJob(f"llama.cpp does not apply {fault}", hint="use --format gguf, which merges the adapter")
    import torch

    network = loading.load_base(str(data["model"]), data.get("revision"), dtype=torch.float32, device="cpu")

    def write(folder: Path) -> None:
        _write_model(folder / BASE_FILE, network, conversion, precision)
        gguf_model.write_adapter(
            folder / ADAPTER_FILE, artefact, conversion.config, conversion.family, name=conversion.name
        )

    plain_export.write_new(into, write, needs=_size(network, precision))
    full = into.absolute()
    command = f"llama-server -m {quote(str(full / BASE_FILE))} --lora {quote(str(full / ADAPTER_FILE))} --jinja"
    return (f"llama.cpp serves it: {command}", *conversion.notes)


def _export_vllm(artefact: Path, data: Mapping[str, Any], into: Path) -> tuple[str, ...]:
    """Write the adapter where vLLM serves it beside its base, else one model."""
    reason = vllm.reason_to_merge(artefact, data)
    adapter = (artefact / "adapter_config.json").is_file() and reason is None
    labelled = data.get("method") == "classification"
    template = None
    if not labelled:
        renderer, options = _renderer(artefact, data)
        template = read_dialogue(renderer, options, artefact).template
    plain_export.make_parent(into)
    temporary = into.with_name(f".{into.name}.vllm")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        plain_export.export(artefact, data, "adapter" if adapter else "merged", temporary)
        command = vllm.write_serving_files(temporary, data, template, into.absolute())
        temporary.replace(plain_export.remove_empty(into))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    request = "POST /classify" if labelled else f"ask for the model '{vllm.MODEL}'"
    notes = [f"vLLM serves it: {command}   ({request}; the same in serve.sh)"]
    return (*notes, f"the adapter is merged into its base: vLLM does not serve {reason}") if reason else tuple(notes)


def _prepare(artefact: Path, data: Mapping[str, Any]) -> _Conversion:
    """Check that a model can be written as GGUF. Raises `InvalidJob`."""
    is_full_model = not (artefact / "adapter_config.json").is_file()
    source, revision = (str(artefact), None) if is_full_model else (str(data["model"]), data.get("revision"))
    config = load_config(source, revision)
    family = families.find_family(config)
    renderer, options = _renderer(artefact, data)
    dialogue = read_dialogue(renderer, options, artefact)
    vocabulary = read_vocabulary(renderer.tokenizer, config.get_text_config().vocab_size, dialogue)
    name = vocabulary.model_name(Path(str(data["model"])).name or "model")
    return _Conversion(family, renderer, dialogue, vocabulary, config, name)


def _renderer(artefact: Path, data: Mapping[str, Any]) -> tuple[Renderer, Mapping[str, Any] | None]:
    from llmtune.data.rendering.tokenize import Renderer

    options = data.get("options", {})
    template_options = options.get("template_options")
    tokenizer = loading.load_tokenizer(str(artefact), None, options.get("chat_template"))
    images = loading.load_images(str(data["model"]), data.get("revision"), tokenizer)
    return Renderer(tokenizer, template_options=template_options, images=images), template_options


def _modelfile(conversion: _Conversion, file: str) -> str:
    if conversion.dialogue.template is None:
        raise InvalidJob("the model has no chat template, which Ollama needs", hint="use --format gguf")
    tokenizer = conversion.renderer.tokenizer
    return ollama.write_modelfile(
        ollama.read_turn_texts(conversion.renderer, conversion.dialogue),
        file=file,
        ends=tokenizer.convert_ids_to_tokens(list(conversion.dialogue.ends)),
        context=loading.context_length(conversion.config, tokenizer, None),
    )


def _write_model(path: Path, network: Any, conversion: _Conversion, precision: Precision) -> None:
    gguf_model.write_model(
        path, network, conversion.family, conversion.vocabulary, precision=precision, name=conversion.name
    )


def _size(network: Any, precision: Precision) -> int:
    weights = sum(parameter.numel() for parameter in network.parameters())
    return int(weights * _BYTES[precision]) + (16 << 20)
