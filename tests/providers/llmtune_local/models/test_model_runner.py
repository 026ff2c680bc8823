"""No probe accepts another model: each is shown one that differs in exactly the way it looks for, and by little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmtune_local.inference import label_scoring, prefix_cache
from llmtune_local.kernels import packed_attention
from llmtune_local.kernels.shared_prefix import SharedPrefix
from llmtune_local.models import exact, fused_lora, model_runner
from llmtune_local.models.model_runner import Network

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build(family: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SHAPE | settings))
    return AutoModelForCausalLM.from_config(config).requires_grad_(False).to(dtype).eval()


def adapted(dtype: torch.dtype) -> Any:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    return peft.get_peft_model(build(dtype=dtype), config)


def network_of(model: Any, dtype: torch.dtype, **settings: Any) -> Network:
    return Network(model, device="cpu", dtype=dtype, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_differs_in_nothing_uses_every_way(dtype: torch.dtype) -> None:
    network = network_of(adapted(dtype), dtype)
    assert (
        network.linear_head,
        network.fused,
        network.packed,
        network.shares_prefixes,
        network.precomputes_prefix,
    ) == (True,) * 5
    assert network.last
    assert prefix_cache.supports_prefix_cache(network)
    assert label_scoring.choose_method(network).longest


# The head


def changed_logits(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Build a model that changes its logits, of which its configuration says nothing."""
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = changed
    return model


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a soft-cap far above most logits": lambda logits: 60.0 * torch.tanh(logits / 60.0),
    "a scale": lambda logits: logits * 1.001,
    "a bound": lambda logits: logits.clamp(max=200.0),
    "a bias": lambda logits: logits + 0.01 * torch.arange(logits.shape[-1], device=logits.device),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_head_that_is_more_than_linear_is_noticed(change: str, dtype: torch.dtype) -> None:
    assert not network_of(changed_logits(build(dtype=dtype), CHANGES[change]), dtype, pack=False).linear_head


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 1e5, "head_dim": 8}),
        ("gemma2", {"final_logit_softcapping": 30.0, "head_dim": 8, "num_hidden_layers": 6}),
        ("cohere", {"logit_scale": 1.0001}),
        ("granite", {"logits_scaling": 1.0001}),
    ],
)
def test_what_the_configuration_says_of_the_logits_is_believed(
    family: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    assert not network_of(build(family, dtype, **settings), dtype, pack=False).linear_head


def test_capped_logits_in_bfloat16_give_the_loss_of_the_capped_model() -> None:
    from llmtune_local.batching.packing import make_step
    from llmtune_local.batching.token_rows import TokenRow

    model = build("gemma2", torch.bfloat16, final_logit_softcapping=30.0, head_dim=8, initializer_range=1.0)
    ids = torch.arange(1, 30).remainder(97)
    row = TokenRow(ids.numpy().astype("int32"), (ids > 0).numpy() & (ids > 3).numpy())
    network = network_of(model, torch.bfloat16)
    (batch,) = make_step([row], prompt_weight=0.0, packed=network.packed, token_budget=100, pad=0).batches
    actual = network.losses(batch)

    def plain(cap: float | None) -> float:
        model.config.final_logit_softcapping = cap
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        return float(nll[torch.from_numpy(row.completion)[1:]].mean())

    capped, uncapped = plain(30.0), plain(None)
    assert abs(capped - uncapped) > 0.1 * capped
    assert float(actual.nll) / int(actual.tokens) == pytest.approx(capped, rel=0.01)


# The other ways


def scaled(function: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """Return a function whose first result is a little larger."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return changed


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_adapters_of_another_scale_are_not_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = fused_lora._FusedLora.apply
    monkeypatch.setattr(fused_lora._FusedLora, "apply", lambda *args: apply(*args[:-1], args[-1] * 1.05))
    network = network_of(adapted(dtype), dtype, pack=False)
    assert not network.fused
    assert not any("_plain_forward" in module.__dict__ for module in network.causal.modules())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_last_block_that_mixes_positions_is_computed_whole(dtype: torch.dtype) -> None:
    model = build(dtype=dtype)
    mlp = model.model.layers[-1].mlp
    forward = mlp.forward
    mlp.forward = lambda x: forward(x + 0.02 * x.roll(1, dims=1))
    assert not network_of(model, dtype, pack=False).last


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_that_round_to_another_function_are_not_used(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(dtype=dtype)
    norm = model.model.norm
    forward = norm.forward

    def install(_: Any, factor: float) -> Callable[[], None]:
        norm.forward = lambda x: forward(x) * factor
        return lambda: setattr(norm, "forward", forward)

    network = network_of(model, dtype)
    for factor, usable in ((1.0, True), (1.002, False)):
        monkeypatch.setattr(model_runner, "use_liger", lambda causal, factor=factor: install(causal, factor))
        with torch.no_grad(), network.autocast(), network.unpacked():
            assert network._try_kernels() is usable


def attention_that(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    plain = packed_attention.packed_attention
    monkeypatch.setattr(
        packed_attention, "packed_attention", lambda *args, **kwargs: change(plain, *args, **kwargs), raising=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_attention_with_another_scale_is_not_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    attention_that(monkeypatch, lambda plain, *args, **kwargs: scaled(plain, 1.005)(*args, **kwargs))
    assert not network_of(build(dtype=dtype), dtype).packed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_window_that_no_probe_would_reach_is_looked_at(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_window(plain: Any, *args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    assert network_of(build("mistral", dtype, sliding_window=64), dtype).packed
    attention_that(monkeypatch, without_window)
    model = build("mistral", dtype, sliding_window=64)
    assert not network_of(model, dtype).packed
    assert model.config.sliding_window == 64


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_that_a_longer_row_would_stretch_for_all_are_not_packed(dtype: torch.dtype) -> None:
    """Phi-3's rotary frequencies are others once the longest row of a batch is beyond the length of pretraining."""
    stretched = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 64,
    }
    assert not network_of(build("phi3", dtype, rope_parameters=stretched), dtype).packed
    assert network_of(build("phi3", dtype, rope_parameters=stretched), dtype, longest=60).packed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cap_on_attention_is_not_packed(dtype: torch.dtype) -> None:
    plain = build("gemma2", dtype, attn_logit_softcapping=None, head_dim=8)
    assert network_of(plain, dtype).packed
    assert not network_of(build("gemma2", dtype, attn_logit_softcapping=50.0, head_dim=8), dtype).packed


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_see_their_beginning_differently_do_not_share_it(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(plain: Any, module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if any(group.shared for group in kwargs["packed_layout"].groups):
            value = torch.cat([value[:, :, :1] * 1.02, value[:, :, 1:]], dim=2)
        return plain(module, query, key, value, *args, **kwargs)

    attention_that(monkeypatch, change)
    network = network_of(build(dtype=dtype), dtype)
    assert network.packed
    assert not network.shares_prefixes


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_beginning_with_other_values_is_not_computed_before(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = SharedPrefix.before

    def changed(self: Any, layer: int, key: Any, value: Any) -> Any:
        key, value, ahead = before(self, layer, key, value)
        return key, (torch.cat([value[:, :, :1] * 1.02, value[:, :, 1:]], dim=2) if ahead else value), ahead

    monkeypatch.setattr(SharedPrefix, "before", changed)
    network = network_of(build(dtype=dtype), dtype)
    assert network.shares_prefixes
    assert not network.precomputes_prefix


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_and_a_tree_of_answers_with_other_numbers_are_not_used(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(build(dtype=dtype), dtype)
    rows, lay_out = prefix_cache.Prefix.rows, label_scoring.tree_layout

    def larger(self: Any, count: int) -> Any:
        cache = rows(self, count)
        for layer in cache.layers:
            layer.values = layer.values * 1.01
        return cache

    def leaking(*args: Any, plain: bool = False, **kwargs: Any) -> Any:
        inputs, select, targets = lay_out(*args, plain=plain, **kwargs)
        if not plain:  # one answer sees a little of another
            inputs["attention_mask"] = inputs["attention_mask"].clamp_min(-3.0)
        return inputs, select, targets

    monkeypatch.setattr(prefix_cache.Prefix, "rows", larger)
    assert not prefix_cache.supports_prefix_cache(network)
    monkeypatch.setattr(label_scoring, "tree_layout", leaking)
    assert not label_scoring.choose_method(network).longest


def test_float32_is_used_for_every_weight_and_nothing_is_left_changed() -> None:
    model = build(dtype=torch.bfloat16)
    ids = torch.arange(9).unsqueeze(0)
    with torch.no_grad():
        with exact.float32("cpu"):
            logits = model(input_ids=ids).logits
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(logits, model.float()(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_threads_load_their_models_one_after_the_other(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers changes settings of the whole process while it loads: two at once break every later load."""
    import threading
    import time

    from llmtune_local.inference.generator import LocalGenerator
    from llmtune_local.models import loading

    at_work, most, guard = 0, 0, threading.Lock()
    read_weights = loading._read_weights

    def read(*arguments: Any, **options: Any) -> Any:
        nonlocal at_work, most
        with guard:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        try:
            return read_weights(*arguments, **options)
        finally:
            with guard:
                at_work -= 1

    monkeypatch.setattr(loading, "_read_weights", read)
    generators = [LocalGenerator(model=str(base_folder)) for _ in range(3)]
    threads = [threading.Thread(target=generator._load) for generator in generators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    for generator in generators:
        generator.close()
