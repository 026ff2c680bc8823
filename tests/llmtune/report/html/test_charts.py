"""The page of a run in a browser: charts, sorting, zoom, themes, paper, a phone, and markup that stays text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmtune.job.spec import EvaluationSpec, TuningJob
from llmtune.metrics.points import MetricPoint
from llmtune.report.schema import Report
from llmtune.runs.api import start
from llmtune.runs.poller import PollInterval
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.generic_vendor import Fake
from tests.llmtune.report.conftest import make, points
from tests.llmtune.report.html.test_page import hostile

Watch = Callable[..., Any]

#: Whether any dot of a canvas is drawn in a colour of its own.
DRAWN = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;
  for (let at = 0; at < data.length; at += 4)
  {
    const [red, green, blue, alpha] = data.slice(at, at + 4);
    if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) coloured += 1;
  }
  return coloured;
}"""


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    rates = [
        MetricPoint(step=step, series="train/learning_rate", value=2e-3 * (1 - step / 240)) for step in range(1, 240)
    ]
    file = tmp_path_factory.mktemp("page") / "run.html"
    file.write_text(make(points=[*points(), *rates]).to_html(), encoding="utf-8")
    return file.as_uri()


def shown(watch: Watch, url: str, **context: Any) -> Any:
    watched = watch(offline=True, **context)
    watched.page.goto(url)
    watched.until("document.querySelectorAll('.plot canvas').length > 0")
    return watched


def quiet(watched: Any, url: str) -> None:
    assert watched.complaints == []
    assert watched.requests == [url]


def test_charts_are_drawn_and_show_values_under_the_cursor(watch: Watch, run_page: str) -> None:
    watched = shown(watch, run_page)
    plots = watched.page.locator(".plot")
    assert plots.count() == 3
    for chart_index in range(3):
        assert plots.nth(chart_index).locator("canvas").evaluate(DRAWN) > 300
    plots.nth(0).scroll_into_view_if_needed()
    box = plots.nth(0).locator(".u-over").bounding_box()
    watched.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    legend = plots.nth(0).locator(".u-legend .u-value").all_inner_texts()
    step = int(legend[0])
    assert abs(step - 120) < 5
    expected = {point.step: point.value for point in points() if point.series == "train/loss"}[step]
    assert float(legend[1]) == pytest.approx(expected, abs=1e-4)
    # The other charts follow to the same step.
    assert plots.nth(1).locator(".u-legend .u-value").first.inner_text() == str(step)
    quiet(watched, run_page)


def test_dragging_zooms_and_a_double_click_shows_all(watch: Watch, run_page: str) -> None:
    watched = shown(watch, run_page)
    plot = watched.page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(".u-over").bounding_box()
    middle = box["y"] + box["height"] / 2
    watched.page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    watched.page.mouse.down()
    watched.page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=4)
    watched.page.mouse.up()
    low, high = map(float, plot.get_attribute("data-range").split())
    assert 50 < low < 75
    assert 110 < high < 130
    watched.page.mouse.dblclick(box["x"] + box["width"] / 2, middle)
    watched.until("document.querySelector('.plot').dataset.zoomed === 'no'")
    quiet(watched, run_page)


def test_the_keyboard_reaches_everything_in_a_chart(watch: Watch, run_page: str) -> None:
    watched = shown(watch, run_page)
    plot = watched.page.locator(".plot").first
    plot.focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        watched.page.keyboard.press(key)
    assert plot.locator(".u-legend .u-value").first.inner_text() == "3"
    assert "step 3: training loss" in watched.page.locator("[aria-live]").inner_text()
    watched.page.keyboard.press("+")
    assert plot.get_attribute("data-zoomed") == "yes"
    watched.page.keyboard.press("0")
    assert plot.get_attribute("data-zoomed") == "no"
    watched.page.get_by_role("button", name="Zoom in (Loss)").press("Enter")
    assert plot.get_attribute("data-zoomed") == "yes"
    quiet(watched, run_page)


def test_tables_are_sorted_by_their_headings(watch: Watch, run_page: str) -> None:
    watched = shown(watch, run_page)
    table = watched.page.locator("#labels table").first

    def column(number: int) -> list[str]:
        return list(table.locator(f"tbody td:nth-child({number})").all_inner_texts())

    original = column(1)
    head = table.get_by_role("button", name="F1", exact=True)
    head.focus()
    watched.page.keyboard.press("Enter")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    values = [float(text.rstrip("%")) for text in column(6)]
    assert values == sorted(values, reverse=True)
    head.click()
    assert [float(text.rstrip("%")) for text in column(6)] == sorted(values)
    table.get_by_role("button", name="label").click()
    assert column(1) == sorted(original)
    quiet(watched, run_page)


@pytest.mark.slow
def test_dark_follows_the_system_and_the_button_overrides_it(watch: Watch, run_page: str) -> None:
    def ground(watched: Any) -> str:
        return str(watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = shown(watch, run_page, color_scheme="dark")
    light = shown(watch, run_page, color_scheme="light")
    assert ground(dark) == "rgb(18, 20, 23)"
    assert ground(light) == "rgb(250, 250, 248)"
    before = light.page.locator(".plot canvas").first.evaluate("canvas => canvas.toDataURL()")
    button = light.page.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    button.click()
    assert button.inner_text() == "Theme: dark"
    assert ground(light) == "rgb(18, 20, 23)"
    assert light.page.locator(".plot canvas").first.evaluate("canvas => canvas.toDataURL()") != before
    quiet(dark, run_page)
    quiet(light, run_page)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(watch: Watch, run_page: str, width: int, scheme: str) -> None:
    watched = shown(watch, run_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    small = watched.page.evaluate(
        "Array.from(document.querySelectorAll('main *')).filter(each => each.childElementCount === 0 &&"
        " each.textContent.trim() && parseFloat(getComputedStyle(each).fontSize) < 10).length"
    )
    assert small == 0
    poor = watched.page.evaluate(CONTRAST)
    assert poor == []
    quiet(watched, run_page)


#: Elements whose text has less than 4.5 : 1 against the ground behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const solid = (colour, under) => {
    canvas.globalCompositeOperation = 'source-over';
    canvas.fillStyle = `rgb(${under.join(' ')})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return Array.from(canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
  };
  const ground = each => {
    const up = [];
    for (let at = each; at; at = at.parentElement) up.unshift(getComputedStyle(at).backgroundColor);
    return up.reduce((under, colour) => solid(colour, under), [255, 255, 255]);
  };
  const light = rgb => rgb.map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  return Array.from(document.querySelectorAll('main *')).filter(each =>
    Array.from(each.childNodes).some(child => child.nodeType === 3 && child.textContent.trim())
    && each.checkVisibility()).map(each => {
      const under = ground(each);
      const [a, b] = [light(under), light(solid(getComputedStyle(each).color, under))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), each.className, each.textContent.trim().slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


def test_on_paper_everything_is_light_open_and_whole(watch: Watch, run_page: str, tmp_path: Path) -> None:
    watched = shown(watch, run_page, color_scheme="dark")
    watched.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    watched.page.emulate_media(media="print")
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert watched.page.locator("details:not([open])").count() == 0
    assert not watched.page.locator(".bar").is_visible()
    watched.page.emulate_media(media="screen")
    watched.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert watched.page.locator("details[open]").count() == 0
    assert len(watched.page.pdf(path=str(tmp_path / "run.pdf"))) > 20_000
    quiet(watched, run_page)


def test_the_command_is_copied(watch: Watch, run_page: str) -> None:
    watched = shown(watch, run_page)
    press = watched.page.get_by_role("button", name="Copy the command")
    press.click()
    watched.until("['Copied', 'Selected'].includes(document.querySelector('.copy').textContent)")
    quiet(watched, run_page)


# --- markup stays text -----------------------------------------------------------------------------------------------
def untouched(watched: Any) -> None:
    assert watched.page.evaluate("window.broken === undefined")
    assert watched.page.locator("img, iframe, main script").count() == 0
    assert watched.page.locator("script").count() == 3


def test_markup_in_every_field_of_a_report_stays_text(watch: Watch, report: Report, tmp_path: Path) -> None:
    turned, evil = hostile(report)
    file = tmp_path / "odd.html"
    file.write_text(turned.to_html(), encoding="utf-8")
    watched = shown(watch, file.as_uri())
    untouched(watched)
    assert evil in watched.page.locator("h1").inner_text()
    assert evil in " ".join(watched.page.locator(".plot .u-legend").all_inner_texts())
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 1440
    watched.page.locator(".plot").first.focus()
    watched.page.keyboard.press("Home")  # what is said of a chart names its curves
    untouched(watched)
    quiet(watched, file.as_uri())


def test_a_dataset_with_markup_in_every_field_stays_text(watch: Watch, tmp_path: Path) -> None:
    evil = "<script>window.broken=1</script><img src=x onerror='window.broken=1'>"
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(90):
            messages = [
                {"role": "system", "content": f"{evil} system"},
                {"role": "user", "content": f"{evil} case {number} </pre></td>"},
                {"role": "assistant", "content": f"{evil} label {number % 3}"},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    job = TuningJob(
        name=f"job {evil}",
        dataset={"path": str(rows), "split": (0.5, 0.1, 0.4)},  # type: ignore[arg-type]
        model=f"m-{evil}",
        tags={"note": "fine"},
        evaluation=EvaluationSpec(max_rows=50),
    )
    with Fake() as vendor:
        vendor.say = lambda prompt, *, tuned: f"{evil} label 0" if tuned else evil  # type: ignore[method-assign, assignment]
        run = start(job, FakeProvider("fake", FakeSettings(base_url=vendor.url)))
        run.wait(pace=PollInterval(first=0.005, most=0.02))
    from llmtune.cli.app import app

    page_file = tmp_path / "run.html"
    result = CliRunner().invoke(app, ["report", run.id, "--format", "html"], catch_exceptions=False)
    assert result.exit_code == 0
    page_file.write_bytes(result.stdout_bytes)
    watched = shown(watch, page_file.as_uri())
    untouched(watched)
    text = watched.page.locator("main").inner_text()
    assert text.count(evil) > 20
    assert f"{evil} case" in text
    quiet(watched, page_file.as_uri())
