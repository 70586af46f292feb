"""The pages in a browser, from disk: zoom, toggle, sort, filter, select, click through.

Needs Chromium with its driver and selenium (extra ``[browser]``), and is skipped without.  The
screenshots are in pytest's folder of the test.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bokeh")
pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from stellarfit import write_report
from tests.stellarfit.report.conftest import EVIL

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1440,1400")
# Bokeh's widgets live in shadow trees, each within another's.
DEEP = """
function deep(root, css) {
  const found = [...root.querySelectorAll(css)]
  for (const e of root.querySelectorAll("*"))
    if (e.shadowRoot) found.push(...deep(e.shadowRoot, css))
  return found
}
"""
MODEL = "const model = name => Bokeh.documents[0].get_model_by_name(name);"


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())
        self.wait(lambda: self.run("return window.Bokeh && Bokeh.documents.length == 1 "
                                   "&& Bokeh.documents[0].is_idle"))

    def run(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(DEEP + MODEL + code, *arguments)

    def all(self, css: str) -> list[Any]:
        return list(self.run("return deep(document, arguments[0])", css))

    def texts(self, css: str) -> list[str]:
        # in one go: rows come and go while a table settles
        return list(self.run("return deep(document, arguments[0]).map(e => e.innerText)", css))

    def wait(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + 20.0
        while not true():
            assert time.monotonic() < end, "waited for 20 s"
            time.sleep(0.05)

    def check(self) -> None:
        """Nothing went wrong, nothing was loaded, no name has become a script."""
        errors = [e for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == []
        assert self.run("return performance.getEntriesByType('resource').length") == 0
        assert self.run("return window.bad === undefined")
        assert self.all("img[onerror]") == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield Page(driver)
    driver.quit()


def test_a_stars_page_zooms_and_toggles(page, result, tmp_path):
    page.open(write_report(result, tmp_path / "star.html"))
    assert EVIL[0] in page.driver.find_element("tag name", "h1").text
    spans = """return Bokeh.documents[0]._all_models.values().filter(m => m.type == 'Figure'
        && m.name != 'correlation').map(f => f.x_range.end - f.x_range.start).toArray()"""
    before = page.run(spans)
    assert len(set(before)) == 1
    canvas = page.all(".bk-Figure")[1]
    page.run("arguments[0].scrollIntoView()", canvas)
    ActionChains(page.driver).scroll_from_origin(
        ScrollOrigin.from_element(canvas), 0, -400).perform()
    page.wait(lambda: page.run(spans)[0] < 0.9 * before[0])
    assert len(set(page.run(spans))) == 1
    labels = """return Bokeh.documents[0]._all_models.values().filter(m => m.type == 'LinearAxis')
        .map(a => a.axis_label).toArray()"""
    assert "flux / continuum" in page.run(labels)
    next(b for b in page.all(".bk-btn") if b.text == "as observed").click()
    page.wait(lambda: "flux as observed" in page.run(labels))
    page.driver.save_screenshot(str(tmp_path / "star.png"))
    page.check()


def test_a_catalogue_sorts_filters_selects_and_leads_to_a_star(
    page, result, catalogue, tmp_path
):
    page.open(write_report([catalogue, (result.save(tmp_path / "s05.h5"))], tmp_path / "all.html"))
    page.wait(lambda: len(page.texts(".slick-row")) > 10)
    assert any("<script>" in text for text in page.texts(".slick-cell"))
    next(t for t in page.all(".slick-header-column") if t.text.startswith("teff")).click()
    lowest = min(t for t, s in zip(catalogue["teff"], catalogue["status"], strict=True) if s == 0)
    page.wait(lambda: f"{lowest:.0f}" in page.texts(".slick-cell.l3")[:2])
    box = page.all("input[type=text]")[0]
    for typed, left in (("star 1", 11), ("9", 1), (Keys.BACKSPACE * 7, 40)):
        box.send_keys(typed)
        page.wait(lambda left=left: f"{left} of 40 rows" in "".join(page.texts(".bk-clearfix")))
    page.run("model('rows').source.selected.indices = [4, 9]; model('only').active = true")
    page.wait(lambda: page.run("return model('rows').view.indices.count") == 2)
    page.run("model('only').active = false; model('rows').source.selected.indices = []")
    page.run("const s = [...Bokeh.documents[0]._all_models"
             ".values()].find(m => m.type == 'Select' && m.title == 'x'); s.value = 'snr'")
    assert page.run("return model('plot0').below[0].axis_label") == "snr"
    page.driver.save_screenshot(str(tmp_path / "catalogue.png"))
    page.check()
    box.send_keys("star 5")
    page.wait(lambda: page.texts(".slick-cell a") == ["star 5"])
    page.all(".slick-cell a")[0].click()
    page.driver.switch_to.window(page.driver.window_handles[-1])
    page.wait(lambda: EVIL[0] in page.driver.find_element("tag name", "h1").text)
    page.check()
