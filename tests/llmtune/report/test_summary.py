"""Every sentence and figure of an evaluation stands under the name of the system that was measured."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.results import EvaluationResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import Unavailable
from llmtune.report.leaderboard.board import Entry, build_board
from llmtune.report.schema import Report
from llmtune.report.terminal import print_report
from tests.llmtune.evaluation.conftest import LABELS, Scripted, often, ticket
from tests.llmtune.report.conftest import make, perfect
from tests.llmtune.report.leaderboard.test_document import rescue

REFUSED = "refused (404): no such model ft:m-1:acme:robot:abc123"


def evaluated(*missing: str) -> EvaluationResult:
    """120 tickets of which the base model gets all right and the tuned model fewer; some systems cannot be asked."""
    generators: dict[str, Any] = {
        name: Unavailable(f"{name} {REFUSED}") if name in missing else Scripted(answer)
        for name, answer in (("base", perfect), ("tuned", often))
    }
    return evaluate(
        [ticket(number) for number in range(120)], generators, EvaluationSpec(), scoring=ScoringOptions(labels=LABELS)
    )


@pytest.mark.parametrize(
    ("missing", "headline"),
    [
        (
            ("tuned",),
            "The base model reaches accuracy 100.0% (95% interval 96.9 to 100.0) on 120 held-out rows;"
            f" the tuned model could not be asked: tuned {REFUSED}.",
        ),
        (
            ("base",),
            "The tuned model reaches accuracy 86.7% (95% interval 79.4 to 91.6) on 120 held-out rows;"
            f" the base model was not asked: base {REFUSED}.",
        ),
        (
            ("base", "tuned"),
            "A model was tuned; nothing could be measured on the held-out rows."
            f" The tuned model could not be asked: tuned {REFUSED}.",
        ),
        ((), "Tuning hurt: accuracy fell from 100.0% to 86.7%"),
    ],
)
def test_the_headline(missing: tuple[str, ...], headline: str) -> None:
    report = make(evaluation=evaluated(*missing))
    assert report.headline.startswith(headline)
    for text in (report.to_text(width=400), report.to_markdown().replace("\\", ""), report.to_html()):
        if "tuned" in missing:
            assert "The tuned model reaches" not in text
        assert headline in " ".join(text.replace("\u2502", " ").split())


def test_an_answer_of_the_base_model_is_never_shown_as_the_tuned_ones() -> None:
    result = evaluate(
        [ticket(number) for number in range(120)],
        {"base": Scripted(often), "tuned": Unavailable(REFUSED)},
        EvaluationSpec(),
        scoring=ScoringOptions(labels=LABELS),
    )
    report = make(evaluation=result)
    assert "Worst answers of the base model" in report.to_text()
    assert "Worst answers of the base model" in report.to_html()
    assert "Confusion of the base model" in report.to_html()
    assert "Worst answers of the base model" in report.to_markdown()
    both = make(evaluation=evaluated())
    assert "Worst answers\n" in both.to_text()
    assert "of the base model" not in both.to_html()


def test_a_tuned_model_without_the_main_metric_says_why() -> None:
    result = evaluated()
    tuned = result.system("tuned")
    assert tuned is not None
    without = tuned.model_copy(update={"metrics": (), "not_reported": {"accuracy": "the answers were lost."}})
    result = result.model_copy(update={"systems": result.systems | {"tuned": without}, "comparisons": ()})
    headline = make(evaluation=result).headline
    assert headline.startswith("The base model reaches accuracy 100.0%")
    assert headline.endswith("; the tuned model has no accuracy: the answers were lost.")


def test_the_figures_of_the_page_are_the_tuned_models_or_none() -> None:
    page = make(evaluation=evaluated("tuned")).to_html()
    tiles = page.split('class="tiles"')[1].split("</header>")[0]
    assert "100.0%" not in tiles


def entry(label: str, report: Report) -> Entry:
    return Entry(label=label, provider=label, model="m-1", report=report)


def test_a_board_says_which_member_has_no_result() -> None:
    report = make(evaluation=evaluated("tuned"))
    board = build_board("tickets", "group", [entry("one", report), entry("two", report)])
    assert isinstance(board["one"].quality, NotReported)
    text = " ".join(board.verdict)
    assert f"one has no result: tuned {REFUSED}." in text
    assert "only member" not in text
    assert "No tuned model has a result; of the models without tuning" in text


def test_a_rescue_says_which_model_was_not_asked() -> None:
    report = rescue()
    for missing, sentence in (
        ("new", f"The old model reaches 100.0% accuracy; the new model could not be asked: new {REFUSED}."),
        ("old", "The new model reaches 86.7% accuracy; there is no result of the old one to compare it with."),
    ):
        generators: dict[str, Any] = {"old": Scripted(perfect), "new": Scripted(often)}
        generators[missing] = Unavailable(f"{missing} {REFUSED}")
        labels = evaluate(
            [ticket(n) for n in range(120)], generators, EvaluationSpec(), scoring=ScoringOptions(labels=LABELS)
        )
        assert sentence in report.model_copy(update={"labels": labels}).to_html()


def test_an_id_is_not_turned_into_emoji_in_a_report() -> None:
    report = make(evaluation=evaluated("tuned"))
    assert "ft:m-1:acme:robot:abc123" in report.to_text(width=400)
    buffer = io.StringIO()
    with contextlib.redirect_stdout(buffer):
        print_report(report)
    assert "\U0001f916" not in buffer.getvalue()
