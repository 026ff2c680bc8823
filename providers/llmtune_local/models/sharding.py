"""A model cut up over the processes of a run (PyTorch's FSDP2): each holds a part of every matrix.

Before a layer computes, its whole matrices are gathered from all processes, and dropped after it; gradients are summed
over the processes and cut again. So every process must run the same layers in the same order.

The model is built without weights and filled layer by layer: a process never holds more than its part and one layer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from llmtune.errors import InvalidJob
from llmtune_local.models import exact
from llmtune_local.models.hardware import free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor


class Weights(Protocol):
    """Where the weights of a base model come from."""

    def read(self, name: str) -> Tensor:
        """Return a tensor by its name in the model, on the CPU."""
        ...

    def release(self) -> None:
        """Give back the memory of what was read, once it was copied."""
        ...


class WeightFiles:
    """The safetensors files of a model, read tensor by tensor."""

    def __init__(self, files: Mapping[str, Path], renamed: Mapping[str, str]) -> None:
        self._files, self._renamed = files, renamed
        self._open: dict[Path, Any] = {}

    def read(self, name: str) -> Tensor:
        """Return a tensor by its name in the model."""
        from safetensors import safe_open

        published = self._renamed[name]
        path = self._files[published]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        tensor: Tensor = self._open[path].get_tensor(published)
        return tensor

    def release(self) -> None:
        """Unmap the files: what was read of them counts as this process's memory."""
        self._open.clear()


class WholeModel:
    """A model that was loaded as a whole; each tensor is handed out once and then dropped."""

    def __init__(self, network: Any) -> None:
        self._tensors = dict(network.state_dict())

    def read(self, name: str) -> Tensor:
        """Return a tensor by its name in the model."""
        tensor: Tensor = self._tensors.pop(name)
        return tensor

    def release(self) -> None:
        """Do nothing: each tensor was dropped when it was read."""


#: Names by which files call floating point numbers; others are quantised, and their scales lie beside them.
_FLOATS = ("F64", "F32", "F16", "BF16")


def find_weight_files(folder: Path | None, network: Any) -> WeightFiles | None:
    """Return the files of a model whose tensors can be read one by one under the names that the model has.

    None where a tensor is missing, has another shape or is quantised, or the files have tensors that the model has not:
    then transformers makes it from others when it loads the model.
    """
    from safetensors import safe_open

    if folder is None:
        return None
    shapes: dict[str, list[int]] = {}
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                if part.get_dtype() not in _FLOATS:
                    return None
                shapes[name], files[name] = list(part.get_shape()), path
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    renamed: dict[str, str] = {}
    for name, tensor in named_weights(network):
        published = next((other for other in (name, name.removeprefix(prefix)) if other in shapes), None)
        if published is None or shapes[published] != list(tensor.shape):
            return None
        renamed[name] = published
    known = {*renamed.values(), *network.state_dict()}
    if any(name not in known and not name.endswith("inv_freq") for name in shapes):
        return None
    return WeightFiles(files, renamed)


def named_weights(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and stored buffers of a base model by name; tied ones once."""
    yield from network.named_parameters()
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, tensor in network.state_dict().items():
        if name not in parameters:
            yield name, tensor


class ShardedModel(nn.Module):
    """The root of a model that is cut up: whatever of the model is run, is run through it, and the parts that belong to
    no layer (embeddings, the last norm, the head) are whole meanwhile."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Run something that uses the model."""
        return compute()


def find_layers(network: Any) -> list[nn.Module]:
    """Return the layers of the text model. Raises `InvalidJob` where they are not found."""
    count = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    for module in network.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise InvalidJob(
        f"a {network.config.model_type} model has no list of layers by which it could be cut up",
        where="provider_options.local.sharding",
        hint="set sharding: replicate",
    )


def cut(
    model: Any, weights: Weights, base_names: Collection[str], *, device: str, half: bool = False, offload: bool = False
) -> ShardedModel:
    """Fill a model without weights and cut it up, layer by layer; return its root.

    `base_names` are the names of the base's weights, without an adapter. With `half` layers are gathered in bfloat16
    and compute in it. With `offload` each process keeps its part in RAM, and only gathered layers are on the device.
    """
    from torch.distributed import fsdp, get_world_size
    from torch.distributed.device_mesh import init_device_mesh

    precision = fsdp.MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    policy: dict[str, Any] = {
        "mesh": init_device_mesh(device, (get_world_size(),)),
        "mp_policy": precision,
        "reshard_after_forward": True,
    }
    if offload and device == "cuda":
        policy["offload_policy"] = fsdp.CPUOffloadPolicy()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    by_module = {id(module): name for name, module in model.named_modules()}
    root = ShardedModel(model)
    for part in (*find_layers(base), root):
        filled: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        for module in part.modules():
            prefix = by_module.get(id(module))
            if prefix is not None:
                _fill(module, f"{prefix}." if prefix else "", weights, base_names, filled, device)
        del filled  # and with it the whole tensors, once they are cut
        sharded: Any = fsdp.fully_shard(part, **policy)
        sharded.set_gradient_divide_factor(1.0)  # each loss is a share of the step's: gradients are summed
        sharded.set_force_sum_reduction_for_comms(True)
        weights.release()
        free_memory()
    return root


def take_no_memory(network: Any) -> None:
    """Give a model that was built on the device meta tensors on the CPU that all share one number, so that adapters are
    put on it as on any other."""
    replaced: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in replaced:  # else it is tied to another
                    number = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                    replaced[id(parameter)] = nn.Parameter(number, requires_grad=parameter.requires_grad)
                module._parameters[name] = replaced[id(parameter)]


def _fill(
    module: nn.Module,
    prefix: str,
    weights: Weights,
    base_names: Collection[str],
    filled: dict[int, tuple[nn.Parameter, nn.Parameter]],
    device: str,
) -> None:
    """Put a module's own tensors on the device, those without weights from the base model."""
    from torch.distributed.tensor import DTensor

    for name, parameter in list(module._parameters.items()):
        if parameter is None or isinstance(parameter, DTensor):
            continue
        if id(parameter) not in filled:  # else it is tied to another
            stored = _base_name(prefix + name)
            value = weights.read(stored).to(parameter.dtype) if stored in base_names else parameter.data
            filled[id(parameter)] = (parameter, nn.Parameter(value.to(device), requires_grad=parameter.requires_grad))
        module._parameters[name] = filled[id(parameter)][1]
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            stored = _base_name(prefix + name)
            value = weights.read(stored).to(buffer.dtype) if stored in base_names else buffer
            module._buffers[name] = value.to(device)


def _base_name(name: str) -> str:
    """Return the name that a weight has in the base model, without the names that PEFT puts around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


# one tensor


def local_part(parameter: Any, whole: Tensor) -> Tensor:
    """Return this process's part of a tensor of the parameter's shape; all of it where the parameter is not cut."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(parameter, DTensor):
        return whole
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return whole[offset[0] : offset[0] + shape[0]]


def held(tensor: Any) -> Any:
    """Return what this process holds of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Any) -> Tensor:
    """Return a tensor gathered from all processes, which must all call this."""
    from torch.distributed.tensor import DTensor

    gathered: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered


def put(parameter: Any, value: Tensor) -> None:
    """Set a parameter, or this process's part of it, to a whole tensor."""
    with torch.no_grad():
        held(parameter).copy_(local_part(parameter, value))


def like(parameter: Any, value: Tensor) -> Any:
    """Return a whole tensor of the parameter's shape as this process's part of it."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return value
    part = local_part(parameter, value).clone().to(parameter.to_local().device)
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


@contextlib.contextmanager
def gathering_as_it_is(root: nn.Module) -> Iterator[None]:
    """Leave the gathering of layers alone while two ways are compared in float32 (see `exact`): it moves bytes.

    Its own hooks are the first before a layer and the last behind it.
    """

    def pause(*_: Any) -> None:
        exact.paused = True

    def go_on(*_: Any) -> None:
        exact.paused = False

    from torch.distributed.fsdp import FSDPModule

    handles = []
    for module in root.modules():
        if isinstance(module, FSDPModule) and not isinstance(module, ShardedModel):
            handles += [
                module.register_forward_pre_hook(pause, prepend=True),
                module.register_forward_pre_hook(go_on),
                module.register_forward_hook(pause, prepend=True),
                module.register_forward_hook(go_on),
            ]
    try:
        yield
    finally:
        exact.paused = False
        for handle in handles:
            handle.remove()
