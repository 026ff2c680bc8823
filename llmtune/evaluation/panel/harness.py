"""Panels from tasks of lm-evaluation-harness: its documents, prompts, filters and metrics, asked by llmtune.

A task is named as in the harness, or by its YAML file (lm-evaluation-harness 0.4.13, docs/new_task_guide.md). Each
document becomes a question whose prompt is the harness's text as one user's turn. What is right is what the harness's
own metric says of one answer: 1 of 0 and 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from llmtune.data.example import Example, Message
from llmtune.errors import InvalidData, MissingExtra
from llmtune.evaluation.panel.panel import Panel, PanelQuestion
from llmtune.evaluation.panel.rules import PanelAnswer
from llmtune.evaluation.sampling import subsample
from llmtune.job.spec import HARNESS

#: Documents of a task that are asked at most, chosen by their content.
MAX_DOCUMENTS = 300
#: Tokens of an answer where the task does not say (the harness's own default).
DEFAULT_ANSWER_TOKENS = 256

#: The seed by which the harness chooses examples for the prompt (its own default).
FEW_SHOT_SEED = 1234

_KINDS = ("generate_until", "multiple_choice")


@dataclass(frozen=True)
class HarnessQuestion(PanelQuestion):
    """A document of a task, scored by the task's own filter and its first metric."""

    task: Any = None
    document: Any = None
    metric: str = ""
    stops: tuple[str, ...] = ()
    """Texts at which an answer ends."""

    def is_right(self, answer: PanelAnswer) -> bool:
        """Return whether the task's metric is 1 for this answer. Raises `InvalidData` where the metric fails on it."""
        try:
            if self.choices:
                results: list[Any] = [(score, score == max(answer.scores)) for score in answer.scores]
            else:
                text = answer.text
                for stop in self.stops:
                    text = text.partition(stop)[0]
                results = [_filter(self.task, self.document, text)]
            return bool(results) and float(self.task.process_results(self.document, results)[self.metric]) == 1
        except Exception as error:  # a task's filters and metrics may be code of its own: said as one sentence
            raise InvalidData(
                f"the metric {self.metric} of {self.skill} failed on an answer: {_describe(error)}"
            ) from error


def load_harness_panel(name: str) -> Panel:
    """Load a task as a panel; `name` is "lm-eval:" with the task's name or the path of its YAML file.

    Raises:
        MissingExtra: the harness is not installed.
        InvalidData: there is no such task, its documents cannot be had, or it is scored by no metric of 0 and 1.
    """
    task_name = name.removeprefix(HARNESS)
    with _quiet():
        task = _load_task(task_name, name)
        try:
            questions = tuple(_read_questions(task, name))
        except (InvalidData, MissingExtra):
            raise
        except Exception as error:  # a task's templates and code may raise anything: said as one sentence
            raise InvalidData(f"evaluation.panel: {name} cannot be read: {_describe(error)}") from error
    if not questions:
        raise InvalidData(f"evaluation.panel: {name} has no document with an answer")
    digest = hashlib.sha256()
    for question in questions:
        digest.update(
            orjson.dumps([question.metric, question.choices, [turn.content for turn in question.row.messages]])
        )
    limit = None
    if task.OUTPUT_TYPE == "generate_until":
        limit = int((task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_ANSWER_TOKENS))
    return Panel(name=name, questions=questions, sha256=digest.hexdigest(), max_tokens=limit)


def _load_task(task_name: str, name: str) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtra("harness", "lm_eval", purpose="tasks of lm-evaluation-harness") from None
    is_file = task_name.endswith((".yaml", ".yml"))
    path = Path(task_name).expanduser()
    if is_file and not path.is_file():
        raise InvalidData(f"evaluation.panel: {task_name} does not exist")
    try:
        manager = TaskManager(include_defaults=False) if is_file else _index_tasks()
        if not is_file and task_name not in manager.all_subtasks:
            what = "a group of tasks: name one of them" if task_name in manager.all_tasks else "no task of the harness"
            raise InvalidData(f"evaluation.panel: {task_name!r} is {what}", hint="lm_eval ls tasks lists them")
        tasks = manager.load([str(path) if is_file else task_name])["tasks"]
    except InvalidData:
        raise
    except Exception as error:  # of reading YAML, of datasets, of a task's own code: said as one sentence
        if isinstance(error, (ConnectionError, FileNotFoundError)) and not is_file:
            raise InvalidData(
                f"evaluation.panel: the documents of {name} are not on this machine, and the Hugging Face Hub, where"
                f" they are, cannot be reached: {_describe(error)}",
                hint="connect once, or name a task file whose documents are here: lm-eval:task.yaml",
            ) from error
        raise InvalidData(f"evaluation.panel: {name} cannot be read: {_describe(error)}") from error
    if len(tasks) != 1:
        raise InvalidData(f"evaluation.panel: {name} holds {len(tasks)} tasks; name one")
    return next(iter(tasks.values()))


@cache
def _index_tasks() -> Any:
    """Return the harness's own tasks by name; reading some ten thousand of its files takes many seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _read_questions(task: Any, name: str) -> Iterator[HarnessQuestion]:
    kind = task.OUTPUT_TYPE
    if kind not in _KINDS:
        raise InvalidData(
            f"evaluation.panel: {name} is a task of kind {kind}; a panel asks those of {' and '.join(_KINDS)}"
        )
    documents = list(task.eval_docs)
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    shots = int(task.config.num_fewshot or 0)
    stops = (task.config.generation_kwargs or {}).get("until", ()) if kind == "generate_until" else ()
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    metric = ""
    rows = [_build_row(task, document, shots) for document in documents]
    answered = [number for number, (row, _) in enumerate(rows) if not row.messages[-1].is_empty]
    for place in subsample([rows[number][0] for number in answered], MAX_DOCUMENTS):
        number = answered[place]
        row, choices = rows[number]
        metric = metric or _find_metric(task, documents[number], choices, row.completion(), name)
        yield HarnessQuestion(
            id=f"{task.config.task}-{number + 1}",
            skill=str(task.config.task),
            row=row,
            rules=(),
            source="lm-evaluation-harness",
            choices=choices,
            task=task,
            document=documents[number],
            metric=metric,
            stops=stops,
        )


def _build_row(task: Any, document: Any, shots: int) -> tuple[Example, tuple[str, ...]]:
    """Return a document as a row with its right answer, and its choices."""
    prompt = str(task.fewshot_context(document, num_fewshot=shots))
    target: Any = task.doc_to_target(document)
    choices: tuple[str, ...] = ()
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = tuple(str(choice).strip() for choice in task.doc_to_choice(document))
        is_choice = isinstance(target, str) and target.strip() in choices
        target = target.strip() if is_choice else choices[int(target)]
    elif isinstance(target, (list, tuple)):
        target = target[0] if target else ""
    return Example((Message("user", prompt), Message("assistant", str(target).strip()))), choices


def _find_metric(task: Any, document: Any, choices: tuple[str, ...], target: str, name: str) -> str:
    """Return the first metric of a task that is 0 or 1 for one answer."""
    scores = [(-1.0 if choice == target else -2.0, choice == target) for choice in choices]
    values = task.process_results(document, scores or [_filter(task, document, target)])
    for metric, value in values.items():
        if isinstance(value, (bool, int, float)) and float(value) in (0.0, 1.0):
            return str(metric)
    listed = ", ".join(map(str, values)) or "none"
    raise InvalidData(f"evaluation.panel: {name} has no metric that is 0 or 1 for one answer (it has {listed})")


def _filter(task: Any, document: Any, text: str) -> Any:
    """Return an answer as the task's first filter passes it on to the metrics."""
    from lm_eval.api.instance import Instance

    instance = Instance(
        request_type=task.OUTPUT_TYPE, doc=document, arguments=(), idx=0, metadata=("", 0, 1), resps=[text]
    )
    first = task._filters[0]
    first.apply([instance])
    return instance.filtered_resps[first.name]


def _describe(error: BaseException) -> str:
    from llmtune.redaction.secrets import scrub

    lines = str(error).strip().splitlines()
    return scrub(f"{type(error).__name__}{f': {lines[0][:200]}' if lines else ''}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness and `datasets` from writing beside llmtune's own output."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "evaluate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        import datasets
    except ImportError:
        has_bars = False
    else:
        has_bars = not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if has_bars:
            datasets.enable_progress_bars()
