"""How a dataset fits a backend: its limits, its own row rules, and what its row format cannot carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llmtune.provider.limits import Limits
from llmtune.provider.receipt import DatasetStatus
from llmtune.provider.types import Target

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example
    from llmtune.data.findings import Finding
    from llmtune.data.formats.base import Rendering, VendorRows
    from llmtune.data.rendering.tokenize import OnTooLong

#: Rows of each part that a plan renders, where the model is on this machine; a run renders all of them.
MAX_RENDERED_ROWS = 500
#: Findings shown in a plan; `llmtune data check --provider NAME` shows all.
MAX_FINDINGS = 5


def build_dataset_status(
    dataset: Dataset,
    limits: Limits,
    target: Target,
    *,
    max_tokens: int | None = None,
    on_too_long: OnTooLong = "error",
    prompt_loss_weight: float = 0.0,
) -> DatasetStatus:
    """Check the rows that would be sent (train and validation); nothing is written or sent.

    `max_tokens`, `on_too_long` and `prompt_loss_weight` are the job's own, where the rows are rendered on this machine.
    """
    from llmtune.data.checks.left_out import LeftOut
    from llmtune.data.checks.per_row import rename_turns
    from llmtune.data.checks.vendor_rules import find_missing_reasoning, find_row_problems
    from llmtune.data.formats.registry import all_formats, get_writer, vendors

    sent = [("train", dataset.train)]
    if limits.validation != "unused" and dataset.validation:
        sent.append(("validation", dataset.validation))
    findings: list[Finding] = [*dataset.findings, *_check_row_counts(dataset, limits)]
    lossy: list[str] = []
    changes: dict[str, list[Finding]] = {}
    left_out = LeftOut()
    writer = get_writer(limits.format_of(dataset.kind), method=target.method, model=target.model)
    row_format = all_formats().get(dataset.format)
    turns_key = "messages" if row_format is None else row_format.turns_key
    rules, rendering = vendors().get(target.kind), None
    counted = count_dataset_tokens(dataset, rules)
    findings += _check_lengths(dataset, counted, limits, rules, target)
    if rules is not None:
        rendering = _open_rendering(rules, target)
        first = [row for _, rows in sent for row in rows[:MAX_RENDERED_ROWS]]
        refused = _find_rendering_problems(rendering, dataset, first, target, max_tokens)
        findings += [finding for finding in refused if on_too_long == "error" or finding.code != "too_long"]
        findings += _find_control_tokens(rendering, dataset, first, turns_key)
        findings += _find_file_problems(rules, dataset, [role for role, _ in sent], target, findings)
    for role, rows in sent:
        if rules is not None:
            findings += find_row_problems(rules, rows, dataset.source, target.method, target.model, turns_key)
        if not dataset.summaries[role].features & ~writer.lossless_features:
            continue  # no row has anything that this format could lose
        for row in rows:
            for problem in rename_turns(left_out.problems(writer, row), row, turns_key):
                placed = problem.at(dataset.source, row.line)
                if placed.is_error:
                    lossy.append(str(placed))
                else:
                    changes.setdefault(placed.code, []).append(placed)
    changed = [finding.at(dataset.source, None) for finding in left_out.findings()]
    changed += [_merge_findings(group) for group in changes.values()]
    if rules is not None and target.method != "classification":
        reasoning = dataset.summaries["train"].reasoning
        missing = [*find_missing_reasoning(rules, rendering, reasoning, dataset.source, target.model)]
        changed += [finding for finding in missing if finding.severity == "warning"]
        findings += [finding for finding in missing if finding.severity == "info"]
    errors = [finding for finding in findings if finding.is_error]
    warnings = changed + [finding for finding in findings if finding.severity == "warning"]
    infos = [finding for finding in findings if finding.severity == "info"]
    prompt_tokens, answer_tokens = _count_row_tokens(dataset, counted)
    exact = _count_exactly(rendering, dataset.train, max_tokens, on_too_long, prompt_loss_weight)
    validation_tokens = 0
    if limits.validation != "unused":
        exact_validation = _count_exactly(rendering, dataset.validation, max_tokens, on_too_long, 0.0)
        validation_tokens = counted["validation"] if exact_validation is None else exact_validation
    return DatasetStatus(
        source=dataset.source,
        sha256=dataset.sha256 or None,
        rows=dataset.counts,
        tokens=counted["train"] if exact is None else exact,
        tokens_estimated=exact is None,
        validation_tokens=validation_tokens,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        errors=len(errors),
        warnings=len(warnings),
        findings=tuple(str(finding) for finding in (errors + warnings + infos)[:MAX_FINDINGS]),
        lossy=tuple(lossy),
        changed=tuple(str(finding) for finding in changed),
        format=writer.name,
    )


def count_dataset_tokens(dataset: Dataset, rules: VendorRows | None) -> dict[str, int]:
    """Return the dataset's tokens (see `count_parts`) with tools as the vendor writes them."""
    from llmtune.data.formats.row_features import TOOLS
    from llmtune.data.rendering.token_count import Counter, count_parts

    write_tools = None if rules is None else rules.write_tools
    if write_tools is None or not any(part.features & TOOLS for part in dataset.summaries.values()):
        return dataset.estimated_tokens
    return count_parts(dataset.parts, Counter(write_tools=write_tools))


def _count_exactly(
    rendering: Rendering | None,
    rows: Sequence[Example],
    max_tokens: int | None,
    on_too_long: OnTooLong,
    prompt_weight: float,
) -> int | None:
    """Return the tokens of rows as the backend itself would count them; None where that cannot be done here."""
    from llmtune.errors import InvalidData

    if rendering is None or rendering.count_tokens is None:
        return None
    try:
        return rendering.count_tokens(rows, max_tokens, on_too_long, prompt_weight)
    except InvalidData:  # rows that would be refused, which the findings name
        return None


def _count_row_tokens(dataset: Dataset, counted: Mapping[str, int]) -> tuple[float, float]:
    """Return the tokens of prompt and answer of an average row that the evaluation asks."""
    part = "test" if dataset.test else "train"
    rows = max(1, dataset.counts.get(part, 0))
    answers = counted[f"{part}_answers"]
    return round((counted[part] - answers) / rows, 1), round(answers / rows, 1)


def _find_file_problems(
    rules: VendorRows,
    dataset: Dataset,
    roles: Sequence[str],
    target: Target,
    findings: Sequence[Finding],
) -> list[Finding]:
    """Return the vendor's problems with the files to be sent, without those that its limits have reported already."""
    from llmtune.data.checks.vendor_rules import find_file_problems

    counted = any(finding.code in ("too-few-rows", "too-many-rows") for finding in findings)
    parts = {role: dataset.summaries[role] for role in roles}
    problems = find_file_problems(rules, parts, dataset.source, target.method, target.model)
    return [finding for finding in problems if not (counted and finding.code == "vendor-rows")]


def _open_rendering(rules: VendorRows, target: Target) -> Rendering | None:
    """Return the model's own chat template, where the backend and the model are on this machine."""
    from llmtune.errors import LlmtuneError

    if rules.rendering is None or not target.model:
        return None
    try:
        return rules.rendering(target.model, target.options, True)
    except LlmtuneError:  # an unknown model, libraries that are not installed: the plan reports it elsewhere
        return None


def _find_rendering_problems(
    rendering: Rendering | None, dataset: Dataset, rows: Sequence[Example], target: Target, max_tokens: int | None
) -> list[Finding]:
    """Return the rows' problems with the model's own template, its context and the job's limit on tokens."""
    from llmtune.errors import InvalidJob

    if rendering is None:
        return []
    try:
        return [
            finding.at(dataset.source, row.line)
            for row in rows
            for finding in rendering.problems(row, target.method, max_tokens)
        ]
    except InvalidJob:  # a limit above the model's context: the run reports it for the job itself
        return []


def _find_control_tokens(
    rendering: Rendering | None, dataset: Dataset, rows: Sequence[Example], turns_key: str
) -> list[Finding]:
    """Find control tokens of the model's own tokenizer in the text of rows."""
    from llmtune.data.checks.per_row import check_control_tokens, compile_tokens, rename_turns
    from llmtune.data.rendering.token_count import control_tokens

    tokens = None if rendering is None else compile_tokens(control_tokens(rendering.tokenizer))
    if tokens is None:
        return []
    return [
        finding.at(dataset.source, row.line)
        for row in rows
        for finding in rename_turns(check_control_tokens(row, tokens), row, turns_key)
    ]


def _merge_findings(group: Sequence[Finding]) -> Finding:
    """Return the first of findings of one code, with how many more there are."""
    if len(group) == 1:
        return group[0]
    return group[0]._replace(message=f"{group[0].message}; and {len(group) - 1:,} more of this kind")


def _check_row_counts(dataset: Dataset, limits: Limits) -> Iterator[Finding]:
    from llmtune.data.findings import error

    source = f" ({limits.source})" if limits.source else ""
    train, validation = len(dataset.train), len(dataset.validation)
    if limits.min_rows is not None and train < limits.min_rows:
        enough = sum(dataset.counts.values()) >= limits.min_rows
        remedy = "add rows, or set dataset.split so that enough are left to train on" if enough else "add rows"
        yield error(
            "too-few-rows", f"{train} training rows, and at least {limits.min_rows} are needed{source}", remedy
        ).at(dataset.source, None)
    if limits.max_rows is not None and train > limits.max_rows:
        yield error(
            "too-many-rows",
            f"{train:,} training rows, and at most {limits.max_rows:,} are taken{source}",
            "split with counts: dataset.split: [N, V, T]",
        ).at(dataset.source, None)
    if limits.max_validation_rows is not None and validation > limits.max_validation_rows:
        yield error(
            "too-many-rows",
            f"{validation:,} validation rows, and at most {limits.max_validation_rows:,} are taken{source}",
            "give fewer: dataset.split: [N, V, T]",
        ).at(dataset.source, None)
    if limits.max_total_rows is not None and train + validation > limits.max_total_rows:
        yield error(
            "too-many-rows",
            f"{train + validation:,} rows in all, and at most {limits.max_total_rows:,} are taken{source}",
            "give fewer: dataset.split: [N, V, T]",
        ).at(dataset.source, None)
    if limits.validation == "required" and not validation:
        yield error("no-validation", f"validation rows are required{source}", "hold some out: dataset.split").at(
            dataset.source, None
        )


def _check_lengths(
    dataset: Dataset, counted: Mapping[str, int], limits: Limits, rules: VendorRows | None, target: Target
) -> Iterator[Finding]:
    """Warn of a row or a turn that is longer than the vendor takes, by the same rules as `data check`."""
    from llmtune.data.findings import warning
    from llmtune.data.formats.base import TokenLimit

    limit = None if rules is None else rules.token_limit(target.method, target.model)
    if limit is None:
        if limits.max_tokens_per_row is None:
            return
        limit = TokenLimit(limits.max_tokens_per_row, refuses=False, source=limits.source)
    longest = counted["longest_turn" if limit.per == "turn" else "longest"]
    if longest > limit.tokens:
        source = f" ({limit.source})" if limit.source else ""
        yield warning(
            "long-row",
            f"the longest {limit.per} has about {longest:,} tokens, and {limit.tokens:,} are taken{source}",
            "shorten it, or see dataset.on_too_long",
        ).at(dataset.source, None)
