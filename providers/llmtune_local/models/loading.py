"""Models and tokenizers: found, loaded, put on a device, given an adapter, and saved in PEFT's own layout."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.errors import DeviceUnavailable, InvalidJob
from llmtune_local.models import precision
from llmtune_local.run_state.cache import kept, stamp
from llmtune_local.worker.process import prepare_libraries, usable_cores

if TYPE_CHECKING:
    import torch

    from llmtune_local.run_state.run_dir import Recipe, RunRequest, WorkerOptions

logger = logging.getLogger("llmtune")

PRESETS = ("all-linear", "attention", "mlp")

#: Names under which configurations keep the dropout of hidden states and of attention probabilities.
_HIDDEN_DROPOUT = (
    *("resid_pdrop", "embd_pdrop", "hidden_dropout", "residual_dropout"),
    *("hidden_dropout_prob", "embedding_dropout", "mlp_dropout"),
)
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")

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
    `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llmtune_local.models.loading.locate("tiny")), adapter)`.
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
    if encodes or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InvalidJob(
            f"{base!r} is a {config.model_type} model, which does not generate text",
            where="model",
            hint="method classification tunes encoders" if encodes else None,
        )
    return config


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


def _embedded(base: str) -> str:
    """The name of an embedded model where `base` is its folder in an installation that is not there any more."""
    place = Path(base)
    if place.parent.name not in FOLDERS or place.exists():
        return base
    return next((name for name, folder in EMBEDDED.items() if folder == place.name), base)


def check_device(name: str = "auto") -> str:
    """cpu, cuda or mps. Raises `DeviceUnavailable` when one is asked for that is not here."""
    prepare_libraries()
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    if name in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    if name in ("auto", "cpu"):
        return "cpu"
    raise DeviceUnavailable(
        f"the device {name!r} is not available on this machine", hint="leave device at auto, or set it to cpu"
    )


def choose_dtype(name: str, device: str, model: str, revision: str | None = None) -> torch.dtype:
    """The dtype of the frozen weights and of the arithmetic; see `precision` for what auto means."""
    import torch

    from llmtune_local.models.memory_estimate import shape_of

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
        tokenizer.chat_template = chat_template
    return tokenizer


def context_length(config: Any, tokenizer: Any, asked: int | None) -> int | None:
    """Longest row in tokens: as asked, else the model's context; None where the model has no limit.

    Raises `InvalidJob` when more is asked than the model's positions hold.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text, "max_position_embeddings", None), tokenizer.model_max_length]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9]
    context = known[0] if known else None
    if asked is None:
        return min(known) if known else None
    if context is not None and asked > context:
        raise InvalidJob(
            f"max_sequence_length {asked} is more than the model's context of {context} tokens",
            where="hyperparameters.max_sequence_length",
        )
    return asked


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
    from transformers import AutoModelForCausalLM

    base, _ = adapter_of(model)
    try:
        with no_progress_bars():
            return AutoModelForCausalLM.from_pretrained(
                locate(base), config=config, revision=revision, dtype=dtype, trust_remote_code=False, **quantised
            )
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the model {base!r} cannot be loaded: {first_line(problem)}", where="model") from None


def add_adapter(network: Any, request: RunRequest) -> Any:
    """The model with what is trained: a fresh adapter, an adapter to go on with, or (full) all its weights."""
    import peft

    recipe = request.hyperparameters
    _, folder = adapter_of(request.model)
    if request.adapter == "full":
        if folder is not None:
            network = peft.PeftModel.from_pretrained(network, folder).merge_and_unload()
        return network.float().requires_grad_(True)
    if folder is not None:
        return go_on(network, request, folder)
    return fresh_adapter(network, request, target_modules(network, recipe.lora_target_modules))


def go_on(network: Any, request: RunRequest, folder: Path) -> Any:
    """The model with the adapter in `folder`, to be trained on. Raises `InvalidJob` where the job's is another."""
    import peft

    recipe = request.hyperparameters
    alpha = _alpha(recipe)
    tuned = peft.PeftModel.from_pretrained(network, folder, is_trainable=True)
    settings: Any = tuned.peft_config["default"]
    if (settings.r, float(settings.lora_alpha)) != (recipe.lora_rank, alpha):
        raise InvalidJob(
            f"the adapter to go on with has rank {settings.r} and alpha {settings.lora_alpha:g}, the job asks for"
            f" rank {recipe.lora_rank} and alpha {alpha:g}",
            where="hyperparameters.lora_rank",
            hint="set lora_rank and lora_alpha to the adapter's own, or start from the base model",
        )
    settings.lora_dropout = recipe.lora_dropout
    _set_lora_dropout(tuned, recipe.lora_dropout)
    return tuned


def _alpha(recipe: Recipe) -> float:
    return 2.0 * recipe.lora_rank if recipe.lora_alpha is None else float(recipe.lora_alpha)


def fresh_adapter(
    network: Any, request: RunRequest, targets: list[str], *, task: str = "CAUSAL_LM", whole: Sequence[str] = ()
) -> Any:
    """The model with a new adapter on the layers `targets`; the modules `whole` are trained with all their weights."""
    import peft

    recipe = request.hyperparameters
    alpha = _alpha(recipe)
    fresh = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora_dropout,
        target_modules=targets,
        use_dora=request.adapter == "dora",
        use_rslora=request.options.rslora,
        modules_to_save=list(whole) or None,
        task_type=task,
    )
    try:
        tuned = peft.get_peft_model(network, fresh)
    except ValueError as problem:
        raise InvalidJob(first_line(problem), where="hyperparameters.lora_target_modules") from None
    base, _ = adapter_of(request.model)
    tuned.peft_config["default"].base_model_name_or_path = locate(base)
    tuned.peft_config["default"].revision = request.revision
    return tuned


def target_modules(network: Any, asked: str | tuple[str, ...], *, apart: Sequence[str] = ()) -> list[str]:
    """The linear layers that get an adapter, as PEFT takes them.

    A preset (`all-linear`; `attention`: linear layers inside attention blocks; `mlp`: the other linear layers of the
    transformer blocks), or names, each of which must match. The output head is in no preset, nor is anything inside
    the modules `apart`.
    """
    every = _linear_layers(network)
    linear = {name: inside for name, inside in every.items() if not set(apart) & set(name.split("."))}
    if isinstance(asked, str) and asked not in PRESETS:
        asked = (asked,)
    if isinstance(asked, str):
        wanted = {name for name, inside in linear.items() if asked == "all-linear" or (asked == "attention") == inside}
        if not wanted:
            raise InvalidJob(f"this model has no linear layer for the preset {asked!r}", where="lora_target_modules")
        leaves = {name.rpartition(".")[2] for name in wanted}
        others = {name.rpartition(".")[2] for name in every if name not in wanted} | {_head_leaf(network)}
        return sorted(leaves) if not leaves & others else sorted(wanted)
    names = [name for name, _ in network.named_modules() if name]
    for name in asked:
        if not any(full == name or full.endswith(f".{name}") for full in names):
            leaves = {full.rpartition(".")[2] for full in linear}
            near = difflib.get_close_matches(name, sorted(leaves), n=2) or sorted(leaves)
            raise InvalidJob(
                f"this model has no module {name!r}; there are {', '.join(near)}",
                where="hyperparameters.lora_target_modules",
                hint=f"name modules, or a preset: {', '.join(PRESETS)}",
            )
    return list(asked)


def save_artefact(tuned: Any, tokenizer: Any, folder: Path, *, half: bool = False) -> None:
    """Write what was trained, with the tokenizer: an adapter in PEFT's layout, or a whole model."""
    import torch

    if not hasattr(tuned, "peft_config"):
        # A model that was published in half precision is given back in it.
        state = {name: tensor.bfloat16() for name, tensor in tuned.state_dict().items()} if half else None
        tuned.config.dtype = torch.bfloat16 if half else torch.float32
        with no_progress_bars():
            tuned.save_pretrained(folder, state_dict=state)
    else:
        tuned.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in
    tokenizer.save_pretrained(folder)


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


def set_threads(options: WorkerOptions) -> int:
    """Set torch's CPU threads by the option, OMP_NUM_THREADS, or the physical cores; returns their number."""
    import os

    import torch

    count = options.num_threads
    if count is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        count = int(os.environ["OMP_NUM_THREADS"])
    count = count or usable_cores()
    torch.set_num_threads(count)
    return count


def _linear_layers(network: Any) -> dict[str, bool]:
    """Names of the linear layers inside transformer blocks, and whether each stands inside an attention block."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    attention = [name for name, module in network.named_modules() if "attention" in type(module).__name__.lower()]
    return {
        name: any(name.startswith(f"{block}.") for block in attention)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _head_leaf(network: Any) -> str:
    head = network.get_output_embeddings()
    name = next((name for name, module in network.named_modules() if module is head), "")
    return name.rpartition(".")[2]


def set_dropouts(config: Any, recipe: Recipe) -> float | None:
    """Set the configuration's dropouts; returns the hidden dropout where the model has no setting for it."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if recipe.attention_dropout is not None:
        names = [name for name in _ATTENTION_DROPOUT if hasattr(text, name)]
        if not names:
            raise InvalidJob(
                f"{config.model_type} models have no attention dropout", where="hyperparameters.attention_dropout"
            )
        for name in names:
            setattr(text, name, recipe.attention_dropout)
    if recipe.dropout is None:
        return None
    names = [name for name in _HIDDEN_DROPOUT if hasattr(text, name)]
    for name in names:
        setattr(text, name, recipe.dropout)
    return None if names else recipe.dropout


def _add_dropout(network: Any, rate: float) -> None:
    """Dropout on the embeddings and on what attention and MLP blocks add to the residual stream."""
    from torch.nn import functional

    def drop(module: Any, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (functional.dropout(output[0], rate), *output[1:])
        return functional.dropout(output, rate)

    blocks = [
        module
        for _, module in network.named_modules()
        if type(module).__name__.endswith(("Attention", "MLP", "SparseMoeBlock", "FeedForward"))
    ]
    if not blocks:
        raise InvalidJob("this model has no place for dropout", where="hyperparameters.dropout")
    for block in (*blocks, network.get_input_embeddings()):
        block.register_forward_hook(drop)


def _set_lora_dropout(tuned: Any, rate: float) -> None:
    from torch import nn

    for name, module in tuned.named_modules():
        if name.endswith("lora_dropout") and isinstance(module, nn.ModuleDict):
            for key in list(module.keys()):
                module[key] = nn.Dropout(rate) if rate else nn.Identity()


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws bars on the terminal while it reads and writes weights; that is not ours to print."""
    from transformers.utils import logging as theirs

    bars: Any = theirs
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def first_line(problem: BaseException) -> str:
    """The first line of an error that says something, or its name."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
