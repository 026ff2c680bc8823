"""Liger's fused kernels for norms, rotary positions and gated layers, where they are installed and the device is CUDA.

Its loss is not used: ours looks at trained positions alone (see `batching.loss`).
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ROTARY = "apply_rotary_pos_emb"


def use_liger(network: Any) -> Callable[[], None] | None:
    """Put the kernels into this model; return a function that removes them, or None where there are none for it."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    home = vars(sys.modules[type(network).__module__])
    names = dict(home)
    before = {module: set(module.__dict__) for module in network.modules()}

    def undo() -> None:
        home.update(names)
        for module, attributes in before.items():
            for name in set(module.__dict__) - attributes:
                del module.__dict__[name]

    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(
            model=network, rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False
        )
    except Exception:  # noqa: BLE001 - a release that does not know this model or this transformers is none at all
        undo()
        return None
    rotary = home.get(_ROTARY)
    # Liger has replaced names of transformers' own module as well; other models of this process, on a CPU perhaps,
    # keep theirs. Rotary positions are looked up there by every model, so the function there has to choose by device.
    home.update(names)
    if rotary is not names.get(_ROTARY):
        home[_ROTARY] = _choose_by_device(names[_ROTARY], rotary)
    elif all(set(module.__dict__) == attributes for module, attributes in before.items()):
        return None
    return undo


def _choose_by_device(plain: Any, fast: Any) -> Any:
    plain = getattr(plain, "plain", plain)

    def rotary(query: Any, key: Any, cos: Any, sin: Any, *args: Any, **kwargs: Any) -> Any:
        return (fast if query.is_cuda else plain)(query, key, cos, sin, *args, **kwargs)

    rotary.plain = plain  # type: ignore[attr-defined]
    return rotary
