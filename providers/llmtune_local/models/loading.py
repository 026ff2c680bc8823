"""Models and tokenizers: loaded, put on a device, and saved in PEFT's own layout."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from llmtune.data.rendering.ready_templates import resolve_template
from llmtune.errors import InvalidJob, MissingExtra
from llmtune_local.images.families import find_family, has_marks
from llmtune_local.images.reader import ModelImages, NoImages
from llmtune_local.libraries import prepare_libraries
from llmtune_local.models import precision
from llmtune_local.models.dropout import _add_dropout, set_dropouts
from llmtune_local.models.gguf_file import loading_options, no_conversion_bar, weight_options
from llmtune_local.models.hub import (
    auto_class,
    first_line,
    has_text_part,
    load_config,
    locate,
    locate_for_loading,
    no_progress_bars,
    split_adapter,
)
from llmtune_local.models.quantization import make_config
from llmtune_local.models.shape import IMAGE_PROCESSOR_FILES, find_model_folder, has_text_config, published_dtypes
from llmtune_local.run_state.cache import cached, stamp

if TYPE_CHECKING:
    import torch

    from llmtune.data.rendering.images import ImageReader
    from llmtune_local.models.sharding import WeightFiles
    from llmtune_local.run_state.schema import TrainingConfig, WorkerOptions

logger = logging.getLogger("llmtune")

#: Names under which configurations keep how many positions a model has.
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
#: Encoders whose first token has the position behind the padding token's number: of their positions, so many are lost.
_COUNTS_FROM_PADDING = frozenset(
    [
        "camembert",
        "data2vec-text",
        "esm",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ]
)


def choose_dtype(name: str, device: str, model: str, revision: str | None = None) -> torch.dtype:
    """Return the dtype of the frozen weights and of the matrix products; see `precision` for what auto means."""
    import torch

    from llmtune_local.models.shape import read_shape

    if name == "auto" and device == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float32
    shape = read_shape(model, revision) if name == "auto" and device == "cpu" else None
    return torch.bfloat16 if precision.resolve_precision(name, device, shape) == "bfloat16" else torch.float32


def load_tokenizer(model: str, revision: str | None = None, chat_template: str | None = None) -> Any:
    """Load the model's fast tokenizer. Raises `InvalidJob` where there is none."""
    prepare_libraries()
    from transformers import AutoTokenizer

    base, adapter = split_adapter(model)
    has_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").exists()
    path, gguf = (str(adapter), None) if has_tokenizer else locate_for_loading(base)
    options = loading_options(gguf)

    def read() -> Any:
        loaded = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False, **options)
        if not loaded.chat_template:
            loaded.chat_template = _read_processor_template(path, revision)
        return loaded

    try:
        tokenizer = cached("tokenizer", (path, gguf, revision, chat_template, stamp(path)), read)
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the tokenizer of {model!r} cannot be loaded: {first_line(problem)}", where="model") from None
    if not tokenizer.is_fast:
        raise InvalidJob(
            f"{model!r} has no fast tokenizer, which is needed to know what each token covers", where="model"
        )
    if chat_template is not None:
        tokenizer.chat_template = resolve_template(chat_template)
    return tokenizer


def _read_processor_template(path: str, revision: str | None) -> str | None:
    """Return the chat template that older models of text and images have beside their processor; None where there is
    none."""
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(path, "chat_template.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        template = None if file is None else json.loads(Path(file).read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):  # offline, or a file of something else
        return None
    return template if isinstance(template, str) else None


def load_images(
    model: str,
    revision: str | None,
    tokenizer: Any,
    *,
    max_pixels: int | None = None,
    keep: Path | None = None,
    decode: bool = True,
) -> ImageReader:
    """Return the reader of images of a model, which refuses them all where the model's are not read here.

    `max_pixels`, `keep` and `decode` are those of `ModelImages`.
    """
    config = load_config(model, revision)
    if find_family(config) is None or not has_text_part(config):
        sees = getattr(config, "vision_config", None) is not None
        reads = "whose images are not read here" if sees else "which reads text alone"
        return NoImages(f"{model!r} is a {config.model_type} model, {reads}")
    if not has_marks(config, tokenizer):
        return NoImages(f"the tokenizer of {model!r} has no token that stands for one")

    def load_processor() -> Any:
        return _load_image_processor(model, revision)

    return ModelImages(config, tokenizer, load_processor, max_pixels=max_pixels, keep=keep, decode=decode)


def _load_image_processor(model: str, revision: str | None) -> Any:
    """Load the model's image processor, by Pillow alone, so that it gives the same on every machine.

    Raises `InvalidJob` where the model has none, `MissingExtra` without Pillow.
    """
    base, _ = split_adapter(model)
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtra("images", "pillow", purpose="reading images")
    if importlib.util.find_spec("transformers.image_processing_backends") is None:
        import transformers

        raise InvalidJob(
            f"transformers {transformers.__version__} processes no images without torchvision",
            where="model",
            hint="install a newer one: pip install -U transformers",
        )
    from transformers import AutoImageProcessor

    loader: Any = AutoImageProcessor
    try:
        return loader.from_pretrained(locate(base), revision=revision, trust_remote_code=False, backend="pil")
    except (OSError, ValueError) as problem:
        raise InvalidJob(
            f"the image processor of {base!r} cannot be loaded: {first_line(problem)}",
            where="model",
            hint="its folder needs preprocessor_config.json or processor_config.json",
        ) from None


def copy_image_processor(base: str, revision: str | None, into: Path) -> None:
    """Copy the files that a model of text and images is served with beside its weights: how images are read."""
    folder = find_model_folder(base, revision)
    if folder is None or not has_text_config(folder):
        return
    for name in IMAGE_PROCESSOR_FILES:
        if (folder / name).is_file():
            shutil.copy(folder / name, into)


def context_length(config: Any, tokenizer: Any, requested: int | None) -> int | None:
    """Return the longest row in tokens: as requested, else the model's context; None where the model has no limit.

    Raises `InvalidJob` when more is requested than the model has positions for.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    context = next((limit for name in _CONTEXT if _is_length(limit := getattr(text, name, None))), None)
    if context is not None and text.model_type in _COUNTS_FROM_PADDING:
        context -= 1 + (1 if text.model_type == "mpnet" else text.pad_token_id or 0)
    limits: list[int] = [limit for limit in (context, tokenizer.model_max_length) if _is_length(limit)]
    if requested is None:
        return min(limits) if limits else None
    if context is not None and requested > context:
        raise InvalidJob(
            f"max_sequence_length {requested} is more than the model's context of {context} tokens",
            where="hyperparameters.max_sequence_length",
        )
    return requested


def _is_length(limit: Any) -> TypeGuard[int]:
    return isinstance(limit, int) and 0 < limit < 10**9


def load_base(
    model: str,
    revision: str | None,
    *,
    dtype: torch.dtype,
    device: str,
    recipe: TrainingConfig | None = None,
    quantization: str | None = None,
) -> Any:
    """Load the base model, frozen, in evaluation mode, with the recipe's dropouts set.

    With a `quantization` (a value of the option of that name), its linear layers are held in 4 or 8 bits and compute in
    `dtype`.
    """
    config = load_config(model, revision)
    hidden = set_dropouts(config, recipe) if recipe is not None else None
    quantised: dict[str, Any] = {}
    if quantization is not None:
        quantised = {"quantization_config": make_config(quantization, dtype), "device_map": {"": device}}
    if quantised or (recipe is not None and (recipe.dropout or recipe.attention_dropout)):
        network = _read_weights(model, revision, dtype, config, **quantised)
    else:
        network = read_base(model, revision, dtype, config)
    _prepare(network, dtype, hidden)
    return network.eval() if quantization is not None else network.to(device).eval()


def _prepare(network: Any, dtype: torch.dtype, hidden_dropout: float | None) -> None:
    """Freeze a base model and set how it rounds, and its dropout."""
    import torch

    network.requires_grad_(False)
    if dtype != torch.float32:
        # Norms and biases stay exact: they cost nothing, and the residual stream is kept in float32.
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.data = parameter.data.float()
        network.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.float())
        # What a norm gives goes into matrix products: rounded once here, not once for each of them.
        for module in network.modules():
            if type(module).__name__.endswith("Norm"):
                module.register_forward_hook(lambda _m, _i, output: output.to(dtype))
    if hidden_dropout is not None:
        _add_dropout(network, hidden_dropout)


def build_base(model: str, revision: str | None, *, dtype: torch.dtype, recipe: TrainingConfig) -> Any:
    """Build the base model as `load_base` returns it, but without its weights."""
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    from llmtune_local.models.sharding import take_no_memory

    config = load_config(model, revision)
    hidden = set_dropouts(config, recipe)
    settings: dict[str, Any] = {} if revision is None else {"revision": revision}
    with no_progress_bars(), init_empty_weights(include_buffers=False):
        network = auto_class(config).from_config(config, dtype=dtype)
    network.tie_weights()  # what builds it without weights has undone that
    take_no_memory(network)
    with contextlib.suppress(OSError, ValueError):  # as from_pretrained does
        path, _ = locate_for_loading(split_adapter(model)[0])
        network.generation_config = GenerationConfig.from_pretrained(path, **settings)
    _prepare(network, dtype, hidden)
    return network.eval()


def open_weights(model: str, revision: str | None, network: Any) -> WeightFiles | None:
    """Return the files of a base model where its tensors can be read one by one; None where it must be loaded whole."""
    from llmtune_local.models.sharding import find_weight_files

    base, _ = split_adapter(model)
    if locate_for_loading(base)[1] is not None:
        return None
    folder = find_model_folder(model, revision)
    if not Path(locate(base)).is_dir():
        folder = _download_weights(base, revision) or folder
    return find_weight_files(folder, network)


def _download_weights(model: str, revision: str | None) -> Path | None:
    """Have the safetensors files of a model of the hub in its cache; return their folder, None where it has none."""
    from transformers.utils.hub import cached_file

    def fetch(name: str) -> str | None:
        with no_progress_bars():
            return cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)

    index = fetch("model.safetensors.index.json")
    names = sorted(set(json.loads(Path(index).read_bytes())["weight_map"].values())) if index else ["model.safetensors"]
    files = [file for name in names if (file := fetch(name)) is not None]
    return Path(files[0]).parent if files else None


def read_base(model: str, revision: str | None, dtype: torch.dtype, config: Any) -> Any:
    """Return the base model as published, on the CPU, in `dtype`.

    It may be cached: whoever changes it works on a copy or in a process of its own.
    """
    base, _ = split_adapter(model)
    what = (base, revision, dtype, stamp(locate(base)))
    return cached("model", what, lambda: _read_weights(model, revision, dtype, config))


def _read_weights(model: str, revision: str | None, dtype: torch.dtype, config: Any, **quantised: Any) -> Any:
    base, _ = split_adapter(model)
    path, gguf = locate_for_loading(base)
    options = weight_options(gguf) | quantised
    try:
        with no_progress_bars(), no_conversion_bar(gguf):
            return auto_class(config).from_pretrained(
                path, config=config, revision=revision, dtype=dtype, trust_remote_code=False, **options
            )
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the model {base!r} cannot be loaded: {first_line(problem)}", where="model") from None


def load_with_transformers(folder: Path, model: Mapping[str, Any], options: WorkerOptions) -> tuple[Any, Any]:
    """Load a tuned model and its tokenizer as plain transformers and PEFT do from its folder.

    `model` is the data of the run's model reference.
    """
    from llmtune_local.models.hardware import resolve_device, set_threads

    set_threads(options)
    device = resolve_device(options.device)
    dtype = choose_dtype(options.dtype, device, str(model["model"]), model.get("revision"))
    is_full_model = not (folder / "adapter_config.json").is_file()
    source, revision = (str(folder), None) if is_full_model else (str(model["model"]), model.get("revision"))
    network = _read_weights(source, revision, dtype, load_config(source, revision))
    if not is_full_model:
        import peft

        network = peft.PeftModel.from_pretrained(network, folder)
    return network.to(device).eval(), load_tokenizer(str(folder), revision)


def save_artefact(
    tuned: Any, tokenizer: Any, folder: Path, *, half: bool = False, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the trained model, with the tokenizer and the tokens that end an answer.

    An adapter is in PEFT's layout; a model whose weights were all tuned is written whole, with `half` in bfloat16.
    `weights` are those of a model that is cut up, gathered (`gather_weights`).
    """
    import torch

    network = tuned.get_base_model() if hasattr(tuned, "peft_config") else tuned
    settings = _generation_config(network, tokenizer)
    if not hasattr(tuned, "peft_config"):
        tuned.config.dtype = torch.bfloat16 if half else torch.float32
        with no_progress_bars():
            tuned.save_pretrained(folder, state_dict=weights or (_in_half(tuned) if half else None))
    else:
        given = {} if weights is None else {"state_dict": weights}
        tuned.save_pretrained(folder, save_embedding_layers=False, **given)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
    if settings is not None:
        settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def end_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's end of text, and the end of turn of its chat template."""
    from llmtune.data.rendering.tokenize import Renderer

    if not getattr(tokenizer, "chat_template", None):
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return sorted(Renderer(tokenizer).stop_ids)


def _generation_config(network: Any, tokenizer: Any) -> Any:
    """Return the base's generation settings, with the tokens that its answers now end with and without limits on
    length.

    None for a model that generates nothing.
    """
    settings = getattr(network, "generation_config", None)
    if settings is None:
        return None
    settings = copy.deepcopy(settings)
    published = settings.eos_token_id
    published = published if isinstance(published, list) else [published]
    ends = {token for token in (*published, *end_tokens(tokenizer)) if token is not None}
    settings.eos_token_id = sorted(ends) or None
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    for name in ("max_length", "max_new_tokens", "min_length", "min_new_tokens"):
        setattr(settings, name, None)
    return settings


def _in_half(network: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a model that was published in half precision, in bfloat16.

    Tied weights stay one tensor; what was published in float32, or is no floating-point number, stays as it is.
    """
    published = published_dtypes(network.config.name_or_path)
    cast: dict[tuple[Any, ...], torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point() or published.get(name) == "F32":
            state[name] = tensor
            continue
        storage = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        state[name] = cast[storage] if storage in cast else tensor.bfloat16()
        cast[storage] = state[name]
    return state


def gather_weights(tuned: Any, *, half: bool, keep: bool) -> dict[str, torch.Tensor]:
    """Return the trained weights of a model that is cut up, whole and on the CPU, with `half` as `round_weights` does.

    All processes must call this; one that does not `keep` them gets none.
    """
    from llmtune_local.models.sharding import whole

    published = published_dtypes(tuned.config.name_or_path) if half else {}
    gathered: dict[str, torch.Tensor] = {}
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            tensor = whole(parameter.detach())
            if keep:
                gathered[name] = _round(tensor, published.get(name)) if half else tensor.cpu().clone()
    return gathered


def round_weights(tuned: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights on the CPU in bfloat16, apart from those that were published in float32."""
    published = published_dtypes(tuned.config.name_or_path)
    return {name: _round(tensor, published.get(name)) for name, tensor in weights.items()}


def _round(tensor: torch.Tensor, published: str | None) -> torch.Tensor:
    import torch

    return tensor.to("cpu", torch.float32 if published == "F32" else torch.bfloat16, copy=True)


def artefact_bytes(tuned: Any) -> int:
    """Estimate the size of the saved artefact in bytes."""
    trained = (parameter for parameter in tuned.parameters() if parameter.requires_grad)
    return sum(int(parameter.numel() * parameter.element_size()) for parameter in trained) + (1 << 20)


def check_rows(  # noqa: PLR0913 - what a job says of its rows
    model: str,
    rows: Mapping[str, Sequence[Any]],
    *,
    source: str | None = None,
    revision: str | None = None,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    max_sequence_length: int | None = None,
    on_too_long: str = "error",
    image_max_pixels: int | None = None,
) -> None:
    """Render every row once, as training will. Raises `InvalidData` with file, line and remedy."""
    from llmtune.data.rendering.tokenize import Renderer

    tokenizer = load_tokenizer(model, revision, chat_template)
    limit = context_length(load_config(model, revision), tokenizer, max_sequence_length)
    images = load_images(model, revision, tokenizer, max_pixels=image_max_pixels)
    renderer = Renderer(tokenizer, file=source, template_options=template_options, images=images)
    pairs = Renderer(tokenizer, file=source, template_options=template_options)
    for examples in rows.values():
        for pair in map(pairs.render_pair, (example for example in examples if example.preference is not None)):
            for side in (pair.preferred, pair.rejected):
                if limit is not None:
                    renderer.fit(side, limit, on_too_long)  # type: ignore[arg-type]
        for pieces in renderer.render_all(example for example in examples if example.preference is None):
            for row in pieces:
                if limit is not None:
                    renderer.fit(row, limit, on_too_long)  # type: ignore[arg-type]
