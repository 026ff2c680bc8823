"""The body of CreateTrainingJob: pure, complete, and what botocore's own validator takes."""

from __future__ import annotations

from typing import Any

import botocore.session
import botocore.validate
import pytest

from llmtune.errors import InvalidJob
from llmtune.provider.types import UploadRef
from llmtune_sagemaker import SageMakerProvider, requests
from llmtune_sagemaker.fake.service import FakeSageMaker
from llmtune_sagemaker.settings import SageMakerSettings
from tests.providers.llmtune_sagemaker.conftest import LLAMA, MLFLOW, NOVA, QWEN, ROLE, provider_at, receipt_for

FILES = {
    "train": UploadRef(id="s3://my-bucket/llmtune/data/a.jsonl"),
    "validation": UploadRef(id="s3://my-bucket/llmtune/data/b.jsonl", role="validation"),
}
KEY = "lt0123456789"


def body(provider: SageMakerProvider, model: str = QWEN, files: Any = FILES, **fields: Any) -> dict[str, Any]:
    return provider.build(receipt_for(provider, model, **fields), files).body


def sent(provider: SageMakerProvider, *args: Any, **fields: Any) -> dict[str, Any]:
    return requests.with_key(body(provider, *args, **fields), KEY, "us-east-1")


def test_a_supervised_job(provider: SageMakerProvider) -> None:
    assert sent(provider, name="My first job!", epochs=2, tags={"team": "search"}) == {
        "TrainingJobName": f"My-first-job-{KEY}",
        "RoleArn": ROLE,
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"s3://my-bucket/llmtune/data/{file}.jsonl",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for channel, file in (("train", "a"), ("validation", "b"))
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://my-bucket/llmtune/output"},
        "ServerlessJobConfig": {
            "BaseModelArn": f"arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/{QWEN}",
            "JobType": "FineTuning",
            "CustomizationTechnique": "SFT",
            "Peft": "LORA",
        },
        "ModelPackageConfig": {
            "ModelPackageGroupArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package-group/llmtune"
        },
        "HyperParameters": {"max_epochs": "2"},
        "Tags": [{"Key": "team", "Value": "search"}, {"Key": "llmtune-run", "Value": KEY}],
    }


def test_all_weights_are_asked_for_by_saying_nothing(provider: SageMakerProvider) -> None:
    serverless = body(provider, adapter="full", method="dpo")["ServerlessJobConfig"]
    assert serverless["CustomizationTechnique"] == "DPO"
    assert "Peft" not in serverless


def test_a_licence_is_accepted_only_by_the_job(provider: SageMakerProvider) -> None:
    assert "AcceptEula" not in body(provider, LLAMA)["ServerlessJobConfig"]
    assert "AcceptEula" not in body(provider, LLAMA, options={"accept_eula": False})["ServerlessJobConfig"]
    assert body(provider, LLAMA, options={"accept_eula": True})["ServerlessJobConfig"]["AcceptEula"] is True


def test_nova_reads_converse_rows(provider: SageMakerProvider) -> None:
    kinds = {channel["DataSource"]["S3DataSource"]["S3DataType"] for channel in body(provider, NOVA)["InputDataConfig"]}
    assert kinds == {"Converse"}


def test_everything_at_once_passes_botocores_validator(vendor: FakeSageMaker) -> None:
    provider = provider_at(
        vendor,
        kms_key_id="alias/mine",
        subnet_ids="subnet-1, subnet-2",
        security_group_ids=["sg-1"],
        mlflow_arn=MLFLOW,
    )
    package = "arn:aws:sagemaker:us-east-1:123456789012:model-package/llmtune/3"
    options = {
        "sequence_length": "8K",
        "max_runtime_seconds": 3600,
        "source_model_package": package,
        "extra_hyperparameters": {"merge_weights": "false"},
    }
    made = sent(provider, epochs=1, options=options)
    assert made["OutputDataConfig"]["KmsKeyId"] == "alias/mine"
    assert made["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    assert made["MlflowConfig"] == {"MlflowResourceArn": MLFLOW}
    assert made["ServerlessJobConfig"]["SequenceLength"] == "8K"
    assert made["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert made["ModelPackageConfig"]["SourceModelPackageArn"] == package
    assert made["HyperParameters"] == {"merge_weights": "false", "max_epochs": "1"}
    model = botocore.session.get_session().get_service_model("sagemaker")
    report = botocore.validate.ParamValidator().validate(made, model.operation_model("CreateTrainingJob").input_shape)
    assert not report.has_errors(), report.generate_report()


def test_a_key_that_is_set_twice_is_refused(provider: SageMakerProvider) -> None:
    with pytest.raises(InvalidJob, match="max_epochs"):
        body(provider, epochs=1, options={"extra_hyperparameters": {"max_epochs": "2"}})


def test_without_settings_there_are_placeholders() -> None:
    made = body(SageMakerProvider(settings=SageMakerSettings()), files={"train": UploadRef(id="<train file>")})
    assert made["RoleArn"] == "<role_arn>"
    assert "<region>" in made["ServerlessJobConfig"]["BaseModelArn"]
    assert made["ModelPackageConfig"]["ModelPackageGroupArn"].endswith("<model_package_group>")
    assert requests.input_files(made) == []
    keyed = requests.with_key(made, KEY, "eu-west-1")
    assert ":eu-west-1:" in keyed["ServerlessJobConfig"]["BaseModelArn"]
    assert ":eu-west-1:" in keyed["ModelPackageConfig"]["ModelPackageGroupArn"]


def test_names_stay_within_63_characters(provider: SageMakerProvider) -> None:
    for name in ("x" * 128, "-" * 60 + "a", "é" * 10, "a b" * 30):
        made = sent(provider, name=name)["TrainingJobName"]
        assert len(made) <= 63
        assert made[0].isalnum()
        assert made.endswith(f"-{KEY}")
