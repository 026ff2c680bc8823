"""Models and tokenizers: found, loaded, put on a device, given an adapter, and saved in PEFT's own layout."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from llmtune.data.rendering.ready_templates import resolve_template
from llmtune.errors import InvalidJob
from llmtune_local.libraries import prepare_libraries
from llmtune_local.models import precision
from llmtune_local.models.dropout import _add_dropout, set_dropouts
from llmtune_local.models.hub import adapter_of, auto_class, check_model, first_line, locate, no_progress_bars
from llmtune_local.models.shape import published_dtypes
from llmtune_local.run_state.cache import kept, stamp

if TYPE_CHECKING:
    import torch

    from llmtune_local.run_state.schema import Recipe, WorkerOptions

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
    """The dtype of the frozen weights and of the arithmetic; see `precision` for what auto means."""
    import torch

    from llmtune_local.models.shape import shape_of

    if name == "auto" and device == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float32
    shape = shape_of(model, revision) if name == "auto" and device == "cpu" else None
    return torch.bfloat16 if precision.settled(name, device, shape) == "bfloat16" else torch.float32


def load_tokenizer(model: str, revision: str | None = None, chat_template: str | None = None) -> Any:
    """The model's fast tokenizer. Raises `InvalidJob` where there is none."""
    prepare_libraries()
    from transformers import AutoTokenizer

    base, adapter = adapter_of(model)
    path = str(adapter) if adapter and (adapter / "tokenizer_config.json").exists() else locate(base)

    def read() -> Any:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)

    try:
        tokenizer = kept("tokenizer", (path, revision, chat_template, stamp(path)), read)
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the tokenizer of {model!r} cannot be loaded: {first_line(problem)}", where="model") from None
    if not tokenizer.is_fast:
        raise InvalidJob(
            f"{model!r} has no fast tokenizer, which is needed to know what each token covers", where="model"
        )
    if chat_template is not None:
        tokenizer.chat_template = resolve_template(chat_template)
    return tokenizer


def context_length(config: Any, tokenizer: Any, asked: int | None) -> int | None:
    """Longest row in tokens: as asked, else the model's context; None where the model has no limit.

    Raises `InvalidJob` when more is asked than the model's positions hold.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    context = next((limit for name in _CONTEXT if _is_length(limit := getattr(text, name, None))), None)
    if context is not None and text.model_type in _COUNTS_FROM_PADDING:
        context -= 1 + (1 if text.model_type == "mpnet" else text.pad_token_id or 0)
    known: list[int] = [limit for limit in (context, tokenizer.model_max_length) if _is_length(limit)]
    if asked is None:
        return min(known) if known else None
    if context is not None and asked > context:
        raise InvalidJob(
            f"max_sequence_length {asked} is more than the model's context of {context} tokens",
            where="hyperparameters.max_sequence_length",
        )
    return asked


def _is_length(limit: Any) -> TypeGuard[int]:
    return isinstance(limit, int) and 0 < limit < 10**9


def load_base(
    model: str,
    revision: str | None,
    *,
    dtype: torch.dtype,
    device: str,
    recipe: Recipe | None = None,
    four_bit: bool = False,
) -> Any:
    """The base model, frozen, in evaluation mode, with the recipe's dropouts set; with `four_bit`, its linear layers
    in 4 bits (NF4 with doubly quantised constants, arXiv:2305.14314), which compute in `dtype`."""
    import torch

    config = check_model(model, revision)
    hidden = set_dropouts(config, recipe) if recipe is not None else None
    quantised: dict[str, Any] = {}
    if four_bit:
        from transformers import BitsAndBytesConfig

        make: Any = BitsAndBytesConfig
        settings = make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        quantised = {"quantization_config": settings, "device_map": {"": device}}
    if quantised or (recipe is not None and (recipe.dropout or recipe.attention_dropout)):
        network = _read_weights(model, revision, dtype, config, **quantised)
    else:
        network = read_base(model, revision, dtype, config)
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
    if hidden is not None:
        _add_dropout(network, hidden)
    return network.eval() if four_bit else network.to(device).eval()


def read_base(model: str, revision: str | None, dtype: torch.dtype, config: Any) -> Any:
    """The base model as it is published, on the CPU, in `dtype`. Whoever changes it works on a copy or in a process
    of its own."""
    base, _ = adapter_of(model)
    what = (base, revision, dtype, stamp(locate(base)))
    return kept("model", what, lambda: _read_weights(model, revision, dtype, config))


def _read_weights(model: str, revision: str | None, dtype: torch.dtype, config: Any, **quantised: Any) -> Any:
    base, _ = adapter_of(model)
    try:
        with no_progress_bars():
            return auto_class(config).from_pretrained(
                locate(base), config=config, revision=revision, dtype=dtype, trust_remote_code=False, **quantised
            )
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the model {base!r} cannot be loaded: {first_line(problem)}", where="model") from None


def load_as_others_do(folder: Path, model: Mapping[str, Any], options: WorkerOptions) -> tuple[Any, Any]:
    """A tuned model and its tokenizer as plain transformers and PEFT load them from its folder. `model` is what the
    run's reference says of it."""
    from llmtune_local.models.hardware import check_device, set_threads

    set_threads(options)
    device = check_device(options.device)
    dtype = choose_dtype(options.dtype, device, str(model["model"]), model.get("revision"))
    whole = not (folder / "adapter_config.json").is_file()
    source, revision = (str(folder), None) if whole else (str(model["model"]), model.get("revision"))
    network = _read_weights(source, revision, dtype, check_model(source, revision))
    if not whole:
        import peft

        network = peft.PeftModel.from_pretrained(network, folder)
    return network.to(device).eval(), load_tokenizer(str(folder), revision)


def save_artefact(tuned: Any, tokenizer: Any, folder: Path, *, half: bool = False) -> None:
    """Write what was trained, with the tokenizer and the tokens that end an answer: an adapter in PEFT's layout, or a
    whole model."""
    import torch

    network = tuned.get_base_model() if hasattr(tuned, "peft_config") else tuned
    settings = _generation_config(network, tokenizer)
    if not hasattr(tuned, "peft_config"):
        tuned.config.dtype = torch.bfloat16 if half else torch.float32
        with no_progress_bars():
            tuned.save_pretrained(folder, state_dict=_in_half(tuned) if half else None)
    else:
        tuned.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
    if settings is not None:
        settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def end_tokens(tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's end of text, and what its chat template ends a turn with."""
    from llmtune.data.rendering.tokenize import Renderer

    if not getattr(tokenizer, "chat_template", None):
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return sorted(Renderer(tokenizer).stop_ids)


def _generation_config(network: Any, tokenizer: Any) -> Any:
    """The base's settings for generation, with the tokens that its answers now end with, and without limits on their
    length; None for a model that generates nothing."""
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
    """The weights of a model that was published in half precision, in it. Tied weights stay one tensor, and what was
    published in float32 or is no floating-point number stays as it is."""
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


def artefact_bytes(tuned: Any) -> int:
    """About how large the saved artefact is."""
    trained = (parameter for parameter in tuned.parameters() if parameter.requires_grad)
    return sum(int(parameter.numel() * parameter.element_size()) for parameter in trained) + (1 << 20)


def check_rows(
    model: str,
    rows: Mapping[str, Sequence[Any]],
    *,
    source: str | None = None,
    revision: str | None = None,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    max_sequence_length: int | None = None,
    on_too_long: str = "error",
) -> None:
    """Render every row once, as training will. Raises `InvalidData` with file, line and remedy."""
    from llmtune.data.rendering.tokenize import Renderer

    tokenizer = load_tokenizer(model, revision, chat_template)
    limit = context_length(check_model(model, revision), tokenizer, max_sequence_length)
    renderer = Renderer(tokenizer, file=source, template_options=template_options)
    for examples in rows.values():
        pairs = [example for example in examples if example.preference is not None]
        for pair in map(renderer.render_pair, pairs):
            for side in (pair.preferred, pair.rejected):
                if limit is not None:
                    renderer.fit(side, limit, on_too_long)  # type: ignore[arg-type]
        for pieces in renderer.render_all(example for example in examples if example.preference is None):
            for row in pieces:
                if limit is not None:
                    renderer.fit(row, limit, on_too_long)  # type: ignore[arg-type]
