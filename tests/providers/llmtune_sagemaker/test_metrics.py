"""Curves from MLflow: signed, in pages, and bounded."""

from __future__ import annotations

import pytest

from llmtune.errors import VendorError
from llmtune_sagemaker import metrics
from llmtune_sagemaker.client import Sdk
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.metrics import Mlflow
from llmtune_sagemaker.settings import SageMakerSettings
from tests.providers.llmtune_sagemaker.conftest import MLFLOW


def trained(vendor: FakeSageMaker) -> str:
    job = vendor.new_job({"HyperParameters": {}})
    job.at = 1
    return job.id


def at(vendor: FakeSageMaker, arn: str = MLFLOW) -> Mlflow:
    settings = SageMakerSettings(region="us-east-1", mlflow_url=vendor.mlflow_url, timeout=5)
    return Mlflow(Sdk("sagemaker", settings), arn)


def test_every_page_of_every_curve_is_read(vendor: FakeSageMaker) -> None:
    points = list(at(vendor).curves(trained(vendor)))
    assert {point.series for point in points} == {"train/loss", "train/learning_rate"}
    assert [point.step for point in points if point.series == "train/loss"] == list(range(10))
    assert vendor.complaints == []


def test_requests_are_signed_and_name_the_app(vendor: FakeSageMaker) -> None:
    list(at(vendor).curves(trained(vendor)))
    headers = vendor.requests[0].headers
    assert "/us-east-1/sagemaker-mlflow/aws4_request" in headers["authorization"]
    assert "x-sm-mlflow-app-arn" in headers["authorization"]
    assert headers["x-sm-mlflow-app-arn"] == MLFLOW
    server = MLFLOW.replace("mlflow-app", "mlflow-tracking-server")
    list(at(vendor, server).curves(trained(vendor)))
    assert vendor.requests[-1].headers["x-mlflow-sm-tracking-server-arn"] == server


def test_a_curve_without_end_is_cut(vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_PAGES", 2)
    points = [point for point in at(vendor).curves(trained(vendor)) if point.series == "train/loss"]
    assert len(points) == 8


def test_the_losses_come_first(vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_CURVES", 1)
    assert {point.series for point in at(vendor).curves(trained(vendor))} == {"train/loss"}


def test_a_run_that_is_not_there_is_refused(vendor: FakeSageMaker) -> None:
    with pytest.raises(VendorError):
        list(at(vendor).curves("job-of-nobody"))


def test_where_aws_answers() -> None:
    settings = SageMakerSettings(region="us-east-1")
    app = Mlflow(Sdk("sagemaker", settings), MLFLOW)
    assert app._client.base == "https://mlflow.sagemaker.us-east-1.app.aws"
    server = MLFLOW.replace("mlflow-app", "mlflow-tracking-server").replace("us-east-1", "eu-west-1")
    assert Mlflow(Sdk("sagemaker", settings), server)._client.base == "https://eu-west-1.experiments.sagemaker.aws"
