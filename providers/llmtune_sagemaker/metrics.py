"""Curves from SageMaker's managed MLflow, step by step, over MLflow's own REST API with requests that are signed.

Where it answers and how it is addressed is as in AWS's plug-in (sagemaker-mlflow, 2026): one host a region, and a
header that names the app or the tracking server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from llmtune.provider import Client, MetricPoint, read_number
from llmtune_sagemaker import responses
from llmtune_sagemaker.client import Sdk

SERVICE = "sagemaker-mlflow"
#: Curves that are read of one run, pages of one curve, and points of one page, at most.
MOST_CURVES, MOST_PAGES, PAGE = 12, 5, 2_000
#: Of them, those that are read while the job is still training.
MOST_LOSSES = 3

#: Where each kind of resource answers, and the header that names it.
_KINDS: Mapping[str, tuple[str, str]] = {
    "mlflow-app": ("https://mlflow.sagemaker.{region}.app.aws", "x-sm-mlflow-app-arn"),
    "mlflow-tracking-server": ("https://{region}.experiments.sagemaker.aws", "x-mlflow-sm-tracking-server-arn"),
}


def _is_first(name: str) -> bool:
    """Return whether a curve is one that tells how the job is doing: a loss, or the mean reward."""
    return "loss" in name or responses.series(name).endswith("/reward")


class Mlflow:
    """One MLflow app or tracking server, named by its ARN (`arn:aws:sagemaker:REGION:ACCOUNT:KIND/ID`)."""

    def __init__(self, sdk: Sdk, arn: str) -> None:
        parts = arn.split(":")
        address, self._header = _KINDS.get(parts[5].split("/")[0] if len(parts) > 5 else "", _KINDS["mlflow-app"])
        self._sdk, self._arn = sdk, arn
        base = sdk.settings.mlflow_url or address.format(region=parts[3] if len(parts) > 3 else sdk.region)
        self._client = Client(base, timeout=sdk.settings.timeout)

    def _get(self, path: str, **query: str) -> Mapping[str, Any]:
        target = f"{path}?{urlencode(query)}"
        headers = self._sdk.signed_headers("GET", f"{self._client.base}{target}", {self._header: self._arn}, SERVICE)
        answer = self._client.send("GET", target, headers=headers, safe=True)
        return answer if isinstance(answer, dict) else {}

    def curves(self, run: str, *, losses_only: bool = False) -> Iterator[MetricPoint]:
        """Yield the points of a run: of its losses and mean rewards, and unless `losses_only` of all others too."""
        data = (self._get("/api/2.0/mlflow/runs/get", run_id=run).get("run") or {}).get("data") or {}
        names = [metric.get("key") for metric in data.get("metrics") or () if isinstance(metric, dict)]
        titled = sorted((name for name in names if isinstance(name, str)), key=lambda name: (not _is_first(name), name))
        if losses_only:
            titled = [name for name in titled if _is_first(name)][:MOST_LOSSES]
        for name in titled[:MOST_CURVES]:
            yield from self._curve(run, name)

    def _curve(self, run: str, name: str) -> Iterator[MetricPoint]:
        query = {"run_id": run, "metric_key": name, "max_results": str(PAGE)}
        for _ in range(MOST_PAGES):  # so many points say enough
            answer = self._get("/api/2.0/mlflow/metrics/get-history", **query)
            for point in answer.get("metrics") or ():
                step, value = read_number(point.get("step")), read_number(point.get("value"))
                if step is None or value is None or not 0 <= step < 2**53:
                    continue
                time = read_number(point.get("timestamp"))
                yield MetricPoint(
                    step=int(step),
                    series=responses.series(name),
                    value=value,
                    time=time / 1000 if time is not None else None,
                    source="vendor_api",
                    raw_name=name,
                )
            token = answer.get("next_page_token")
            if not isinstance(token, str) or not token:
                return
            query["page_token"] = token
