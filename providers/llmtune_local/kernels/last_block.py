"""The last block, computed only where the loss looks.

After the last attention nothing mixes positions any more: the MLP, the output projection and the queries of the other
positions are never read. Those parts are given the chosen positions alone, and their outputs are put back among zeros,
so that the block's own code stays as it is. With answers much shorter than prompts, that saves most of a block.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

#: What works on each position by itself, by the names that transformers' models give it.
_PARTS = ("mlp", "q_proj", "o_proj")
#: From this share of positions on, picking and putting back costs more than it saves.
_MAX_SHARE = 0.75


def parts(decoder: nn.Module) -> tuple[nn.Module, ...]:
    """Return these parts of the last block; none where the model names them otherwise."""
    stacks = [module for module in decoder.children() if isinstance(module, nn.ModuleList) and len(module)]
    if len(stacks) != 1:
        return ()
    named = stacks[0][-1].named_modules()
    return tuple(module for name, module in named if name.rpartition(".")[2] in _PARTS)


@contextlib.contextmanager
def compute_at_positions(modules: Sequence[nn.Module], select: Tensor, shape: torch.Size) -> Iterator[None]:
    """Have these modules compute only the flat positions `select` (which may repeat) while the context lasts.

    `shape` is that of the input, [rows, tokens]. Everything must be computed inside: it must not be used with gradient
    checkpointing, which computes again later.
    """
    at = torch.unique(select)
    if not modules or len(at) > _MAX_SHARE * shape.numel():
        yield
        return

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        (x,) = args
        return (x.flatten(0, 1).index_select(0, at).unsqueeze(0),)

    def put_back(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        padded = output.new_zeros(shape.numel(), output.shape[-1])
        return padded.index_copy(0, at, output.squeeze(0)).view(*shape, -1)

    with contextlib.ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(pick).remove)
            hooks.callback(module.register_forward_hook(put_back).remove)
        yield
