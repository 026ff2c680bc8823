"""The page of a run without a browser: whole, small, closed to whatever a job, a dataset or a model says."""

from __future__ import annotations

import hashlib
import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from llmtune.metrics.points import MetricPoint, Series, merge
from llmtune.report.document import Document, Section, Span, Text
from llmtune.report.html import page
from llmtune.report.html.charts import MOST_POINTS, chart_data, thin_points
from llmtune.report.html.page import json_script, policy
from llmtune.report.schema import Report
from tests.llmtune.report.conftest import make, points

VENDOR = Path(__file__).resolve().parents[4] / "llmtune/report/html/vendor/uplot"


class Reader(html.parser.HTMLParser):
    """The tags of a document with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def data_of(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


# --- texts ---------------------------------------------------------------------------------------------------------
def body_of(*content: str | Span) -> str:
    html = page.render(Document(title="t", sections=[Section("one", "One", [Text(content)])]))
    return re.search(r"</h2>(.*?)</section>", html, re.S)[1].strip()  # type: ignore[index]


def test_text_is_text_wherever_it_stands() -> None:
    element = body_of("<b>&\u202e", Span("b>", title='"><script>', note="<i>"))
    assert element == (
        '<p>&lt;b&gt;&amp;\\x202e<span title="&#34;&gt;&lt;script&gt;">b&gt;</span><small> &lt;i&gt;</small></p>'
    )
    assert body_of(Span("x", "strong")) == "<p><b>x</b></p>"


@pytest.mark.parametrize(
    "template", sorted((VENDOR.parents[4] / "llmtune").rglob("*.html")), ids=lambda path: path.name
)
def test_no_template_has_what_the_policy_forbids_or_an_unquoted_attribute(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"""\s(style|on\w+)=|=\{\{|\|\s*safe|autoescape|javascript:""", text)


def test_a_link_to_nowhere_good_is_only_text() -> None:
    assert body_of(Span("there", href="javascript:alert(1)")) == "<p>there</p>"
    assert 'href="https://x.example/?a=1&amp;b"' in body_of(Span("there", href="https://x.example/?a=1&b"))


def test_data_cannot_close_its_element() -> None:
    element = json_script("data", {"a": "</script><!--\u2028"})
    assert element.count("<") == 2
    assert json.loads(element[element.index(">") + 1 : element.rindex("<")]) == {"a": "</script><!--\u2028"}


# --- the page ------------------------------------------------------------------------------------------------------
def test_everything_of_the_report_is_in_the_page(report: Report) -> None:
    text = " ".join(Reader(report.to_html()).text)
    for expected in (
        report.identity.run_id,
        report.headline,
        "macro F1",
        "79.4 to 91.6",
        "the next one up",
        "the service sets its own regularisation",
        "123,690",
        "1 min 35 s",
        "cpu, 2 cores",
        "torch",
        report.reproduce,
        "PeftModel.from_pretrained",
        f"line {report.evaluation.systems['tuned'].worst[0].line}",  # type: ignore[union-attr]
        *report.warnings,
    ):
        assert expected in text
    heads = [attributes.get("id") for tag, attributes in Reader(report.to_html()).tags if tag == "section"]
    assert heads == [
        "evaluation", "training", "diagnosis", "confidence", "labels", "confusion", "worst",
        "receipt", "cost", "timing", "facts", "warnings", "again",
    ]  # fmt: skip


def test_what_is_not_reported_says_so(hosted: Report, failed: Report) -> None:
    text = " ".join(Reader(hosted.to_html()).text)
    assert "not reported (the backend reports no such curve)" in text
    assert "the base model needs a paid deployment" in text
    gone = " ".join(Reader(failed.to_html()).text)
    assert "the training file has 2 rows that are too long" in gone
    assert "not reported (the run was not evaluated)" in gone


def test_the_curves_are_the_reports(report: Report) -> None:
    charts = data_of(report.to_html())["charts"]
    assert [chart["id"] for chart in charts] == ["loss", "tokens_per_second"]
    train, validation = charts[0]["curves"]
    series = report.series["train/loss"]
    assert isinstance(series, Series)
    assert train["steps"] == list(series.steps)
    assert train["values"] == pytest.approx(list(series.values), rel=1e-6)
    assert len(validation["steps"]) == 12


def test_a_loss_that_is_no_number_is_a_gap() -> None:
    series = merge(
        [MetricPoint(step=n, series="train/loss", value=v) for n, v in ((1, 2.0), (2, math.nan), (3, math.inf))]
    )
    assert chart_data(series)[0]["curves"][0]["values"] == [2.0, None, None]


def test_long_curves_are_thinned_without_losing_a_spike() -> None:
    measured = [
        MetricPoint(step=n, series="train/loss", value=9.0 if n == 31_337 else 1 / (n + 1)) for n in range(50_000)
    ]
    drawn = thin_points(measured)
    assert len(drawn) <= MOST_POINTS
    assert 9.0 in [point.value for point in drawn]
    assert (drawn[0], drawn[-1]) == (measured[0], measured[-1])


@pytest.mark.slow
def test_a_long_run_stays_under_a_megabyte_and_a_half() -> None:
    names = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "token_accuracy", "perplexity")
    many = [
        MetricPoint(step=n, series=f"train/{name}", value=math.sin(n) + 1.234567891)
        for n in range(20_000)
        for name in names
    ]
    text = make(points=[*points(), *many]).to_html()
    assert len(text.encode()) < 1_500_000
    assert "lowest and highest value of each stretch" in text


def test_only_our_scripts_run_and_nobody_is_asked(report: Report) -> None:
    text = report.to_html()
    tags = Reader(text).tags
    allowed = next(attributes["content"] for tag, attributes in tags if tag == "meta" and attributes.get("http-equiv"))
    assert allowed is not None
    assert "default-src 'none'" in allowed
    assert "connect-src 'none'" in allowed
    assert "unsafe" not in allowed
    for script in re.findall(r"<script>(.*?)</script>", text, re.S):
        assert policy([script], "").split("; ")[1].split()[1] in allowed
    assert not [
        attributes
        for _, attributes in tags
        if "src" in attributes or "style" in attributes or any(name.startswith("on") for name in attributes)
    ]
    assert {tag for tag, _ in tags} & {"img", "iframe", "object", "link", "form"} == set()


def hostile(report: Report) -> tuple[Report, str]:
    """Return the report with markup in every field that may hold any text, and that markup."""
    evil = "</script></style><script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'`<b>${7*7}"
    data = report.model_dump(mode="json")
    groups: dict[tuple[str, ...], list[tuple[Any, Any]]] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
            where = (*path, key if isinstance(key, str) else "*")
            if isinstance(child, str):
                groups.setdefault(where, []).append((value, key))
            elif isinstance(child, dict | list):
                walk(child, where)

    walk(data, ())
    changed = 0
    for fields in groups.values():
        before = [holder[key] for holder, key in fields]
        for holder, key in fields:
            holder[key] = f"{evil}{holder[key]}"
        try:
            Report.model_validate(data)
            changed += 1
        except ValueError:
            for (holder, key), was in zip(fields, before, strict=True):
                holder[key] = was
    assert changed > 60, "most fields of a report hold any text"
    series = data["series"].pop("train/loss")
    for point in series["points"]:
        point["series"] = f"train/{evil}"
    data["series"][f"train/{evil}"] = series | {"name": f"train/{evil}"}
    data["artifacts"][evil] = evil
    data["environment"]["versions"][evil] = evil
    return Report.model_validate(data), evil


def test_markup_in_any_field_stays_text(report: Report) -> None:
    turned, evil = hostile(report)
    text = turned.to_html()
    plain, odd = Reader(report.to_html()), Reader(text)
    assert {tag for tag, _ in odd.tags} <= {tag for tag, _ in plain.tags}
    assert sum(tag == "script" for tag, _ in odd.tags) == 3
    assert text.count("window.broken") > 60
    assert evil not in text
    assert any(evil in text for text in odd.text)


def test_the_chart_library_is_the_published_one() -> None:
    listed = re.findall(r"\| `([^`]+)` \| `[^`]+` \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text())
    assert len(listed) == 3
    for name, digest in listed:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert "The MIT License" in make().to_html()


def test_a_page_is_a_list_of_sections() -> None:
    sections = [Section("one", "One", [Text("x")]), Section("none", "None")]
    html = page.render(Document(title="A <title>", heading="<h>", sections=sections))
    tags = Reader(html).tags
    assert [attributes["id"] for tag, attributes in tags if tag == "section"] == ["one"]
    assert "A &lt;title&gt;" in html
    assert "uPlot(" not in html.split("<main")[0]


def test_the_page_is_saved_by_its_name(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == report.to_html()
