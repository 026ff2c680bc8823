"""Bedrock's endpoint for OpenAI's fine-tuning API ("mantle"): what it takes of that API, and who may call it.

Sources: the Bedrock user guide on reinforcement fine-tuning of open-weight models (copy, 2026), and AWS's own notebook
(aws-samples/amazon-bedrock-samples 85fba9d9, 2026-08-21). They show files, jobs, events and checkpoints, chat with the
tuned model at once, and that `suffix` is refused; the notebook sends a supervised job without a method, so no
hyperparameter goes out. Whether `seed` and `metadata` are refused is not known: neither is sent. A reinforcement job
has a method, whose grader is a Lambda function of the user's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from llmtune.provider import (
    Abilities,
    Converted,
    Declarations,
    Float,
    Int,
    Limits,
    NotApplicable,
    NotOffered,
    Sent,
    Target,
)
from llmtune_bedrock.capabilities import REINFORCEMENT_ROWS
from llmtune_bedrock.graders import name_function
from llmtune_openai import declarations
from llmtune_openai.services import COMPATIBLE, leave_out_fields

GUIDE = (
    "AWS, reinforcement fine-tuning of open-weight models (copy, 2026); amazon-bedrock-samples 85fba9d9 (2026-08-21)"
)

#: The only region for which AWS shows models.
REGION = "us-west-2"

#: The package that makes keys from the credentials of AWS's own chain.
TOKEN_PACKAGE = "aws_bedrock_token_generator"

LEFT_OUT = ("suffix", "seed", "metadata", "method", "integrations", "expires_after")


def make_token(address: str) -> Callable[[], str] | None:
    """Return a function that makes a key (it lives for twelve hours at most) for the endpoint at this address.

    None where the package `aws-bedrock-token-generator` is not installed.
    """
    try:
        provide_token = importlib.import_module(TOKEN_PACKAGE).provide_token
    except ImportError:
        return None
    host = (urlsplit(address).hostname or "").split(".")
    region = host[1] if host[0] == "bedrock-mantle" and len(host) > 1 else REGION
    return lambda: str(provide_token(region=region))


_RFT = "method.reinforcement."


def _declare_reinforcement(others: Declarations) -> Declarations:
    """Declare the fields of a reinforcement job: three hyperparameters, and otherwise as in jobs without a method."""
    path = f"{_RFT}hyperparameters."
    return others.replace(
        epochs=Sent(path + "n_epochs", Int(1), source=GUIDE),
        batch_size=Sent(path + "batch_size", Int(1), source=GUIDE, note="the notebook's job has 4; no range is stated"),
        learning_rate_multiplier=Sent(path + "learning_rate_multiplier", Float(gt=0), source=GUIDE),
        prompt_loss_weight=NotApplicable(
            "there are no tokens to learn from: the model learns from what its own answers earn"
        ),
        dpo_beta=NotApplicable("reinforcement tuning has no beta"),
    )


def _name_function(target: Target) -> Converted:
    named = name_function(None, f"{_RFT}grader.lambda.function", provider=target.provider, option="")
    return replace(named, also={f"{_RFT}grader.type": "lambda"})


_WITHOUT_METHOD = leave_out_fields(
    replace(
        COMPATIBLE,
        title="Amazon Bedrock (OpenAI-compatible)",
        kind="bedrock-mantle",
        catalog=Path(__file__).with_name("mantle.toml"),
        dpo=None,
        methods={**declarations.METHODS, "dpo": NotOffered("AWS shows supervised and reinforcement tuning here")},
        limits={
            "sft": Limits(
                format="openai",
                source=GUIDE,
                note="AWS wants 100 rows at least for reinforcement tuning, and says nothing of supervised jobs",
            )
        },
        abilities=Abilities(billed_cost=NotOffered("the service does not report what it billed")),
        key_env="AWS_BEARER_TOKEN_BEDROCK",
        make_key=make_token,
        base_url=f"https://bedrock-mantle.{REGION}.api.aws/v1",
        hosts=("api.aws",),
        assumed="AWS documents reinforcement tuning at this endpoint; that it takes supervised jobs stands in a"
        " notebook of AWS's alone (unverified), which sends no hyperparameters with them",
    ),
    LEFT_OUT,
    "not sent: the service Bedrock (OpenAI-compatible) does not take it",
)

MANTLE = replace(
    _WITHOUT_METHOD,
    reinforcement=_declare_reinforcement(_WITHOUT_METHOD.sft),
    methods={**_WITHOUT_METHOD.methods, "reinforcement": True},
    methods_sent=("reinforcement",),
    make_grader=_name_function,
    limits={
        **_WITHOUT_METHOD.limits,
        "reinforcement": Limits(format=REINFORCEMENT_ROWS, min_rows=100, source=GUIDE),
    },
)
