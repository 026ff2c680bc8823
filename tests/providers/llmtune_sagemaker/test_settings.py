"""Account settings and options of a job."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llmtune_sagemaker.settings import SageMakerOptions, SageMakerSettings


def test_a_profile_may_name_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"bucket": "b", "role_arn": "r", "model_package_group": "g"}
    assert SageMakerSettings.model_validate(full).missing() == ("region",)
    assert SageMakerSettings.model_validate(full | {"profile": "mine"}).missing() == ()
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert SageMakerSettings.model_validate(full).missing() == ()


def test_nothing_is_allowed_by_itself() -> None:
    settings, options = SageMakerSettings(), SageMakerOptions()
    assert not settings.create_model_package_group
    assert not settings.evaluate_locally
    assert not options.accept_eula


@pytest.mark.parametrize("length", ["4", "4k", "4096", "K", "4K "])
def test_a_sequence_length_is_written_as_aws_does(length: str) -> None:
    with pytest.raises(ValidationError):
        SageMakerOptions(sequence_length=length)
    assert SageMakerOptions(sequence_length="4K").sequence_length == "4K"


def test_a_limit_is_a_second_or_more() -> None:
    with pytest.raises(ValidationError):
        SageMakerOptions(max_runtime_seconds=0)
