"""`llmtune init`: a job file for a dataset, with the reasons of what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtune.cli.completion import complete_model, complete_provider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmtune.planning.job_suggestion import JobSuggestion
    from llmtune.provider.abilities import ModelSuggestion


def init(
    data: Annotated[str, typer.Argument(help="The dataset: any format llmtune reads.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", "-o", help="Where to write the job file.")] = Path("job.yaml"),
    provider: Annotated[
        str | None, typer.Option("--provider", "-p", autocompletion=complete_provider, help="The backend to train at.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The base model: an id or a folder.", autocompletion=complete_model)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; use the suggestions.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Write a commented job file for a dataset: method, model and files chosen by its rows and this machine."""
    from llmtune.cli.output import err, print_json
    from llmtune.errors import InvalidJob
    from llmtune.planning.job_template import render_job_template

    if out_file.exists():
        raise InvalidJob(f"{out_file} already exists", hint="choose another name with --out")
    ask = not (yes or as_json) and err.is_terminal
    suggestion = suggest_job(data, provider, model, ask=ask)
    out_file.write_text(render_job_template(suggestion, relative_to=out_file.parent), encoding="utf-8")
    if as_json:
        print_json(suggestion.model_copy(update={"file": str(out_file)}).model_dump(mode="json"))
        return
    print_reasons(suggestion)
    err.print(
        f"wrote {out_file}; next: llmtune plan {out_file} --provider {suggestion.provider}",
        soft_wrap=True,
        markup=False,
    )


def suggest_job(data: str, provider: str | None, model: str | None, *, ask: bool = False) -> JobSuggestion:
    """Choose method, model and files for a dataset; with `ask`, backend and model are asked for where not named."""
    from llmtune.planning.job_suggestion import JobDraft
    from llmtune.provider.registry import get_provider

    draft = JobDraft(data)
    provider = provider or (typer.prompt("Backend", default="local", err=True) if ask else "local")
    backend = get_provider(provider)
    models = draft.list_models(backend, model)
    if ask and model is None:
        model = _ask_for_model(models)
        models = draft.list_models(backend, model)
    return draft.suggest(backend, models, model, draft.measure_linear())


def print_reasons(suggestion: JobSuggestion) -> None:
    """Print why each part of a suggestion was chosen."""
    from llmtune.cli.output import err

    for label, sentences in suggestion.reasons.items():
        for number, sentence in enumerate(sentences):
            err.print(f"{'' if number else label:<7} {sentence}", soft_wrap=True, markup=False)


def _ask_for_model(models: Sequence[ModelSuggestion]) -> str:
    """List the models and return the id of the chosen one: the answer is a number of the list, an id or a folder."""
    from llmtune.cli.output import err
    from llmtune.planning.job_reasons import choose_model, describe_model
    from llmtune.provider.receipt import PLACEHOLDER

    chosen = choose_model(models)
    listed = [model for model in models if not model.obstacle]
    for number, model in enumerate(listed, 1):
        source = f"{model.method}, {'on this machine' if model.here else 'to be downloaded'}"
        warning = f"; {model.warning}" if model.warning else ""
        err.print(f"{number:>3}  {describe_model(model)} {source}{warning}", soft_wrap=True, markup=False)
    answer: str = typer.prompt(
        "Base model (a number, an id or a folder)" if listed else "Base model",
        default=chosen.model if chosen else PLACEHOLDER,
        err=True,
    )
    number = int(answer) if answer.isdecimal() else 0
    return listed[number - 1].model if 0 < number <= len(listed) else answer
