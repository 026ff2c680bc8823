"""The panel at each validation: a step that has forgotten too much outside the task is not kept.

Before the first step, and at each validation, the model reads the reference answers of the panel that llmtune ships,
and their mean log-likelihood is a figure of the run. Where it has fallen by more than `panel_margin`, the step is no
candidate for the weights that are kept, whatever its validation loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from llmtune.errors import InvalidData, InvalidJob
from llmtune.evaluation.panel.questions import load_panel
from llmtune_local.batching.token_rows import TokenRows, tokenise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.training.progress import Progress

#: The figure: nats per token of the reference answers.
SERIES = "validation/panel_log_likelihood"


def check_margin(margin: float | None, *, method: str, has_validation: bool, patience: int | None) -> None:
    """Raise `InvalidJob` where a `panel_margin` could choose nothing; None is no margin."""
    if margin is None:
        return
    problem = hint = ""
    if method != "sft":
        problem, hint = f"it is for method sft, and the method is {method}", "leave it out"
    elif not has_validation:
        problem = "it chooses among validated steps, and there are no validation rows"
        hint = "hold some out: dataset.split"
    elif patience is None:
        problem = "it chooses the step that is kept, and without early stopping that is the last one"
        hint = "set early_stopping_patience"
    if problem:
        raise InvalidJob(problem, where="panel_margin", hint=hint)


def check_request(request: RunRequest) -> None:
    """Raise `InvalidJob` where the `panel_margin` of a request could choose nothing."""
    check_margin(
        request.options.panel_margin,
        method=request.method,
        has_validation=request.files.validation is not None,
        patience=request.hyperparameters.early_stopping_patience,
    )


def is_within_margin(
    measured: float, margin: float, progress: Progress, report: Callable[[str, Literal["warning"]], object]
) -> bool:
    """Return whether a step has lost no more than the margin on the panel; count those that have, report the first.

    `measured` is the step's log-likelihood on the panel in nats per token.

    Raises:
        InvalidData: the model's own figure before the first step is no number, so that nothing can be measured by it.
    """
    if progress.base_panel is None or not math.isfinite(progress.base_panel):
        raise InvalidData(
            "panel_margin: the model's log-likelihood of the panel's answers is no number before training begins",
            hint="leave panel_margin out, or set dtype: float32",
        )
    loss = progress.base_panel - measured
    if loss <= margin:  # false where it is no number
        return True
    if not progress.over_margin:
        report(
            f"step {progress.step:,} is not kept: the log-likelihood on the panel has fallen by {loss:.3g} nats per"
            f" token, and panel_margin is {margin:g}",
            "warning",
        )
    progress.over_margin += 1
    return False


def read_panel(tokenizer: Any, *, limit: int | None, template_options: Mapping[str, Any] | None) -> TokenRows:
    """Return the panel's questions with their reference answers as token rows.

    Questions that the model's template has no place for (tools, a system prompt), and those that are too long, are left
    out. Raises `InvalidData` where none is left.
    """
    panel = TokenRows([])
    for question in load_panel(True).rows:
        try:
            rows = tokenise(tokenizer, [question], limit=limit, on_too_long="drop", template_options=template_options)
        except InvalidData:
            continue
        panel.rows = [*panel.rows, *rows.rows]
    if not panel:
        raise InvalidData(
            "panel_margin: the model's chat template takes none of the panel's questions",
            hint="leave panel_margin out",
        )
    return panel
