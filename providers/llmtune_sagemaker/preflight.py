"""Checks before anything is paid for: the request, the model's recipe, the bucket, the files and the group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmtune.data.findings import Finding, error, warning
from llmtune.errors import InvalidSettings, TransientError, VendorError
from llmtune.graders.job_trial import Sample
from llmtune.job.graders import Grader, LambdaGrader
from llmtune_bedrock import service_model
from llmtune_bedrock.graders import LambdaFunction, try_function
from llmtune_sagemaker import capabilities, recipes, requests, responses
from llmtune_sagemaker.client import Sdk
from llmtune_sagemaker.files import S3

#: Opens a Lambda function by its ARN, to score as a grader does.
OpenFunction = Callable[[Grader, str], LambdaFunction]

#: A key of the right shape, to judge a request before it has one of its own.
_SAMPLE_KEY = "lt0000000000"
#: Recipes of one model whose files are read, at most.
MOST_RECIPES = 24


def check(sdk: Sdk, storage: S3, body: dict[str, Any]) -> list[Finding]:
    """Return what is wrong with a request, and with what it names at AWS. Nothing is changed."""
    findings = [
        error("request", f"{path} {fault}", "AWS would refuse the job") for path, fault in list_faults(body, sdk.region)
    ]
    findings += storage.check_inputs(requests.input_files(body))
    findings += _check_group(sdk)
    serverless = body.get("ServerlessJobConfig") or {}
    model = responses.base_id(str(serverless.get("BaseModelArn") or ""))
    if problem := capabilities.wrong_region(model, sdk.region):
        findings.append(warning("region", problem, "set region in the provider's settings"))
    if problem := capabilities.missing_eula(model, {"accept_eula": serverless.get("AcceptEula")}):
        findings.append(error("eula", problem, "llmtune never accepts a licence for you"))
    return [*findings, *_check_recipe(sdk, storage, model, body)]


def list_faults(body: dict[str, Any], region: str) -> list[tuple[str, str]]:
    """List what AWS's service model says against a request: (dotted path, what is wrong).

    Tags are left out: their pattern is none of Python's, and the declarations check them.
    """
    keyed = requests.with_key(requests.with_sample_files(body), _SAMPLE_KEY, region)
    keyed.pop("Tags", None)
    return service_model.faults("sagemaker", "CreateTrainingJob", keyed)


# --- the group of model packages -------------------------------------------------------------------------------------
def group_exists(sdk: Sdk) -> bool:
    """Return whether the group of model packages is there."""
    group = sdk.settings.model_package_group
    try:
        with sdk.translate_errors(f"looking at the model package group {group}"):
            sdk.sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    except VendorError as refused:
        if refused.status != 404:
            raise
        return False
    return True


def ensure_group(sdk: Sdk) -> None:
    """Create the group of model packages unless it is there."""
    if group_exists(sdk):
        return
    group = sdk.settings.model_package_group
    try:
        with sdk.translate_errors(f"creating the model package group {group}"):
            sdk.sagemaker.create_model_package_group(
                ModelPackageGroupName=group, ModelPackageGroupDescription="Models tuned by llmtune"
            )
    except TransientError:
        raise
    except VendorError:
        if not group_exists(sdk):  # somebody else may have made it in between
            raise


def _check_group(sdk: Sdk) -> Iterator[Finding]:
    settings = sdk.settings
    try:
        there = group_exists(sdk)
    except TransientError:
        raise
    except VendorError as fault:
        yield warning("group", fault.message, "sagemaker:DescribeModelPackageGroup would let it be checked")
        return
    if there or settings.create_model_package_group:
        return
    yield error(
        "group",
        f"the model package group {settings.model_package_group!r} does not exist",
        "create it in SageMaker, or set create_model_package_group = true to allow llmtune to",
    )


# --- the evaluator ---------------------------------------------------------------------------------------------------
def find_function(sdk: Sdk, evaluator: str) -> str | None:
    """Return the ARN of the Lambda function behind an evaluator; None where its entry names none."""
    _, _, path = evaluator.partition(":hub-content/")
    hub, kind, name, *version = f"{path}///".split("/")
    more = {"HubContentVersion": version[0]} if version[0] else {}
    with sdk.translate_errors(f"reading the evaluator {evaluator}"):
        entry = sdk.sagemaker.describe_hub_content(HubName=hub, HubContentType=kind, HubContentName=name, **more)
    try:
        content = json.loads(json.loads(entry["HubContentDocument"])["JsonContent"])
        function = content["Reference"]
    except (KeyError, TypeError, ValueError):
        return None
    return function if isinstance(function, str) and ":lambda:" in function else None


def check_evaluator(sdk: Sdk, evaluator: str, sample: Sample, open_function: OpenFunction) -> Iterator[Finding]:
    """Try the function behind an evaluator on one row. Yields what is wrong with it."""
    try:
        function = find_function(sdk, evaluator)
    except TransientError:
        raise
    except VendorError as fault:
        if fault.status == 404:
            yield error("evaluator", f"there is no evaluator {evaluator}", "register it, or correct evaluator_arn")
        else:
            yield warning("evaluator", f"the evaluator could not be read: {fault.message}", "AWS checks it itself")
        return
    if function is None:
        yield warning("evaluator", f"the entry of {evaluator} names no Lambda function", "AWS checks it itself")
        return
    if isinstance(sample.grader, LambdaGrader) and function != sample.grader.function:
        yield error(
            "evaluator",
            f"the evaluator calls {function}, and the grader {sample.grader.function}",
            "name the same function in both",
        )
        return
    yield from try_function(open_function(sample.grader, function), sample)


# --- the model's recipe ----------------------------------------------------------------------------------------------
def read_recipes(sdk: Sdk, storage: S3, model: str) -> tuple[tuple[recipes.Recipe, ...], tuple[str, ...]]:
    """Read a model's recipes from the hub, with what those of our techniques take, and keep them.

    Returns:
        the recipes, and a sentence for each file that could not be read.

    Raises:
        VendorError: there is no such model, or the hub may not be read.
    """
    with sdk.translate_errors(f"reading {model} in the hub"):
        answer = sdk.sagemaker.describe_hub_content(HubName=recipes.HUB, HubContentType="Model", HubContentName=model)
    read: list[recipes.Recipe] = []
    problems: list[str] = []
    for recipe in recipes.read_document(str(answer.get("HubContentDocument") or "")):
        known = recipe.technique in recipes.TECHNIQUES.values() and recipe.overrides.startswith("s3://")
        if known and len(read) < MOST_RECIPES:
            try:
                recipe = replace(recipe, parameters=recipes.read_parameters(storage.read(recipe.overrides)))
            except TransientError:
                raise
            except (VendorError, InvalidSettings) as fault:
                problems.append(fault.message)
        read.append(recipe)
    if any(recipe.parameters for recipe in read):
        recipes.keep(model, sdk.region, read)
    return tuple(read), tuple(problems)


def _check_recipe(sdk: Sdk, storage: S3, model: str, body: Mapping[str, Any]) -> Iterator[Finding]:
    serverless = body.get("ServerlessJobConfig") or {}
    technique = str(serverless.get("CustomizationTechnique") or "")
    adapter = "lora" if serverless.get("Peft") else "full"
    try:
        read, problems = read_recipes(sdk, storage, model)
    except TransientError:
        raise
    except VendorError as fault:
        if fault.status == 404:
            yield error("model", f"the hub has no model {model!r} in {sdk.region}", "see its page in SageMaker")
            return
        yield warning("recipe", f"the model's recipes could not be read: {fault.message}", "AWS checks the job itself")
        return
    matching = [recipe for recipe in read if (recipe.technique, recipe.adapter) == (technique, adapter)]
    if not matching:
        yield error("recipe", f"{model} has no {technique} recipe with adapter {adapter}", "choose another model")
        return
    length = serverless.get("SequenceLength")
    lengths = sorted({recipe.sequence_length for recipe in matching if recipe.sequence_length})
    if length and lengths and length not in lengths:
        yield error("recipe", f"sequence_length {length} is not among {', '.join(lengths)}", "choose one of them")
        return
    fitting = [recipe for recipe in matching if length is None or recipe.sequence_length in (None, length)]
    chosen = next((recipe for recipe in fitting if recipe.parameters), None)
    if chosen is None:
        reason = problems[0] if problems else "the hub does not say where"
        yield warning("recipe", f"what the recipe takes could not be read: {reason}", "AWS checks the job itself")
        return
    for name, fault_text in recipes.list_faults(body.get("HyperParameters") or {}, chosen):
        yield error("hyperparameter", f"{name} {fault_text} (the recipe of today)", "plan again, with today's ranges")
