"""Pairs between two sets: the same ones as by an index of all bands, whatever the numbers of rows."""

from __future__ import annotations

import random

import numpy as np

from llmtune.data.checks.minhash import ALIKE_ENOUGH, NearIndex, Sketcher, pairs_between


def test_pairs_of_two_sets_are_those_that_an_index_finds() -> None:
    draw = random.Random(4)
    words = [f"word{number}" for number in range(400)]
    texts = []
    for _ in range(150):
        text = draw.choices(words, k=30)
        texts.append(" ".join(text))
        for _ in range(draw.randint(0, 3)):
            near = list(text)
            near[draw.randrange(30)] = draw.choice(words)
            texts.append(" ".join(near))
    texts += ["", "x"]  # without a sketch
    sketches, has = Sketcher().sketch(texts)
    side = np.array([draw.randrange(3) for _ in texts])
    inside, outside = np.flatnonzero((side == 0) & has), np.flatnonzero((side != 0) & has)
    index = NearIndex(sketches[inside], has[inside])
    expected = {
        (int(outside[row]), int(inside[held]), agree)
        for row, held, agree in index.matches(sketches[outside], has[outside], alike=ALIKE_ENOUGH)
    }
    pairs = pairs_between(sketches, inside, outside, alike=ALIKE_ENOUGH)
    assert {tuple(map(int, pair)) for pair in pairs} == expected
    assert len(pairs) == len(expected) > 50


def test_an_empty_set_has_no_pairs() -> None:
    sketches, _ = Sketcher().sketch(["one two three", "one two three"])
    rows, none = np.arange(2), np.arange(0)
    assert pairs_between(sketches, none, rows, alike=ALIKE_ENOUGH).shape == (0, 3)
    assert pairs_between(sketches, rows, none, alike=ALIKE_ENOUGH).shape == (0, 3)
