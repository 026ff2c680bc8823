"""Curves from the job's TensorBoard, by four plain calls of its REST API.

The way there: the job names an experiment (a metadata context), the context names its TensorBoard, the TensorBoard's
experiment has runs, a run has time series, and their values are read in batches of at most 1,000 points a series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmtune.provider import MetricPoint, read_number, unix_seconds
from llmtune_vertex import responses
from llmtune_vertex.client import Sdk

#: Time series asked for in one call.
BATCH = 100


def read(sdk: Sdk, experiment: str) -> list[MetricPoint]:
    """Read every point of every curve of an experiment ("projects/../metadataStores/default/contexts/NAME").

    Empty while the experiment has no TensorBoard yet.
    """
    location = responses.location_of(experiment) or sdk.location
    api = sdk.rest(location)
    with sdk.translate_errors("reading the curves"):
        metadata = api.get(experiment).get("metadata")
        board = metadata.get("backing_tensorboard_resource") if isinstance(metadata, Mapping) else None
        if not board:
            return []
        parent = f"{board}/experiments/{experiment.rsplit('/', 1)[-1]}"
        points: list[MetricPoint] = []
        for run in api.pages(f"{parent}/runs", "tensorboardRuns"):
            series = api.pages(f"{run.get('name')}/timeSeries", "tensorboardTimeSeries")
            names = {str(curve.get("name")): str(curve.get("displayName") or "") for curve in series}
            for batch in _batches(list(names)):
                answer = api.get(f"{board}:batchRead", timeSeries=batch)
                points += _points(answer.get("timeSeriesData") or (), names, batch)
    return points


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), BATCH):
        yield list(names[start : start + BATCH])


def _points(answers: Sequence[Any], names: Mapping[str, str], curves: Sequence[str]) -> Iterator[MetricPoint]:
    by_id = {name.rsplit("/", 1)[-1]: display for name, display in names.items()}
    for index, data in enumerate(answers):
        # The service answers with the id alone; fall back on the order in which the series were asked for.
        raw = by_id.get(str(data.get("tensorboardTimeSeriesId")).rsplit("/", 1)[-1])
        raw = raw or (names[curves[index]] if index < len(curves) else "")
        for value in data.get("values") or ():
            # Protocol buffers leave out what is zero, the first step and a loss of 0 too.
            number = read_number((value.get("scalar") or {}).get("value", 0))
            if raw and number is not None:
                yield MetricPoint(
                    step=int(value.get("step") or 0),
                    series=responses.series(raw),
                    value=number,
                    time=unix_seconds(value.get("wallTime")),
                    source="vendor_api",
                    raw_name=raw,
                )
