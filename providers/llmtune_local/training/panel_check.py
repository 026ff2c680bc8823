"""The panel at each validation: a step that has forgotten too much outside the task is not kept.

Before the first step, and at each validation, the model reads the reference answers of the panel that llmtune ships,
and their mean log-likelihood is a figure of the run. Where it has fallen by more than `panel_margin`, the step is no
candidate for the weights that are kept, whatever its validation loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidData, InvalidJob
from llmtune.evaluation.panel.questions import load_panel
from llmtune_local.batching.token_rows import TokenRows, tokenise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmtune_local.run_state.schema import RunRequest

#: The figure: nats per token of the reference answers.
SERIES = "validation/panel_log_likelihood"


def check_margin(request: RunRequest) -> None:
    """Raise `InvalidJob` where `panel_margin` could choose nothing."""
    if request.options.panel_margin is None:
        return
    problem = hint = ""
    if request.method != "sft":
        problem, hint = f"it is for method sft, and the method is {request.method}", "leave it out"
    elif request.files.validation is None:
        problem, hint = "it chooses among validated steps, and there are no validation rows", "hold some out"
    elif request.hyperparameters.early_stopping_patience is None:
        problem = "it chooses the step that is kept, and without early stopping that is the last one"
        hint = "set early_stopping_patience"
    if problem:
        raise InvalidJob(problem, where="provider_options.local.panel_margin", hint=hint)


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
