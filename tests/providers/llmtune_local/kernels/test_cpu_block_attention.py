"""Attention cut into pieces gives what masked attention gives, and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune_local.batching.packing import PrefixGroup
from llmtune_local.kernels import cpu_block_attention, packed_attention
from llmtune_local.kernels.shared_prefix import SharedPrefix

HEADS, WIDTH = 2, 8


def masked(query: Any, key: Any, value: Any, groups: tuple[PrefixGroup, ...], ahead: int) -> Any:
    """With a mask of all keys: each token sees what stands before all rows, its row's beginning, and its row so far."""
    tokens = query.shape[2]
    mask = torch.zeros(tokens, ahead + tokens, dtype=torch.bool)
    mask[:, :ahead] = True
    start = 0
    for group in groups:
        begins = start
        for length in (group.shared, *group.own):
            part = slice(start, start + length)
            mask[part, ahead + begins : ahead + begins + group.shared] = True
            mask[part, ahead + start : ahead + start + length] = torch.ones(length, length, dtype=torch.bool).tril()
            start += length
        prefix = slice(begins, begins + group.shared)
        mask[prefix, ahead + begins : ahead + begins + group.shared] = torch.ones(
            group.shared, group.shared, dtype=torch.bool
        ).tril()
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


group_lists = st.lists(
    st.builds(
        PrefixGroup, st.sampled_from([0, 0, 3, 40]), st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple)
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@settings(max_examples=40)
@given(group_lists, st.sampled_from([0, 0, 5, 33]), st.data())
def test_pieces_are_masked_attention(rows: tuple[PrefixGroup, ...], ahead: int, data: st.DataObject) -> None:
    tokens = sum(group.tokens for group in rows)
    draw = torch.Generator().manual_seed(tokens)
    query, key, value = (
        torch.randn(1, HEADS, count, WIDTH, generator=draw).requires_grad_(True)
        for count in (tokens, ahead + tokens, ahead + tokens)
    )
    reads = None
    read = torch.arange(tokens)
    if data.draw(st.booleans()):
        read = torch.tensor(sorted(data.draw(st.sets(st.integers(0, tokens - 1), min_size=1))))
        reads = cpu_block_attention.first_read(rows, read)
    actual = cpu_block_attention.attend(
        query, key, value, cpu_block_attention.cut(rows, reads=reads, prefix_tokens=ahead), None
    )
    expected = masked(query, key, value, rows, ahead)
    torch.testing.assert_close(actual[:, :, read], expected[:, :, read], rtol=1e-4, atol=1e-5)
    upstream = torch.zeros_like(expected)
    upstream[:, :, read] = torch.randn(1, HEADS, len(read), WIDTH, generator=draw)
    pairs = zip(
        *(torch.autograd.grad(output, (query, key, value), upstream) for output in (actual, expected)), strict=True
    )
    for gradient, plain in pairs:
        torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-5)


def test_what_nobody_reads_is_not_asked() -> None:
    rows = (PrefixGroup(4, (3, 5)), PrefixGroup(0, (6,)))
    reads = cpu_block_attention.first_read(rows, torch.tensor([6, 17, 6, 11]))
    assert reads == (None, 6, 11, 17)
    queries = {
        position for piece in cpu_block_attention.cut(rows, reads=reads) for position in range(piece.first, piece.last)
    }
    assert queries == {6, 11, 17}


def test_a_beginning_is_for_layers_that_are_numbered() -> None:
    query = torch.randn(1, 2, 3, 8)
    with pytest.raises(packed_attention.CannotPack, match="does not number its layers"):
        packed_attention.packed_attention(
            torch.nn.Module(),
            query,
            query,
            query,
            None,
            packed_layout=packed_attention.PackedLayout((PrefixGroup(0, (3,)),), prefix=SharedPrefix(4)),
        )


def test_a_window_that_ends_within_the_beginning_is_refused() -> None:
    query = torch.randn(1, 2, 3, 8)
    with pytest.raises(packed_attention.CannotPack, match="without window"):
        packed_attention.packed_attention(
            torch.nn.Module(),
            query,
            query,
            query,
            None,
            packed_layout=packed_attention.PackedLayout((PrefixGroup(0, (3,)),), prefix=SharedPrefix(4)),
            sliding_window=5,
        )
