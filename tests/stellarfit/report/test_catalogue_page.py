"""The page of a catalogue: rows, links, and names that are not to be trusted."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

pytest.importorskip("bokeh")

from astropy.table import Table
from markupsafe import escape

from stellarfit.report.catalogue import catalogue_page, column_of
from stellarfit.report.links import links_to, page_name, stems_of
from stellarfit.report.writing import read
from stellarfit.survey.catalogue import ALIASES, alias, write_table
from tests.stellarfit.report.conftest import EVIL


def models_of(page: str) -> list[dict]:
    """All Bokeh models of a page, flattened."""
    text = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1]
    found: list[dict] = []

    def walk(part):
        if isinstance(part, dict):
            if "attributes" in part:
                found.append(part)
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                walk(each)

    walk(json.loads(unescape(text)))
    return found


def named(page: str, kind: str) -> list[dict]:
    return [m["attributes"] for m in models_of(page) if m["name"] == kind]


def columns_of_source(page: str) -> dict[str, list]:
    data = named(page, "ColumnDataSource")[0]["data"]
    return dict(data["entries"])


@pytest.fixture(scope="module")
def page(catalogue):
    return catalogue_page(catalogue, title="survey.fits")


def test_rows_say_in_words_what_they_are_worth(page):
    data = columns_of_source(page)
    assert data["_quality"][3] == "bad"
    assert data["_words"][3] == "NOT_CONVERGED"
    assert data["_quality"][12] == "no fit"
    assert data["_quality"].count("clean") == 38
    assert "rows <b>40</b>" in page
    fields = [c["field"] for c in named(page, "TableColumn")]
    assert fields[:4] == ["_name", "_quality", "_words", "teff"]
    assert {"e_teff", "fe_h", "message", "file"} <= set(fields)


def test_a_star_that_could_not_be_read_goes_by_its_file(catalogue):
    table = catalogue.copy()
    table["name"][12] = ""
    table["file"] = [f"night/star{i}.fits" for i in range(len(table))]
    data = columns_of_source(catalogue_page(table, title="survey.fits"))
    assert data["_name"][12] == "star12.fits"
    assert data["_name"][3] == table["name"][3]


def test_temperatures_run_as_the_field_draws_them(page):
    assert [r.get("flipped", False) for r in named(page, "DataRange1d")].count(True) == 1


def test_no_name_becomes_a_script(catalogue):
    table = catalogue.copy()
    table.rename_column("rchi2", EVIL[0])
    page = catalogue_page(table, title=EVIL[1], links=[EVIL[1]] * len(table))
    for evil in EVIL:
        assert evil not in page
    assert escape(EVIL[1]) in page
    templates = [m["template"] for m in named(page, "HTMLTemplateFormatter")]
    assert templates
    assert not any("<%=" in t for t in templates)
    assert EVIL[0] not in {c["field"] for c in named(page, "TableColumn")}


@pytest.mark.parametrize("survey", ALIASES)
def test_a_catalogue_may_use_a_surveys_names(catalogue, survey):
    table = catalogue.copy()
    for name in table.colnames:
        if alias(name, survey) != name:
            table.rename_column(name, alias(name, survey))
    for name in ("name", "flags", "teff", "rchi2"):
        assert column_of(table, name) == alias(name, survey)


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
def test_any_catalogue_that_merge_writes_is_read(catalogue, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    plain = catalogue.copy()
    del plain.meta[EVIL[0]]
    path = write_table(plain, tmp_path / f"survey.{suffix}")
    again = read(path)
    assert again["name"][7] == EVIL[0]
    assert again["flags"].tolist() == catalogue["flags"].tolist()
    assert str(again["teff"].unit) == "K"


def test_a_row_leads_to_its_page_if_there_is_one(tmp_path):
    folder = tmp_path / "a page"
    folder.mkdir()
    for stem in ("s1", "many-b c", '"><img>'):
        (folder / page_name(stem)).touch()
    stems = stems_of(["in/s1.fits.gz", "s2.fits", "many.fits", "many.fits", '"><img>.fits', ""],
                     ["", "", "a", "b c", "", "s1"])
    assert links_to(folder, stems) == ["a%20page/s1.html", "", "", "a%20page/many-b_c.html",
                                       "a%20page/___img_.html", "a%20page/s1.html"]


def test_what_is_no_catalogue_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"x.fits is no catalogue, it has no column 'flags'"):
        catalogue_page(Table({"a": [1.0], "b": [2.0]}), title="x.fits")
    with pytest.raises(ValueError, match="no rows"):
        catalogue_page(Table({"flags": []}), title="x")
    with pytest.raises(ValueError, match="no two columns of numbers"):
        catalogue_page(Table({"flags": [1]}), title="x")
