"""A tuned model that is asked on this machine: its weights are brought here, and the local backend loads them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import llmtune.provider as core
from llmtune.config import home
from llmtune_sagemaker.capabilities import NO_ENDPOINT, hugging_face_id
from llmtune_sagemaker.files import S3

#: The backend that loads models on this machine, by its entry point: whichever package provides it.
LOADER = "local"


def weights_folder(artefacts: str) -> Path:
    """Return the folder on this machine for the weights of an address."""
    return home() / "sagemaker" / "weights" / hashlib.sha256(artefacts.encode()).hexdigest()[:16]


def tuned(storage: S3, model: core.ModelRef, artefacts: str) -> core.Generator | core.Unavailable:
    """Download a tuned model, unless it is here, and open it."""
    folder = weights_folder(artefacts)
    form = storage.fetch_weights(artefacts, None, folder)
    base = hugging_face_id(model.base or "")
    if form == "adapter" and base is None:
        return core.Unavailable(
            f"{artefacts} holds an adapter alone, and the catalogue does not say what {model.base} is called at the"
            " Hugging Face Hub: add hugging_face to its entry in a catalogue of yours"
        )
    return _open(core.ModelRef(id=str(folder), base=base, data=_data(base or str(folder), tuned=True)))


def base(model: core.ModelRef) -> core.Generator | core.Unavailable:
    """Open a base model, which is downloaded from the Hugging Face Hub unless it is here."""
    return _open(core.ModelRef(id=model.id, tuned=False, data=_data(model.id, tuned=False)))


def base_model(model: str, *, allowed: bool) -> core.ModelRef | core.Unavailable:
    """Return the base model as it is called at the Hugging Face Hub, where it may be asked on this machine."""
    if not allowed:
        return core.Unavailable(NO_ENDPOINT.replace("a tuned model answers", "a base model answers", 1))
    name = hugging_face_id(model)
    if name is None:
        return core.Unavailable(f"the catalogue does not say what {model} is called at the Hugging Face Hub")
    return core.ModelRef(id=name, base=model, tuned=False)


def _data(model: str, *, tuned: bool) -> dict[str, Any]:
    return {"model": model, "options": {}, "tuned": tuned}


def _open(ref: core.ModelRef) -> core.Generator | core.Unavailable:
    return core.get_provider(LOADER).generator(ref)


def snippet(ref: core.ModelRef | core.DeploymentRef, region: str) -> str:
    """Return a few lines of Python that say where a tuned model lies."""
    if not getattr(ref, "tuned", False):
        return f"# {ref.id} answers from an endpoint that you deploy, or from its weights at the Hugging Face Hub\n"
    return (
        "import boto3\n\n"
        "# llmtune export brings the weights here; in SageMaker the model package is deployed on an endpoint.\n"
        f'client = boto3.client("sagemaker", region_name="{region}")\n'
        f'package = client.describe_model_package(ModelPackageName="{ref.id}")\n'
        'print(package["InferenceSpecification"]["Containers"][0]["ModelDataSource"]["S3DataSource"]["S3Uri"])\n'
    )
