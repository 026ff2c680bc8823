"""Every kind of block in every rendering: what it says is there, and no text from outside is obeyed."""

from __future__ import annotations

import re

import pytest

from llmtune.evaluation.results import MetricValue
from llmtune.metrics.intervals import Interval
from llmtune.report import document as blocks
from llmtune.report import markdown, terminal
from llmtune.report.document import Block, Column, Document, Section, Span
from llmtune.report.html import page

EVIL = "\x1b[31m<b>`|*_[x](http://e)@you\u202e\n# h </script>"
METRIC = MetricValue(
    name="accuracy", says="", value=0.5, interval=Interval(low=0.4, high=0.6, level=0.95, method="Wilson"), rows=9
)


def every_block(text: str) -> list[Block]:
    """One block of each kind, with a text in each of its fields."""
    inline = [Span(text, style, note=text, title=text, href=text) for style in ("", "strong", "code", "dim", "state")]
    chart = {"id": text, "title": text, "unit": text, "curves": []}
    return [
        blocks.Text(inline),
        blocks.List([text, inline]),
        blocks.KeyValues([(text, inline)]),
        blocks.Table(text, [Column(text, "number"), Column(text, "text")], [[inline, Span(text, value=text)]] * 50),
        blocks.Charts([chart]),
        blocks.Bars(text, [(Span(text, title=text), METRIC)]),
        blocks.Cards([blocks.Card(text, [(text, text)])] * 9),
        blocks.Code(f"{text}\n{text}", text, "sh"),
        blocks.Matrix(text, [text], [text, text], [[3, 0]]),
        blocks.Plots([blocks.Plot(text, text, text, [(text, "after", [(0, 1)])], [(0, 0, 1, text)])]),
        blocks.Details(text, [blocks.Text(text)]),
    ]


def of(text: str, state: str = "succeeded") -> Document:
    sections = [
        Section("a", text, every_block(text), short=text),
        Section("b", text, every_block(text), folded=True, brief=every_block(text), brief_title=text),
    ]
    return Document(
        title=text,
        heading=text,
        state=state,
        line=[text],
        aside=[Span(text)],
        verdict=Span(text, "good"),
        remarks=[blocks.Text(text)],
        tiles=[(Span(text), Span(text, live=text))],
        sections=sections,
    )


def test_the_sample_has_every_kind() -> None:
    assert {type(block) for block in every_block("x")} == set(Block.__subclasses__())


@pytest.mark.parametrize("state", ["succeeded", ""])
def test_no_text_is_obeyed_in_any_block(state: str) -> None:
    document = of(EVIL, state)
    shown = {"page": page.render(document), "markdown": markdown.render(document), "text": terminal.to_text(document)}
    for text in shown.values():
        assert "\x1b" not in text.split("<body")[-1]
        assert "\u202e" not in text.split("<body")[-1]
    body, _, scripts = shown["page"].split("<body")[1].partition("<script")
    assert "<b>`" not in body
    assert "</script>" not in body
    assert scripts.count("</script>") == 3  # the data, the chart library, our own
    assert "href=" not in re.sub(r'href="#[^"]*"', "", body)
    prose = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", shown["markdown"])
    prose = re.sub(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", prose)
    assert not re.search(r"(?<!\\)<b>|(?<!\\)\[x\]|@you|http://", prose)
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in prose.splitlines() if line.startswith("| ")}
    assert cells == {3}


@pytest.mark.parametrize("block", every_block("hello"), ids=lambda block: type(block).__name__)
def test_what_a_block_says_is_in_each_rendering(block: Block) -> None:
    document = Document(title="t", heading="t", state="succeeded", sections=[Section("a", "A", [block])])
    assert "hello" in page.render(document)
    if not isinstance(block, blocks.Matrix | blocks.Plots | blocks.Charts):  # drawings: their figures stand in tables
        assert "hello" in markdown.render(document)
        assert ("hello" in terminal.to_text(document)) != isinstance(block, blocks.Details)


@pytest.mark.parametrize("width", [20, 80])
def test_a_wide_table_is_cut_into_tables_that_name_their_rows(width: int) -> None:
    columns = [Column("name", "label"), *(Column(f"c{number}", "number") for number in range(12))]
    table = blocks.Table("t", columns, [["row one", *("123,456" for _ in range(12))]])
    text = terminal.to_text(Document(title="t", sections=[Section("a", "A", [table])]), width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in range(12):
        assert len(re.findall(rf"\bc{number}\b", text)) == 1
    assert text.count("row one") == text.count("name") >= 2


def test_a_section_without_blocks_is_left_out_of_a_page_and_of_markdown() -> None:
    document = Document(title="t", heading="t", sections=[Section("a", "Alone", brief=[blocks.Text("only here")])])
    assert "Alone" not in page.render(document)
    assert "Alone" not in markdown.render(document)
    assert "only here" in terminal.to_text(document)
