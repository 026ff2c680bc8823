"""Weights & Biases: one W&B run per run, under the same id. W&B's own settings decide where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from llmtune.metrics.points import MetricPoint
from llmtune.metrics.samples import Sample
from llmtune.trackers import TrackedRun

PROJECT = "llmtune"

#: The metric that holds the step of a point: W&B's own step counts rows, and never goes back.
STEP = "step"


class WandbTracker:
    """A run in a project: `PROJECT` or `ENTITY/PROJECT`."""

    def __init__(self, target: str) -> None:
        entity, _, project = target.rpartition("/")
        self._entity, self._project = entity or None, project or PROJECT
        self._tracked_run: TrackedRun | None = None
        self._run: Any = None

    def start_run(self, run: TrackedRun, handle: dict[str, Any]) -> None:
        """Start or resume the W&B run of that id. Its points are not read back: the store's record counts."""
        self._tracked_run = run
        handle.setdefault("id", run.id)
        self._open(handle)

    def _open(self, handle: dict[str, Any]) -> None:
        run = self._tracked_run
        if run is None:
            return
        self._run = wandb.init(
            entity=self._entity,
            project=self._project,
            id=handle["id"],
            name=run.name,
            config=dict(run.params),
            tags=[f"{name}:{value}"[:64] for name, value in run.tags.items()],
            resume="allow",
            reinit="create_new",
            save_code=False,
            # Points, and answers where the job asks for them: neither what this process prints, nor its files, host and
            # load.
            settings=wandb.Settings(
                console="off", silent=True, quiet=True, disable_git=True, x_disable_stats=True, x_disable_meta=True
            ),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    def series_name(self, series: str) -> str:
        """Return the series' own name: W&B takes any."""
        return series

    def write(self, points: Sequence[MetricPoint]) -> None:
        """Log one row per step."""
        rows: dict[int, dict[str, float]] = {}
        for point in points:
            rows.setdefault(point.step, {})[point.series] = point.value
        for step in sorted(rows):
            self._run.log({STEP: step, **rows[step]})

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Log the answers as a table."""
        columns: list[str | int] = ["row", "prompt", "expected", "answer"]
        rows = [[sample.number, sample.prompt, sample.expected, sample.answer] for sample in samples]
        self._run.log({STEP: step, "samples": wandb.Table(columns=columns, data=rows)})

    def start_over(self, handle: dict[str, Any]) -> None:
        """Mark the run as superseded and start another: W&B changes no point."""
        self._run.summary["superseded"] = True
        self._run.finish()
        handle["id"] = f"{handle['id']}-corrected"
        self._open(handle)

    def finish(self, results: Mapping[str, float], step: int, state: str) -> None:
        """Write the results and the state into the summary, and end the run."""
        self._run.summary.update({**results, "state": state})
        self._run.finish(exit_code=0 if state == "succeeded" else 1)
        self._run = None

    def close(self) -> None:
        """Close the run as unfinished."""
        if self._run is not None:
            self._run.finish(exit_code=255)
            self._run = None
