"""`llmtune ui` in a browser: a page that moves while its run trains, a list to search and tick, runs side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmtune.runs.poller import PollInterval
from llmtune.runs.run import Run
from llmtune.testing.generic_vendor import Fake
from llmtune.web.server import Server
from tests.llmtune.web.conftest import fill, slowly

Watch = Callable[..., Any]
Begin = Callable[..., Run]


def followed(run: Run, pace: PollInterval) -> threading.Thread:
    """Somebody else, who follows the run while we look."""
    thread = threading.Thread(target=lambda: run.wait(pace=pace), daemon=True)
    thread.start()
    return thread


def own(watched: Any, server: Server) -> None:
    """Nothing was complained of, and nobody but the server was asked."""
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(server.url)] == []


@pytest.mark.slow
def test_a_runs_page_moves_while_it_trains(watch: Watch, server: Server, begin: Begin, vendor: Fake) -> None:
    slowly(vendor, looks=96, steps=192)
    run = begin(done=False)
    watched = watch()
    watched.page.goto(f"{server.url}runs/{run.id}")
    assert "not over yet" in watched.page.locator("#headline").inner_text()
    assert watched.page.locator("#progress").evaluate("bar => bar.value") == 0
    thread = followed(run, PollInterval(first=0.25, most=0.25))
    # Curves appear, and grow under a page that stays.
    watched.until("document.querySelector('.plot canvas') && document.querySelector('#progress').value > 4")
    watched.page.evaluate("window.stayed = true")
    drawn = watched.page.locator(".plot canvas").first.evaluate("canvas => canvas.toDataURL()")
    step = watched.page.locator("#progress").evaluate("bar => bar.value")
    watched.until(f"document.querySelector('#progress').value > {step}")
    assert watched.page.evaluate("window.stayed"), "it was not loaded again"
    assert watched.page.locator(".plot canvas").first.evaluate("canvas => canvas.toDataURL()") != drawn
    high = float(watched.page.locator(".plot").first.get_attribute("data-range").split()[1])
    assert high > step
    assert "of 192" in watched.page.locator("#says").inner_text()
    tile = watched.page.locator("[data-title='training loss']").inner_text()
    assert int(tile.rpartition(" ")[2]) > step, "the tile says of which step its value is"
    newest = watched.page.locator("#events li").first.inner_text()
    assert int(newest.split()[1]) > step, newest
    # At the end the report takes its place.
    for job in vendor.jobs.values():
        job.looks = 96
    watched.page.wait_for_selector("#evaluation table")
    assert "Tuning helped" in watched.page.locator("#headline").inner_text()
    assert watched.page.locator("#progress").count() == 0
    thread.join(timeout=20)
    own(watched, server)


@pytest.mark.slow
def test_what_is_zoomed_stays_zoomed_while_it_moves(watch: Watch, server: Server, begin: Begin, vendor: Fake) -> None:
    slowly(vendor, looks=30, steps=60)
    run = begin(done=False)
    thread = followed(run, PollInterval(first=0.2, most=0.2))
    watched = watch()
    watched.page.goto(f"{server.url}runs/{run.id}")
    watched.until("document.querySelector('#progress') && document.querySelector('#progress').value > 11")
    plot = watched.page.locator(".plot").first
    watched.page.get_by_role("button", name="Zoom in (Loss)").click()
    zoomed = plot.get_attribute("data-range")
    step = watched.page.locator("#progress").evaluate("bar => bar.value")
    watched.until(f"document.querySelector('#progress').value > {step}")
    assert plot.get_attribute("data-range") == zoomed
    thread.join(timeout=30)


@pytest.mark.slow
def test_the_list_is_searched_sorted_and_ticked(watch: Watch, server: Server, begin: Begin) -> None:
    begin(name="alpha")
    begin(name="beta", epochs=3)
    begin(name="gamma", done=False)
    watched = watch()
    page = watched.page
    page.goto(server.url)
    rows = page.locator("#list tbody tr:visible")
    assert rows.count() == 3
    watched.until("document.querySelectorAll('[data-result]')[0].textContent === 'accuracy 100.0%'")
    page.get_by_role("searchbox").fill("bet")
    assert rows.count() == 1
    assert page.locator("#found").inner_text() == "1 of 3"
    page.get_by_role("searchbox").fill("")
    page.locator("#state").select_option("succeeded")
    assert rows.count() == 2
    page.locator("#state").select_option("")
    page.get_by_role("button", name="name", exact=True).click()
    assert [name.strip() for name in page.locator("#list tbody tr td.label a").all_inner_texts()] == [
        "alpha",
        "beta",
        "gamma",
    ]
    assert page.locator("#compare").is_disabled()
    for name in ("alpha", "beta"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare 2").click()
    page.wait_for_selector(".plot canvas")
    assert "2 runs side by side" in page.locator("h1").inner_text()
    assert page.locator(".plot").first.locator(".u-legend").inner_text().count("a") >= 2
    own(watched, server)


@pytest.mark.slow
def test_a_run_in_the_list_moves(watch: Watch, server: Server, begin: Begin, vendor: Fake) -> None:
    slowly(vendor, looks=20, steps=40)
    run = begin(name="moving", done=False)
    watched = watch()
    watched.page.goto(server.url)
    thread = followed(run, PollInterval(first=0.3, most=0.3))
    watched.until("document.querySelector('#list tbody td:nth-child(5)').textContent.endsWith('/40')")
    watched.until("document.querySelector('#list .state').textContent === 'succeeded'")
    thread.join(timeout=20)
    own(watched, server)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_a_thousand_runs_are_listed_and_found(watch: Watch, server: Server, begin: Begin, width: int) -> None:
    fill(begin(), 1000)
    watched = watch(viewport={"width": width, "height": 800})
    watched.page.goto(server.url)
    assert watched.page.locator("#list tbody tr").count() == 1000
    watched.page.get_by_role("searchbox").fill("copy 77")
    assert watched.page.locator("#list tbody tr:visible").count() == 19
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    own(watched, server)


@pytest.mark.slow
def test_markup_in_names_and_rows_stays_text(watch: Watch, server: Server, begin: Begin) -> None:
    evil = "<script>window.broken=1</script><img src=x onerror='window.broken=1'>"
    runs = [begin(name=f"{evil} {number}", note=evil, epochs=number) for number in (1, 2)]
    watched = watch()
    for path in ("", f"runs/{runs[0].id}", f"compare?run={runs[0].id}&run={runs[1].id}"):
        watched.page.goto(server.url + path)
        watched.page.wait_for_timeout(100)
        assert watched.page.evaluate("window.broken === undefined")
        assert watched.page.locator("img, main script").count() == 0
        assert evil in watched.page.locator("main").inner_text()
    own(watched, server)
