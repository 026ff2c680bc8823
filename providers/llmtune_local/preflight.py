"""Checks before a run starts: whether model, device and rows fit each other, and what an adapter will cover.

The libraries of the trainer are imported when a check needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtune.data.findings import invalid_data
from llmtune.errors import InvalidJob, LlmtuneError
from llmtune_local.rows import open_rendering
from llmtune_local.run_state.schema import RunRequest
from llmtune_local.settings import LocalOptions

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.provider import Receipt

_ONE_PROCESS = "method reinforcement trains in one process"


def adapter_notes(receipt: Receipt) -> Sequence[str]:
    """Return what an adapter will cover and leave out, where that is not obvious from the model's shape.

    Empty where the model is not on this machine.
    """
    from llmtune_local.models.shape import is_plain_decoder
    from llmtune_local.models.targets import PRESETS

    target, targets = receipt.target, receipt.effective("lora_target_modules", "all-linear")
    revision = target.options.get("revision")
    if target.method == "classification" or target.adapter == "full":
        return ()
    plain = is_plain_decoder(target.model, revision)
    if plain is None or (plain and targets in PRESETS):
        return ()
    from llmtune_local.models.peft_adapter import planned_targets

    dropout = float(receipt.effective("lora_dropout", 0.0) or 0.0)
    try:
        planned = planned_targets(
            target.model,
            revision,
            targets,
            adapter=target.adapter,
            dropout=dropout,
            images=True,  # `check_rows` refuses names outside of the text model where no row has one
        )
    except LlmtuneError as problem:
        hint = f" ({problem.hint})" if problem.hint else ""
        return (f"the run will be refused: {problem.message}{hint}",)
    return planned.notes if planned is not None else ()


def sharding_notes(receipt: Receipt) -> Sequence[str]:
    """Return what each of several processes will hold of the model, or why the run will be refused; empty for one
    process, and where the model is not on this machine."""
    from llmtune_local.models.memory_estimate import describe_sharding

    sentence = describe_sharding(receipt)
    return () if sentence is None else (sentence,)


def sampling_notes(receipt: Receipt) -> Sequence[str]:
    """Return how much a reinforcement job samples, which no other count tells, or why it will be refused."""
    if receipt.target.method != "reinforcement":
        return ()
    options = LocalOptions.model_validate(receipt.target.options)
    if options.processes > 1:
        return (f"the run will be refused: {_ONE_PROCESS} (leave provider_options.local.processes out)",)
    rows, prompts = receipt.data.rows.get("train", 0), int(receipt.effective("batch_size") or 1)
    steps = int(receipt.effective("epochs") or 1) * -(-rows // prompts)
    if limit := receipt.effective("max_steps"):
        steps = min(steps, int(limit))
    answers = min(prompts, rows or prompts) * options.samples_per_prompt
    note = f"each step samples {answers:,} answers of at most {options.answer_tokens:,} tokens"
    if rows:
        note += f": in {steps:,} steps at most {steps * answers * options.answer_tokens / 1e6:,.3g} million tokens"
    return (note,)


def margin_notes(receipt: Receipt) -> Sequence[str]:
    """Return why a run with this `panel_margin` will be refused; empty where it will not, or none is set."""
    from llmtune_local.training.panel_check import check_margin

    try:
        check_margin(
            receipt.target.options.get("panel_margin"),
            method=receipt.target.method,
            has_validation=bool(receipt.data.rows.get("validation")),
            patience=receipt.effective("early_stopping_patience"),
        )
    except LlmtuneError as problem:
        return (f"the run will be refused: {problem.message} ({problem.hint})",)
    return ()


def count_tokens(receipt: Receipt, dataset: Dataset) -> tuple[int, int]:
    """Return the tokens of all training rows and of the longest row: estimates, with those of images where the plan has
    counted them."""
    sizes = dataset.estimated_tokens
    images = [sum(len(turn.images) for turn in row.messages) for row in dataset.train]
    if not any(images) or receipt.data.tokens_estimated or receipt.data.tokens is None:
        return sizes["train"], sizes["longest"]
    per_image = max(0, receipt.data.tokens - sizes["train"]) / sum(images)
    return receipt.data.tokens, round(sizes["longest"] + max(images) * per_image)


def check_rows(data: Dataset, receipt: Receipt) -> None:
    """Render every row with the model's own template.

    So a row that is too long or has nothing to learn is found before anything starts.

    Raises:
        InvalidData: there is such a row.
        InvalidJob: the adapter names layers that read images, and no row has one.
    """
    options = LocalOptions.model_validate(receipt.target.options)
    facts: dict[str, Any] = {
        "source": data.source,
        "revision": options.revision,
        "max_sequence_length": receipt.effective("max_sequence_length"),
        "on_too_long": receipt.effective("dataset.on_too_long", "error"),
    }
    if receipt.target.method == "classification":
        from llmtune_local.models import encoder

        labels = receipt.effective("evaluation.labels")
        encoder.check_rows(receipt.target.model, (data.train, data.validation), labels=labels, **facts)
        return
    if receipt.target.method == "reinforcement":
        _check_prompts(data, receipt, str(facts["on_too_long"]))
        return
    from llmtune_local.models import loading
    from llmtune_local.models.peft_adapter import planned_targets

    planned_targets(
        receipt.target.model,
        options.revision,
        receipt.effective("lora_target_modules", "all-linear"),
        adapter=receipt.target.adapter,
        dropout=float(receipt.effective("lora_dropout", 0.0) or 0.0),
        images=any(turn.images for row in data.train for turn in row.messages),
    )
    loading.check_rows(
        receipt.target.model,
        {"train": data.train, "validation": data.validation},
        chat_template=options.chat_template,
        template_options=options.template_options,
        image_max_pixels=options.image_max_pixels,
        **facts,
    )


def _check_prompts(data: Dataset, receipt: Receipt, on_too_long: str) -> None:
    limit = receipt.effective("max_sequence_length")
    rendering = open_rendering(receipt.target.model, receipt.target.options, offline=False)
    assert rendering is not None  # it is only left out offline
    for example in (*data.train, *data.validation):
        problems = [
            finding.at(data.source, example.line)
            for finding in rendering.problems(example, "reinforcement", limit)
            if finding.is_error and not (finding.code == "too_long" and on_too_long == "drop")
        ]
        if problems:
            raise invalid_data(problems)


def check_request(body: dict[str, Any]) -> None:
    """Raise what the worker would raise: there is no such model or device, or they do not fit each other."""
    from llmtune_local.models.hardware import resolve_device
    from llmtune_local.models.hub import load_config
    from llmtune_local.models.memory_estimate import check_memory
    from llmtune_local.models.peft_adapter import planned_targets
    from llmtune_local.models.quantization import check_adapter
    from llmtune_local.models.sharding_choice import check_sharding
    from llmtune_local.training import panel_check
    from llmtune_local.training.distributed import check_worker_group
    from llmtune_local.training.optimizer import check_optimizer

    load_config(body["model"], body.get("revision"), body["method"])
    device = resolve_device(body["options"].get("device", "auto"))
    run = RunRequest.model_validate(body)
    check_adapter(body["adapter"], device, body["model"], quantization=run.options.quantization)
    check_optimizer(run.hyperparameters, run.options.optimizer_arguments)
    check_worker_group(run.options, device)
    check_sharding(run, device)
    if run.method == "reinforcement" and run.options.processes > 1:
        raise InvalidJob(_ONE_PROCESS, where="provider_options.local.processes", hint="leave it out")
    panel_check.check_request(run)
    if run.method != "classification":
        recipe = run.hyperparameters
        targets, dropout = recipe.lora_target_modules, recipe.lora_dropout
        planned_targets(
            run.model,
            run.revision,
            targets,
            adapter=run.adapter,
            dropout=dropout,
            images=True,  # `check_rows` has seen whether there are any
        )
    check_memory(run, device)
