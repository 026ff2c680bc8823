"""One step gives one gradient, however its rows are put together."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune_local.batching import loss, sizes, step_order
from llmtune_local.batching.packing import MicroBatch, make_step
from llmtune_local.batching.token_rows import TokenRow
from llmtune_local.kernels import packed_attention
from llmtune_local.models import fused_lora
from llmtune_local.models.model_runner import Network

VOCABULARY = 97
#: float32: the same sums in another order.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2", "phi3", "gpt_neox", "mamba"]
PACKED = {"llama", "qwen2", "qwen3", "mistral", "gpt2", "phi3", "gpt_neox"}


def make_row(length: int, seed: int, completion: tuple[int, int] | None = None) -> TokenRow:
    generator = np.random.default_rng(seed)
    mask = np.zeros(length, dtype=np.bool_)
    first, last = completion or (max(1, length // 2), length)
    mask[first:last] = True
    return TokenRow(generator.integers(0, VOCABULARY, length).astype(np.int32), mask)


ROWS = [make_row(length, seed) for seed, length in enumerate((5, 17, 2, 9, 30, 9, 3))]


def gradients(network: Network, batches: list[MicroBatch], weight: float, smoothing: float = 0.0) -> dict[str, Any]:
    network.model.zero_grad(set_to_none=True)
    total = 0.0
    for batch, prefix in network.iterate_batches(batches):
        sums = network.losses(batch, smoothing=smoothing, prefix=prefix)
        (sums.objective / weight).backward()
        total += sums.objective.item()
    by_name = {
        name: parameter.grad.clone()
        for name, parameter in network.model.named_parameters()
        if parameter.grad is not None
    }
    return {"loss": torch.tensor(total / weight), **by_name}


def reference(network: Network, rows: list[TokenRow], prompt_weight: float) -> dict[str, Any]:
    """Row by row through the plain model, full logits, torch's own cross-entropy."""
    network.model.zero_grad(set_to_none=True)
    total, weights = torch.zeros(()), 0.0
    with network.unpacked():
        for row in rows:
            ids = torch.from_numpy(row.ids.astype(np.int64)).unsqueeze(0)
            logits = network.causal(input_ids=ids).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            weight = torch.where(torch.from_numpy(row.completion[1:]), 1.0, prompt_weight)
            total = total + (nll * weight).sum()
            weights += float(weight.sum())
    (total / weights).backward()
    by_name = {
        name: parameter.grad.clone()
        for name, parameter in network.model.named_parameters()
        if parameter.grad is not None
    }
    return {"loss": (total / weights).detach(), **by_name}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    assert len(actual) > 2
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("prompt_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_padded_and_one_by_one_give_the_same_gradient(
    family: str, prompt_weight: float, lora_model: Callable[..., Any]
) -> None:
    network = Network(lora_model(family), device="cpu", dtype=torch.float32)
    assert network.packed == (family in PACKED)
    expected = reference(network, ROWS, prompt_weight)
    for packed in (True, False):
        way = Network(network.model, device="cpu", dtype=torch.float32, pack=packed)
        if packed and not way.packed:
            continue
        for budget, count in ((10_000, None), (24, None), (1, None), (24, 1), (24, 3)):
            step = make_step(
                ROWS, prompt_weight=prompt_weight, packed=way.packed, token_budget=budget, micro_batches=count
            )
            assert sum(len(batch.targets) for batch in step.batches) == sum(
                int(row.completion[1:].sum()) if prompt_weight == 0 else len(row.ids) - 1 for row in ROWS
            )
            assert_same(gradients(way, step.batches, step.weight), expected)


def begin_alike(shared: int, *rows: TokenRow, seed: int = 99) -> list[TokenRow]:
    """Return the rows with the same tokens in front, none of them completion."""
    first = make_row(shared, seed)
    prompt = np.zeros(shared, dtype=np.bool_)
    return [TokenRow(np.concatenate([first.ids, row.ids]), np.concatenate([prompt, row.completion])) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("prompt_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2", "phi3", "mamba"])
def test_rows_that_begin_alike_give_the_same_gradient(
    family: str, prompt_weight: float, lora_model: Callable[..., Any]
) -> None:
    network = Network(lora_model(family), device="cpu", dtype=torch.float32)
    assert network.shares_prefixes == (family in PACKED)
    assert network.precomputes_prefix == (family in PACKED - {"mistral"})  # which has a window
    rows = [*begin_alike(40, *ROWS[:4]), *begin_alike(33, *ROWS[2:], seed=98), ROWS[0]]
    expected = reference(network, rows, prompt_weight)
    for budget, count in ((10_000, None), (90, None), (1, None), (24, 1), (24, 3)):
        step = make_step(
            rows,
            prompt_weight=prompt_weight,
            packed=network.packed,
            share_prefixes=network.shares_prefixes,
            token_budget=budget,
            micro_batches=count,
        )
        assert_same(gradients(network, step.batches, step.weight), expected)
        assert step.completion_tokens == sum(int(row.completion[1:].sum()) for row in rows)
        assert step.tokens == sum(len(row.ids) for row in rows)
    if network.precomputes_prefix:
        for budget, families in ((90, 0), (40, 1), (1, 2)):
            step = make_step(
                rows,
                prompt_weight=prompt_weight,
                packed=True,
                share_prefixes=True,
                precompute_prefix=True,
                token_budget=budget,
            )
            ahead = {id(batch.prefix) for batch in step.batches if batch.prefix is not None}
            assert len(ahead) == (0 if prompt_weight else families)
            assert_same(gradients(network, step.batches, step.weight), expected)
            assert step.completion_tokens == sum(int(row.completion[1:].sum()) for row in rows)
            assert step.tokens == sum(len(row.ids) for row in rows)


def test_a_beginning_of_more_rows_than_go_through_at_once_is_computed_once_a_step() -> None:
    rows = begin_alike(40, *ROWS)
    step = make_step(rows, prompt_weight=0.0, packed=True, share_prefixes=True, precompute_prefix=True, token_budget=30)
    assert len(step.batches) > 1
    prefixes = [batch.prefix for batch in step.batches]
    assert all(prefix is prefixes[0] for prefix in prefixes)
    assert prefixes[0] is not None
    assert prefixes[0].tolist() == [rows[0].ids[:40].tolist()]
    assert sum(batch.ids.shape[1] for batch in step.batches) == sum(len(row.ids) - 1 for row in ROWS)
    assert max(batch.ids.shape[1] for batch in step.batches) <= 30
    # Where one answer begins within what rows share, only what stands before it is computed ahead.
    early = np.zeros(len(rows[1].ids), dtype=np.bool_)
    early[36:] = True
    step = make_step(
        [*rows[:1], TokenRow(rows[1].ids, early), *rows[2:]],
        prompt_weight=0.0,
        packed=True,
        share_prefixes=True,
        precompute_prefix=True,
        token_budget=30,
    )
    assert {batch.prefix.shape[1] for batch in step.batches if batch.prefix is not None} == {35}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_the_last_block_computes_trained_positions_alone(family: str, lora_model: Callable[..., Any]) -> None:
    network = Network(lora_model(family), device="cpu", dtype=torch.float32)
    step = make_step(ROWS, prompt_weight=0.0, packed=network.packed, token_budget=10_000, pad=0)
    widths: list[int] = []
    with contextlib.ExitStack() as hooks:
        for module in network.last:
            hooks.callback(module.register_forward_hook(lambda _, args, __: widths.append(args[0].shape[1])).remove)
        network.losses(step.batches[0])
    if not network.linear_head:  # its own head is asked for logits, and the block is left alone
        assert not network.last
        return
    assert "last block at trained positions only" in network.features
    assert widths == [len(step.batches[0].select)] * len(network.last)
    assert len(widths) == (1 if family == "gpt2" else 3)


def test_gradient_checkpointing_leaves_the_last_block_whole(lora_model: Callable[..., Any]) -> None:
    model = lora_model("llama")
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    network = Network(model, device="cpu", dtype=torch.float32)
    assert network.packed
    assert not network.last
    assert not network.precomputes_prefix


def test_a_beginning_that_rows_share_is_computed_once() -> None:
    rows = begin_alike(40, *ROWS)
    step = make_step(rows, prompt_weight=0.0, packed=True, share_prefixes=True, token_budget=10_000)
    (batch,) = step.batches
    assert batch.ids.shape[1] == 40 + sum(len(row.ids) - 1 for row in ROWS)
    assert [group.shared for group in batch.prefix_groups or ()] == [40]
    plain = make_step(rows, prompt_weight=0.0, packed=True, token_budget=10_000)
    assert plain.batches[0].ids.shape[1] == 40 * len(ROWS) + sum(len(row.ids) - 1 for row in ROWS)
    assert plain.weight == step.weight


def test_each_of_several_beginnings_is_shared_by_its_own_rows() -> None:
    rows = [*begin_alike(50, *ROWS[:3]), *begin_alike(60, *ROWS[3:6], seed=5), ROWS[6]]
    (batch,) = make_step(rows, prompt_weight=0.0, packed=True, share_prefixes=True, token_budget=10_000).batches
    assert sorted(group.shared for group in batch.prefix_groups or ()) == [0, 50, 60]


def test_a_longer_beginning_of_some_is_worth_more_than_a_short_one_of_all() -> None:
    close = begin_alike(400, *ROWS[:3], seed=7)
    rows = begin_alike(33, *close, ROWS[4])
    (batch,) = make_step(rows, prompt_weight=0.0, packed=True, share_prefixes=True, token_budget=10_000).batches
    assert sorted(group.shared for group in batch.prefix_groups or ()) == [0, 433]


def test_rows_trained_alike_count_each(lora_model: Callable[..., Any]) -> None:
    """The same row twice, and a row that goes on where another ends: trained tokens stand in the shared part."""
    network = Network(lora_model("llama"), device="cpu", dtype=torch.float32)
    first = make_row(60, 3, (20, 60))
    longer = TokenRow(np.concatenate([first.ids, ROWS[1].ids]), np.concatenate([first.completion, ROWS[1].completion]))
    rows = [first, first, longer]
    expected = reference(network, rows, 0.3)
    step = make_step(rows, prompt_weight=0.3, packed=True, share_prefixes=True, token_budget=10_000)
    assert step.batches[0].ids.shape[1] < 100
    assert_same(gradients(network, step.batches, step.weight), expected)
    sums = network.losses(step.batches[0])
    apart = [
        network.losses(batch)
        for row in rows
        for batch in make_step([row], prompt_weight=0.3, packed=True, token_budget=1).batches
    ]
    assert sums.tokens == sum(row_sums.tokens for row_sums in apart)
    assert int(sums.correct) == sum(int(row_sums.correct) for row_sums in apart)
    torch.testing.assert_close(sums.nll, torch.stack([row_sums.nll for row_sums in apart]).sum(), rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_for_each_row_so_nothing_is_shared(lora_model: Callable[..., Any]) -> None:
    network = Network(lora_model("llama", attention_dropout=0.1), device="cpu", dtype=torch.float32)
    assert network.packed
    assert not network.shares_prefixes


def test_fused_adapters_step_aside_for_what_they_do_not_compute(lora_model: Callable[..., Any]) -> None:
    model = lora_model("llama")
    network = Network(model, device="cpu", dtype=torch.float32)
    assert network.fused
    ids = torch.arange(12).unsqueeze(0)
    with network.unpacked():
        fused = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
        fused_lora.unfuse(model)
        torch.testing.assert_close(fused, model(input_ids=ids).logits, **TOLERANCE)
        with model.disable_adapter():
            torch.testing.assert_close(base, model(input_ids=ids).logits, **TOLERANCE)
    assert not torch.allclose(base, fused)


def test_a_fresh_adapter_is_still_zero_after_fusing_was_tried(lora_model: Callable[..., Any]) -> None:
    model = lora_model("llama")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert Network(model, device="cpu", dtype=torch.float32).fused
    assert not any(parameter.any() for name, parameter in model.named_parameters() if "lora_B" in name)


def test_full_tuning_and_the_head_get_the_same_gradient(random_model: Callable[..., Any]) -> None:
    for tied in (True, False):
        model = random_model("llama", tie_word_embeddings=tied).requires_grad_(True)
        network = Network(model, device="cpu", dtype=torch.float32)
        step = make_step(ROWS, prompt_weight=0.3, packed=True, token_budget=40)
        assert_same(gradients(network, step.batches, step.weight), reference(network, ROWS, 0.3))


def test_a_model_whose_head_is_more_than_linear_uses_its_own(lora_model: Callable[..., Any]) -> None:
    network = Network(lora_model("gemma2"), device="cpu", dtype=torch.float32)
    assert not network.linear_head  # it caps its logits
    assert "the model's own head" in " ".join(network.features)


def test_the_window_of_sliding_attention_holds_in_packed_rows(lora_model: Callable[..., Any]) -> None:
    narrow = Network(lora_model("mistral", sliding_window=4), device="cpu", dtype=torch.float32)
    assert narrow.packed
    step = make_step(ROWS, prompt_weight=0.2, packed=True, token_budget=64)
    expected = reference(narrow, ROWS, 0.2)
    assert_same(gradients(narrow, step.batches, step.weight), expected)
    wide = Network(lora_model("mistral"), device="cpu", dtype=torch.float32)
    assert not torch.allclose(reference(wide, ROWS, 0.2)["loss"], expected["loss"], rtol=1e-4)


def test_a_model_that_mixes_rows_is_not_packed(lora_model: Callable[..., Any], monkeypatch: Any) -> None:
    """An attention that forgets the borders is found out when the model is loaded."""

    def leaky(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None

    monkeypatch.setattr(packed_attention, "packed_attention", leaky)
    assert not Network(lora_model("llama"), device="cpu", dtype=torch.float32).packed
    monkeypatch.undo()
    assert Network(lora_model("llama"), device="cpu", dtype=torch.float32).packed


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_any_rows_weights_and_budgets(lora_model: Callable[..., Any], data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(["llama", "qwen3"]))
    rows = []
    shared = data.draw(st.sampled_from([0, 0, 1, 31, 32, 50]))
    for seed in range(data.draw(st.integers(1, 6))):
        length = data.draw(st.integers(2, 40))
        first = data.draw(st.integers(1, length - 1))
        rows.append(make_row(length, seed, (first, data.draw(st.integers(first + 1, length)))))
    if shared:
        rows = [*begin_alike(shared, *rows), *rows[: data.draw(st.integers(0, 2))]]
    weight = data.draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    network = Network(lora_model(family), device="cpu", dtype=torch.float32)
    packed = data.draw(st.booleans())
    way = Network(network.model, device="cpu", dtype=torch.float32, pack=packed)
    step = make_step(
        rows,
        prompt_weight=weight,
        packed=packed,
        share_prefixes=data.draw(st.booleans()),
        precompute_prefix=way.precomputes_prefix and data.draw(st.booleans()),
        token_budget=data.draw(st.integers(1, 400)),
        micro_batches=data.draw(st.none() | st.integers(1, 8)),
    )
    assert_same(gradients(way, step.batches, step.weight), reference(network, rows, weight))


def test_label_smoothing_is_torchs(lora_model: Callable[..., Any]) -> None:
    network = Network(lora_model("llama"), device="cpu", dtype=torch.float32)
    step = make_step(ROWS, prompt_weight=0.0, packed=True, token_budget=1000)
    (batch,) = step.batches
    actual = gradients(network, step.batches, step.weight, smoothing=0.2)
    network.model.zero_grad(set_to_none=True)
    hidden = network._hidden(network._inputs(batch), batch.select)
    logits = network.causal.get_output_embeddings()(hidden)
    plain = torch.nn.functional.cross_entropy(logits, batch.targets, label_smoothing=0.2, reduction="sum")
    (plain / step.weight).backward()
    torch.testing.assert_close(actual["loss"], (plain / step.weight).detach(), **TOLERANCE)
    for name, parameter in network.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(actual[name], parameter.grad, **TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 64, 1 << 20])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunks_never_change_the_loss(chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(sizes, "_CHUNK_ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 8, generator=generator, dtype=torch.float64).float().requires_grad_(True)
    weight = torch.randn(11, 8, generator=generator).requires_grad_(True)
    bias = torch.randn(11, generator=generator).requires_grad_(True)
    targets = torch.randint(0, 11, (20,), generator=generator)
    weights = torch.rand(20, generator=generator)
    completion = weights > 0.5
    sums = loss.linear_cross_entropy(hidden, weight, bias, targets, weights, completion, smoothing=smoothing)
    (2.0 * sums.objective).backward()
    chunked = [hidden.grad, weight.grad, bias.grad]
    for tensor in (hidden, weight, bias):
        tensor.grad = None
    logits = torch.nn.functional.linear(hidden, weight, bias)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (2.0 * (losses * weights).sum()).backward()
    torch.testing.assert_close(sums.objective, (losses * weights).sum())
    torch.testing.assert_close(sums.nll, plain[completion].sum())
    assert sums.tokens == int(completion.sum())
    assert int(sums.correct) == int((logits.argmax(1) == targets)[completion].sum())
    for gradient, tensor in zip(chunked, (hidden, weight, bias), strict=True):
        torch.testing.assert_close(gradient, tensor.grad)
    again = loss.logits_cross_entropy(logits, targets, weights, completion, smoothing=smoothing)
    torch.testing.assert_close(again.objective, sums.objective)
    assert int(again.correct) == int(sums.correct)


def test_an_epoch_takes_every_row_once_and_a_step_is_known_by_its_number() -> None:
    rows, batch_size, seed = 23, 4, 7
    per_epoch = step_order.steps_per_epoch(rows, batch_size)
    assert per_epoch == 6
    epochs = [
        [
            row
            for within in range(per_epoch)
            for row in step_order.rows_of_step(rows, batch_size, seed, e * per_epoch + within)
        ]
        for e in range(3)
    ]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert step_order.epoch_order(rows, seed, 0) != step_order.epoch_order(rows, seed + 1, 0)
    assert len(step_order.rows_of_step(rows, batch_size, seed, per_epoch - 1)) == 3


def test_budget_bounds_the_micro_batches() -> None:
    step = make_step(ROWS, prompt_weight=0.5, packed=True, token_budget=32)
    assert all(batch.ids.shape[1] <= 32 for batch in step.batches)
    assert len(step.batches) < len(ROWS)
    padded = make_step(ROWS, prompt_weight=0.5, packed=False, token_budget=32)
    assert all(batch.ids.numel() <= 32 for batch in padded.batches)
    assert step.tokens == padded.tokens == sum(len(row.ids) for row in ROWS)
    assert step.weight == pytest.approx(padded.weight)
    assert len(make_step(ROWS, prompt_weight=0, packed=True, token_budget=1, micro_batches=3).batches) == 3


def test_what_follows_the_last_trained_token_is_not_computed() -> None:
    row = make_row(50, 0, (10, 20))
    step = make_step([row], prompt_weight=0.0, packed=True, token_budget=100)
    assert step.batches[0].ids.shape == (1, 19)
    assert make_step([row], prompt_weight=0.1, packed=True, token_budget=100).batches[0].ids.shape == (1, 49)


def test_deep_copies_do_not_share_attention(lora_model: Callable[..., Any]) -> None:
    model = lora_model("llama")
    network = Network(model, device="cpu", dtype=torch.float32)
    with network.unpacked():
        assert copy.deepcopy(network.causal.config)._attn_implementation == network.native
    assert network.causal.config._attn_implementation == packed_attention.NAME
