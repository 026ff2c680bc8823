"""Dropout of a base model and of its adapter, as a job asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from llmtune_local.run_state.schema import TrainingConfig


#: Names under which configurations keep the dropout of hidden states and of attention probabilities.
_HIDDEN_DROPOUT = (
    *("resid_pdrop", "embd_pdrop", "hidden_dropout", "residual_dropout"),
    *("hidden_dropout_prob", "embedding_dropout", "mlp_dropout"),
)


_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


def set_dropouts(config: Any, recipe: TrainingConfig) -> float | None:
    """Set the configuration's dropouts; return the hidden dropout where the model has no setting for it."""
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
    """Add dropout to the embeddings and to what attention and MLP blocks add to the residual stream."""
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
