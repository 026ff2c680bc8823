"""Curves from the job's TensorBoard, through aiplatform's generated clients over REST.

The way there: the job names an experiment (a metadata context), the context names its TensorBoard, the TensorBoard's
experiment has runs, a run has time series, and their values are read in batches of at most 1,000 points a series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmtune.provider import MetricPoint
from llmtune_vertex import responses
from llmtune_vertex.client import Sdk

#: Time series asked for in one call.
BATCH = 100


def read(sdk: Sdk, experiment: str) -> list[MetricPoint]:
    """Every point of every curve of an experiment ("projects/../metadataStores/default/contexts/NAME").

    Empty while the experiment has no TensorBoard yet.
    """
    location = responses.location_of(experiment) or sdk.location
    once = {"retry": None, "timeout": sdk.settings.timeout}
    with sdk.translate_errors("reading the curves"):
        context = sdk.gapic("MetadataServiceClient", location).get_context(name=experiment, **once)
        board = dict(context.metadata or {}).get("backing_tensorboard_resource")
        if not board:
            return []
        client = sdk.gapic("TensorboardServiceClient", location)
        parent = f"{board}/experiments/{experiment.rsplit('/', 1)[-1]}"
        points: list[MetricPoint] = []
        for run in client.list_tensorboard_runs(parent=parent, **once):
            series = client.list_tensorboard_time_series(parent=run.name, **once)
            names = {curve.name: curve.display_name for curve in series}
            for batch in _batches(list(names)):
                answer = client.batch_read_tensorboard_time_series_data(
                    request={"tensorboard": board, "time_series": batch}, **once
                )
                points += _points(answer.time_series_data, names, batch)
    return points


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), BATCH):
        yield list(names[start : start + BATCH])


def _points(answers: Sequence[Any], names: Mapping[str, str], asked: Sequence[str]) -> Iterator[MetricPoint]:
    by_id = {name.rsplit("/", 1)[-1]: display for name, display in names.items()}
    for index, data in enumerate(answers):
        # The service answers with the id alone; fall back on the order in which the series were asked for.
        raw = by_id.get(str(data.tensorboard_time_series_id).rsplit("/", 1)[-1])
        raw = raw or (names[asked[index]] if index < len(asked) else "")
        for value in data.values:
            if raw:
                yield MetricPoint(
                    step=int(value.step),
                    series=responses.series(raw),
                    value=float(value.scalar.value),
                    time=value.wall_time.timestamp() if value.wall_time else None,
                    source="vendor_api",
                    raw_name=raw,
                )
