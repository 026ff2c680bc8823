"""Answers of a model in training, as the store keeps them: one reference per step, and an event that shows them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from llmtune.metrics.samples import Sample
from llmtune.provider.types import Event, Ref
from llmtune.redaction.secrets import scrub

#: The name of the reference that holds the answers of a step.
PREFIX = "samples:"

#: Characters of a prompt and of an answer in an event: it is one line on a terminal.
_PROMPT_SHOWN, _ANSWER_SHOWN = 40, 60


def group_samples(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """Return samples by their step, in ascending order of step and number, without secrets."""
    ordered = sorted(map(_scrub_sample, samples), key=lambda sample: (sample.step, sample.number))
    return {step: list(group) for step, group in groupby(ordered, key=lambda sample: sample.step)}


def make_ref(step: int, samples: Iterable[Sample]) -> tuple[str, Ref]:
    """Return the reference that holds the samples of a step, and its name."""
    return f"{PREFIX}{step}", Ref(id=str(step), data={"samples": [sample.model_dump() for sample in samples]})


def read_samples(refs: Mapping[str, Mapping[str, Any]], *, after: int = -1) -> tuple[Sample, ...]:
    """Return the samples among a run's references, of steps above `after`, by step and number; damaged ones are left
    out."""
    samples: list[Sample] = []
    for name, ref in refs.items():
        if not name.startswith(PREFIX):
            continue
        try:
            samples += [Sample.model_validate(fields) for fields in ref["data"]["samples"]]
        except (ValueError, KeyError, TypeError):
            continue
    chosen = group_samples(sample for sample in samples if sample.step > after)
    return tuple(sample for group in chosen.values() for sample in group)


def make_event(step: int, samples: Iterable[Sample]) -> Event:
    """Return the event that shows the answers of a step."""
    answers = "; ".join(
        f"{_quote(sample.prompt, _PROMPT_SHOWN)} -> {_quote(sample.answer, _ANSWER_SHOWN)}" for sample in samples
    )
    message = f"answers at step {step:,}: {answers}"
    return Event(id=f"llmtune-samples-{step}", time=time.time(), message=message)


def _scrub_sample(sample: Sample) -> Sample:
    texts = ("prompt", "expected", "answer")
    return sample.model_copy(update={name: scrub(getattr(sample, name)) for name in texts})


def _quote(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= limit else f'"{line[: limit - 1]}\u2026"'
