"""Renderings: they fit, they say what they must, and no text from outside is obeyed."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from llmtune.data.example import Example, chat
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.task import ScoringOptions
from llmtune.metrics.points import MetricPoint
from llmtune.report.markdown import block, code, plain
from llmtune.report.schema import Report
from llmtune.report.terminal import print_report
from llmtune.report.terminal_chart import bar, draw, sparkline
from tests.llmtune.evaluation.conftest import Scripted
from tests.llmtune.report.conftest import identity, make

HOSTILE = (
    "[bold red]x[/] [link=http://evil]y[/link] | `code` ``` <img src=x onerror=1>"
    " \x1b[31mred\x1b]0;title\x07 \u202eabc @you #12"
)


def prose(markdown: str) -> str:
    """Return the Markdown without its code, in which nothing is interpreted."""
    without_blocks = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", markdown)
    return re.sub(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", without_blocks)


@pytest.mark.parametrize("name", ["report", "hosted", "failed"])
@pytest.mark.parametrize("width", [80, 60, 120])
def test_no_line_is_wider_than_the_terminal(name: str, width: int, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(name).to_text(width=width)
    prose, _, code = text.partition("\nNext\n")
    assert [line for line in prose.splitlines() if cell_len(line) > width] == []
    assert all(line.startswith("  ") for line in code.splitlines() if line)


def test_what_is_copied_is_never_wrapped(report: Report) -> None:
    long = "/a/long/path/of/a/folder" * 8
    snippet = f"from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained({long!r})\n"
    changed = report.model_copy(update={"snippet": snippet, "reproduce": f"llmtune tune {long}/job.json --new"})
    for width in (40, 80):
        lines = [line.strip() for line in changed.to_text(width=width).splitlines()]
        assert set(snippet.splitlines()) <= set(lines)
        assert f"run it again llmtune tune {long}/job.json --new" in lines


def test_the_terminal_report_says_what_matters(report: Report) -> None:
    text = report.to_text()
    flat = " ".join(text.replace("\u2502", " ").split())
    assert report.headline in flat
    assert text.index("Tuning helped") < text.index("held-out rows, by") < text.index("Training")
    for expected in (
        "120 held-out rows, by generated text, intervals at 95%",
        "macro F1",
        "better",
        "validation loss",
        "Good fit",
        "lora_rank=12 → 16: sizes are 1, 2, 4, 8, 16, 32",
        "weight_decay=0.1: the service sets its own regularisation",
        "960 train, 120 validation, 120 test",
        "training 1 min 35 s",
        "your own machine: no vendor bills it",
        "ticket 5",
        "llmtune chat lt7f3k9q2abc",
        "llmtune tune job.yaml --provider local --new",
        "PeftModel.from_pretrained",
        "ok end of turn",
    ):
        assert expected in flat, expected


def test_a_hosted_report_shows_money_and_its_source(hosted: Report) -> None:
    flat = " ".join(hosted.to_text().split())
    assert "estimated 12.40 USD" in flat
    assert "billed 11.90 USD, 9,300,000 tokens billed" in flat
    assert "vendor api" in flat
    assert "840 tokens in, 240 out" in flat
    assert "not reported: validation/loss (" in flat
    assert "difference" not in flat.split("Training")[0]


def test_nothing_but_text_where_colours_are_not_wanted(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in report.to_text()
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=80, highlight=False))  # a pipe
    assert "\x1b" not in buffer.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = io.StringIO()
    print_report(report, Console(file=coloured, width=80, force_terminal=True, highlight=False))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", coloured.getvalue())  # bold may stay, colours go


def test_colours_where_they_are(report: Report) -> None:
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=80, force_terminal=True, color_system="truecolor", _environ={}))
    assert "\x1b[" in buffer.getvalue()


def test_a_terminal_without_unicode_gets_ascii(report: Report) -> None:
    text = report.render("text", ascii_only=True)
    drawn = text[: text.index("Diagnosis")]
    assert drawn.isascii()
    encoded = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    print_report(report, Console(file=encoded, width=80, highlight=False))
    encoded.flush()
    assert b"Tuning helped" in encoded.buffer.getvalue()  # type: ignore[attr-defined]


# --- text from outside ---------------------------------------------------------------------
def hostile() -> Report:
    rows: list[Example] = [chat(("user", f"{HOSTILE} {n}"), ("assistant", f"answer {HOSTILE}")) for n in range(12)]
    result = evaluate(rows, {"tuned": Scripted(lambda _: HOSTILE)}, scoring=ScoringOptions(resamples=50))
    return make(
        identity=identity(job_name=HOSTILE, model=HOSTILE, provider="local"),
        evaluation=result,
        warnings=[HOSTILE],
        reproduce=f"llmtune tune {HOSTILE}",
        snippet=f"print('''{HOSTILE}''')",
        artifacts={HOSTILE: HOSTILE},
    )


def test_markup_and_escape_sequences_are_shown_not_obeyed_on_a_terminal() -> None:
    buffer = io.StringIO()
    print_report(hostile(), Console(file=buffer, width=200, force_terminal=True, color_system="truecolor"))
    output = buffer.getvalue()
    assert "[bold red]x[/]" in output
    assert "\x1b]0;title" not in output
    assert "\x1b]8;" not in output  # no hyperlink was made of it
    assert "\x1b[31mred" not in output
    assert "\\x1b[31mred" in output
    assert "\u202e" not in output


def test_hostile_text_breaks_no_markdown_table_and_makes_no_html() -> None:
    text = hostile().to_markdown()
    assert "\x1b" not in text
    outside_code = prose(text)
    assert "<img" not in outside_code.replace("\\<img", "")
    assert "@you" not in outside_code
    assert "http://" not in outside_code
    width = None
    for line in outside_code.splitlines():
        if line.startswith("| "):
            cells = len(re.findall(r"(?<!\\)\|", line))
            width = width or cells
            assert cells == width, line
        else:
            width = None


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_escaped_markdown_is_the_same_text_and_inert(text: str) -> None:
    escaped = plain(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`<*\[\]]", escaped)


@given(st.text(alphabet="`ab| \n", max_size=30))
def test_code_cannot_be_closed_from_inside(text: str) -> None:
    inline = code(text)
    fence = re.match(r"`+", inline)
    assert fence is not None
    inner = inline[len(fence.group()) : -len(fence.group())]
    assert inline.endswith(fence.group())
    assert fence.group() not in re.findall(r"`+", inner)
    assert "|" not in inline
    fenced = block(text)
    first = re.match(r"`+", fenced)
    assert first is not None
    assert all(
        len(run) < len(first.group()) for run in re.findall(r"`+", fenced[len(first.group()) : -len(first.group())])
    )


def test_the_markdown_says_what_matters(report: Report) -> None:
    text = report.to_markdown()
    for expected in (
        "# ticket-router",
        "Tuning helped: accuracy rose from 33.3% to 86.7%",
        "| accuracy | **33.3%**<br>",
        "majority class",
        "| `lora_rank` | `12` | converted | `16` |",
        "<summary>Worst answers</summary>",
        "```python\nfrom peft import PeftModel",
        "training loss",
    ):
        assert expected in text, expected


# --- charts ---------------------------------------------------------------------
def test_a_falling_curve_falls() -> None:
    drawn = draw([(float(x), 10.0 - x) for x in range(11)], [], width=11, height=11, ascii_only=True)
    assert drawn is not None
    heights = [next(height for height, row in enumerate(drawn.rows) if row[column].char == ".") for column in range(11)]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (0, 10)
    assert (drawn.top, drawn.bottom, drawn.left, drawn.right) == (10.0, 0.0, 0.0, 10.0)


def test_marks_stand_where_their_values_are() -> None:
    drawn = draw([(0.0, 0.0), (10.0, 0.0)], [(5.0, 1.0)], width=11, height=5, ascii_only=True)
    assert drawn is not None
    assert drawn.rows[0][5].char == "o"
    assert drawn.rows[0][5].curve == 1


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=40),
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=10),
    st.booleans(),
)
def test_any_curve_can_be_drawn(
    line: list[tuple[float, float]], marks: list[tuple[float, float]], plain_: bool
) -> None:
    drawn = draw(line, marks, width=20, height=5, ascii_only=plain_)
    finite = any(math.isfinite(y) for _, y in (*line, *marks))
    assert (drawn is not None) == finite
    if drawn is not None:
        assert len(drawn.rows) == 5
        assert all(len(row) == 20 for row in drawn.rows)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_any_sparkline_can_be_drawn(values: list[float]) -> None:
    assert len(sparkline(values, 12)) <= 12
    assert sparkline([3.0, 2.0, 1.0], 3) == "\u2588\u2585\u2581"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_any_bar_has_its_width(one: float, two: float, three: float) -> None:
    low, value, high = sorted((one, two, three))
    drawn = bar(value, low, high, 30, ascii_only=True)
    assert len(drawn) == 30
    assert set(drawn) <= set("#|- ")


def test_a_longer_bar_is_a_larger_share() -> None:
    lengths = [bar(share / 10, share / 10, share / 10, 40).count("\u2588") for share in range(11)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0, 40)


def test_a_diverged_run_can_be_shown() -> None:
    broken = make(
        points=[MetricPoint(step=s, series="train/loss", value=[2.0, 1.0, math.nan][s % 3]) for s in range(30)]
    )
    assert "Diverged" in broken.to_text() or "not a number" in broken.to_text() or "spik" in broken.to_text()
    assert broken.to_markdown()
