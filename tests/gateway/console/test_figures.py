"""The operator's page: what it makes of an exposition, and how it looks to people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gateway import catalogue
from loadtests.scrape import fed
from tests.gateway.console.conftest import Folder
from tests.gateway.console.test_page import CONTRAST
from tests.support.chromium import Chromium, run_module

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

STATS: dict[str, Any] = {
    "counters": {"turns_total": 900, "turns_overdue_total": 0},
    "gauges": {"free_calls": 30, "slots": 256, "shedding": 0},
    "histograms": {
        "step_ns": {"le_ns": [1_000_000, 50_000_000], "counts": [10, 80, 10], "sum_ns": 5_000_000_000}
    },
}
LOOKS = """
# HELP x_seconds how long
# TYPE x_seconds histogram
x_seconds_bucket{door="a",le="0.1"} 10
x_seconds_bucket{door="a",le="0.2"} 20
x_seconds_bucket{door="a",le="+Inf"} 20
x_seconds_bucket{door="b",le="0.1"} 0
x_seconds_bucket{door="b",le="0.2"} 0
x_seconds_bucket{door="b",le="+Inf"} 20
n_total{why="a \\"b\\" c"} 7
n_total{why="d"} 5
"""


def exposition(page: Page, expression: str, *arguments: object) -> Any:
    return run_module(page, "exposition.js", expression, *arguments)


def wrongs(page: Page, changes: dict[str, object]) -> list[list[object]]:
    """What is told of a healthy gateway with these changes."""
    healthy = {
        "model": 1, "ready": 1, "unheard": 0.0001, "unheardLong": 0.0001, "lost": 0, "state": 1, "dropped": 0,
        "noRtp": 0,
        "refusedForRoom": 0, "load": 0.4, "shedding": 0, "overdue": 0, "mosP10": 4.0, "trunksAway": 0,
        "spool": 0.1,
        "uploadWaitS": 10, "tasksFailed": 0, "certificateEnds": 1e12, "bugs": 0,
    }  # fmt: skip
    told = "m.wrongsOf(a[0], 1.7e9).map(({ grave, text, page }) => [grave, page, text])"
    found: list[list[object]] = run_module(page, "operator.js", told, healthy | changes)
    return found


def test_series_are_read_with_their_labels_and_meanings(page: Page) -> None:
    assert exposition(page, "m.total(m.parse(a[0]), 'n_total')", LOOKS) == 12
    assert exposition(page, "m.total(m.parse(a[0]), 'n_total', { why: 'd' })", LOOKS) == 5
    assert exposition(page, "m.total(m.parse(a[0]), 'n_total', { why: ['d', 'e'] })", LOOKS) == 5
    assert exposition(page, "m.parse(a[0]).series.get('n_total')[0].labels.why", LOOKS) == 'a \\"b\\" c'
    assert exposition(page, "m.total(m.parse(a[0]), 'gone')", LOOKS) is None
    assert exposition(page, "m.parse(a[0]).told.get('x_seconds').help", LOOKS) == "how long"


@pytest.mark.parametrize(
    ("q", "want", "expected"),
    [(0.5, {"door": "a"}, 0.1), (0.25, {"door": "a"}, 0.05), (0.75, {"door": "a"}, 0.15), (0.99, {"door": "b"},
       0.2),
     (0.25, {}, 0.1)],
)  # fmt: skip
def test_quantiles_lie_within_their_bucket(
    page: Page, q: float, want: dict[str, str], expected: float
) -> None:
    read = "m.quantile(m.parse(a[0].replace(/ \\d+$/gm, ' 0')), m.parse(a[0]), a[1], 'x_seconds', a[2])"
    assert exposition(page, read, LOOKS, q, want) == pytest.approx(expected)
    same = "m.quantile(m.parse(a[0]), m.parse(a[0]), 0.5, 'x_seconds')"
    assert exposition(page, same, LOOKS) is None, "nothing has come in"


def test_a_counter_that_began_anew_has_grown_by_what_it_is(page: Page) -> None:
    grown = "m.grown(m.parse('n_total ' + a[0]), m.parse('n_total ' + a[1]), 'n_total')"
    assert exposition(page, grown, 7, 9) == 2 and exposition(page, grown, 9, 4) == 4


def test_looks_are_kept_for_a_while_and_thinned(page: Page) -> None:
    held = """(() => {
      const h = new m.History();
      for (let n = 0; n < a[0]; n += 1) h.add(2000 * n, n);
      return [h.length, h.newest, h.ago(60000).look, h.ago(60000).seconds, h.ago(9e9).seconds];
    })()"""
    length, newest, minute, seconds, oldest = exposition(page, held, 3_000)
    assert (
        70 <= length <= 100 and newest == 2_999 and minute == 2_969 and seconds == 60 and 850 <= oldest <= 900
    )


TWO = """
microturn_calls_live 5
microturn_engine_calls 2
microturn_engine_calls{engine="lab"} 3
microturn_predicted_free_calls 6
microturn_predicted_free_calls{engine="lab"} 1
microturn_model_up 1
microturn_model_up{engine="lab"} 1
microturn_model_up{engine="away"} 0
microturn_model_shedding 0
microturn_model_shedding{engine="lab"} 1
microturn_admission_refused_total{by="model",reason="slots"} 60
microturn_admission_refused_total{by="model",reason="slots",engine="lab"} 120
"""


def test_figures_of_engines_are_not_added_up(page: Page) -> None:
    read = """(async () => {
      const { History, parse } = await import('/console/exposition.js');
      const history = new History();
      history.add(0, parse(a[0].replace(/ \\d+$/gm, ' 0')));
      history.add(60000, parse(a[0]));
      const f = m.figuresOf(history);
      return [f.live, f.free, f.load, f.model, f.shedding, f.refused,
        f.engines.map((e) => [e.engine, e.up, e.live, e.free]),
        m.wrongsOf({ ...f, certificateEnds: 1e12 }, 1.7e9).map(({ text }) => text)];
    })()"""
    live, free, load, model, shedding, refused, engines, told = run_module(page, "operator.js", read, TWO)
    assert (live, free, load, model, shedding) == (5, 6, 0.25, 1, 0)
    assert refused == {"model: slots": pytest.approx(60), "model: slots (lab)": pytest.approx(120)}
    assert engines == [["lab", 1, 3, 1], ["away", 0, None, None]]
    assert any(text.startswith("Engine away has no model server") for text in told)


@pytest.mark.parametrize(
    ("changes", "grave", "incident"),
    [
        ({"model": 0}, True, "Model server"), ({"ready": 0}, True, "Calls refused"), ({"unheard": 0.1}, True,
           "Late turns"),
        ({"unheardLong": 0.002}, False, "Late turns"), ({"lost": 4}, True, "Calls lost"),
        ({"state": 0}, True, "State store down"), ({"noRtp": 9}, True, "One-way audio"), ({"load": 0.95},
           False, "Calls refused"),
        ({"mosP10": 2.9}, False, "Bad lines"), ({"spool": 0.6}, False, "Webhooks late"),
        ({"certificateEnds": 1.7e9 + 86_400}, False, "Certificates expire"), ({"uploadWaitS": 4e3}, False,
           "Recordings wait"),
        ({"tasksFailed": 0.5}, False, "Background work fails"), ({"bugs": 1}, False, "Calls lost"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_incident_page(
    page: Page, changes: dict[str, object], grave: bool, incident: str
) -> None:
    [[is_grave, found, text]] = wrongs(page, changes)
    assert (is_grave, found) == (grave, incident) and text
    assert incident.lower().replace(" ", "-") in {
        family.look or section.look for section in catalogue.SECTIONS for family in section.families
    }


def test_nothing_is_wrong_with_a_healthy_gateway_and_what_is_not_shown_is_not_bad(page: Page) -> None:
    assert wrongs(page, {}) == []
    names = (
        "state",
        "mosP10",
        "spool",
        "uploadWaitS",
        "tasksFailed",
        "unheard",
        "unheardLong",
        "overdue",
        "load",
    )
    assert wrongs(page, dict.fromkeys(names)) == []


# -- the page


@pytest.fixture(scope="module")
def figures(origin: str, chromium: Chromium) -> Iterator[Page]:
    metrics = fed(50, STATS)
    metrics.gauges |= {"calls_live": 12.0, "ready": 1.0, "state_connected": 0.0, "trunks_to_register": 0.0,
                       "places_free:telephone": 8.0, "places_free:browser": 0.0}  # fmt: skip
    Folder.metrics = metrics.text()
    page = chromium.open(f"{origin}console/figures")
    until(page, lambda: page.locator("#tile-live dd").inner_text() == "12", "live calls")
    yield page
    page.close()
    Folder.metrics = b""


def until(page: Page, holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s, f"never: {what}\n{page.locator('main').inner_text()[:800]}"
        page.wait_for_timeout(20)


def test_numbers_and_wrongs_are_those_of_the_metrics(figures: Page, chromium: Chromium) -> None:
    assert figures.locator("#tile-free dd").inner_text() == "8"
    told = figures.locator("#wrongs").inner_text()
    assert "Redis does not answer" in told and "docs/operations.md: State store down" in told
    assert figures.locator("body").get_attribute("data-state") == "bad"
    assert "does not answer" in figures.locator("#parts").inner_text()
    assert "live 12" in (figures.locator("#plot-calls svg").get_attribute("aria-label") or "")
    assert chromium.complaints == []


def test_every_figure_can_be_found_with_its_meaning(figures: Page) -> None:
    figures.locator("#all summary").click()
    figures.locator("#filter").fill("")
    until(figures, lambda: figures.locator("#rows tr").count() > 300, "all figures")
    figures.locator("#filter").fill("webhook crm waiting")
    figures.locator("#filter").fill("events that an endpoint has not got")
    until(figures, lambda: figures.locator("#rows tr").count() == 1, "one figure")
    cells = figures.locator("#rows td").all_inner_texts()
    assert cells == ["webhook_waiting_bytes", "endpoint=crm", "150", "events that an endpoint has not got"]
    figures.locator("#all summary").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(figures: Page, scheme: str) -> None:
    figures.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    weak = [(text, round(contrast, 2)) for text, contrast in figures.evaluate(CONTRAST) if contrast < 4.5]
    assert weak == []
    figures.set_viewport_size({"width": 390, "height": 800})
    assert figures.evaluate("document.documentElement.scrollWidth") <= 390, "it does not fit a phone"
    figures.set_viewport_size({"width": 1280, "height": 900})


def test_a_gateway_that_is_gone_is_told(figures: Page) -> None:
    Folder.metrics = b""
    until(figures, lambda: "No answer" in figures.locator("#status").inner_text(), "that it is away")
    assert figures.locator("body").get_attribute("data-state") == "away"
