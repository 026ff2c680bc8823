"""Weights & Biases: one W&B run a run, under the same id. Its own login, or `WANDB_MODE=offline`, decides where to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from llmtune.metrics.points import MetricPoint
from llmtune.trackers import SinkRun

PROJECT = "llmtune"

#: The step of a point: W&B's own counts rows, and takes none that goes back.
STEP = "step"


class WandbSink:
    """A run in a project: `PROJECT` or `ENTITY/PROJECT`."""

    def __init__(self, place: str) -> None:
        entity, _, project = place.rpartition("/")
        self._entity, self._project = entity or None, project or PROJECT
        self._told: SinkRun | None = None
        self._run: Any = None

    def begin(self, run: SinkRun, handle: dict[str, Any]) -> None:
        """Begin, or go on with, the W&B run of that id. What it holds is not asked: the store's note is believed."""
        self._told = run
        handle.setdefault("id", run.id)
        self._open(handle)

    def _open(self, handle: dict[str, Any]) -> None:
        told = self._told
        if told is None:
            return
        self._run = wandb.init(
            entity=self._entity,
            project=self._project,
            id=handle["id"],
            name=told.name,
            config=dict(told.params),
            tags=[f"{name}:{value}"[:64] for name, value in told.tags.items()],
            resume="allow",
            reinit="create_new",
            save_code=False,
            # Points alone: neither what this process prints, nor its files, host and load.
            settings=wandb.Settings(
                console="off", silent=True, quiet=True, disable_git=True, x_disable_stats=True, x_disable_meta=True
            ),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    def named(self, series: str) -> str:
        """Any name will do."""
        return series

    def write(self, points: Sequence[MetricPoint]) -> None:
        """One row a step."""
        rows: dict[int, dict[str, float]] = {}
        for point in points:
            rows.setdefault(point.step, {})[point.series] = point.value
        for step in sorted(rows):
            self._run.log({STEP: step, **rows[step]})

    def start_over(self, handle: dict[str, Any]) -> None:
        """W&B changes no point: the rest goes to a run of its own, and the first one is marked."""
        self._run.summary["superseded"] = True
        self._run.finish()
        handle["id"] = f"{handle['id']}-corrected"
        self._open(handle)

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """The results and the state into the summary, and the run's end."""
        self._run.summary.update({**results, "state": state})
        self._run.finish(exit_code=0 if state == "succeeded" else 1)
        self._run = None

    def close(self) -> None:
        """Leave the run as unfinished as it is."""
        if self._run is not None:
            self._run.finish(exit_code=255)
            self._run = None
