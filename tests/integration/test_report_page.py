"""The page of ``cluster.report`` in a real browser: a silent console, nothing from elsewhere, nothing too wide."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from smallkube.operations import report_page
from tests import chromium, report_sample
from tests.chromium import Browser
from tests.conftest import require

REPORTS = {
    "healthy": report_sample.healthy(),
    "troubled": report_sample.troubled(),
    "empty": report_sample.empty(),
    "many": report_sample.healthy(30),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    require("integration", chromium.PROGRAM, "no chromium: ./setup.sh chromium fonts-dejavu-core")
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.mark.parametrize("width", [400, 760, 1600])
@pytest.mark.parametrize("name", REPORTS)
def test_page_fits_and_is_silent(name: str, width: int, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page.render(REPORTS[name]))
    browser.complaints.clear()
    browser.open(page, width)
    assert chromium.misfits(browser, width) == []
    shown = [
        browser.value(f"getComputedStyle(document.querySelector('svg.{kind}')).display") for kind in ("wide", "narrow")
    ]
    assert shown == (["block", "none"] if width > 760 else ["none", "block"])
    assert browser.complaints == []


def test_dark_and_print_have_colours_of_their_own(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page.render(REPORTS["healthy"]))
    background = "getComputedStyle(document.body).backgroundColor"
    found = []
    for dark, media in ((False, ""), (True, ""), (True, "print")):
        browser.open(page, 1000, dark=dark, media=media)
        found.append(browser.value(background))
    assert found == ["rgb(245, 246, 248)", "rgb(16, 20, 27)", "rgb(255, 255, 255)"]


def test_hostile_answers_run_nothing(browser: Browser, tmp_path: Path) -> None:
    attack = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"
    page = tmp_path / "report.html"
    page.write_text(report_page.render(report_sample.with_text(REPORTS["troubled"], attack)))
    browser.complaints.clear()
    browser.open(page, 1000)
    assert browser.value("document.title").endswith("problems")
    assert browser.value("document.images.length + document.scripts.length") == 0
    assert attack in browser.value("document.body.textContent")
    assert browser.complaints == []
