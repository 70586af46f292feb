"""From files to pages, and what is said when that cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from stellarfit import write_report
from stellarfit.cli import main
from stellarfit.survey.catalogue import write_table
from tests.stellarfit.report.conftest import EVIL


def run(*arguments):
    return CliRunner().invoke(main, ["report", *(str(a) for a in arguments)])


def test_a_result_a_posterior_and_several_of_them(result, posterior, tmp_path):
    pytest.importorskip("bokeh")
    one, other = result.save(tmp_path / "one.a.h5"), posterior.save(tmp_path / "two-posterior.h5")
    done = run(one, "-o", tmp_path / "one.html")
    assert done.exit_code == 0, done.output
    assert "Labels" in (tmp_path / "one.html").read_text()
    assert run(one, other, "-o", tmp_path / "both.html").exit_code == 0
    assert {p.name for p in (tmp_path / "both").iterdir()} == {"one.a.html", "two.html"}
    page = (tmp_path / "both.html").read_text()
    assert "both/one.a.html" in page
    assert "both/two.html" in page
    assert "Posterior" in (tmp_path / "both" / "two.html").read_text()


def test_pages_of_results_are_linked_from_the_catalogue(catalogue, result, tmp_path):
    pytest.importorskip("bokeh")
    table = catalogue.copy()
    del table.meta[EVIL[0]]
    survey = write_table(table, tmp_path / "survey.fits")
    page = write_report([survey, result.save(tmp_path / "s05.h5")], tmp_path / "survey.html")
    assert "survey/s05.html" in page.read_text()
    # a page that is there is linked when the catalogue's is made again
    assert "survey/s05.html" in write_report(survey, page).read_text()


@pytest.mark.parametrize(("names", "output", "message"), [
    (["absent.h5"], "x.html", "no result at 'absent.h5'"),
    (["absent.fits"], "x.html", "no catalogue at 'absent.fits'"),
    (["notes.txt"], "x.html", "'notes.txt' cannot be reported: expected a result"),
    (["wrong.h5"], "x.html", "not a readable result"),
    (["wrong.fits"], "x.html", "'wrong.fits' is not a readable catalogue"),
    (["absent.h5"], "x.pdf", "a report is an HTML page, got 'x.pdf'"),
])
def test_wrong_input_is_refused_in_a_line(tmp_path, monkeypatch, names, output, message):
    pytest.importorskip("bokeh")
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "wrong.h5", "wrong.fits"):
        (tmp_path / name).write_text("no spectrum\n")
    done = run(*names, "-o", output)
    assert done.exit_code == 1
    assert message in done.output
    assert done.output.count("\n") == 1
    assert not (tmp_path / output).exists()


def test_what_else_is_given_is_named(result, catalogue, tmp_path):
    pytest.importorskip("bokeh")
    with pytest.raises(ValueError, match="cannot report a dict"):
        write_report([{"a": 1}], tmp_path / "x.html")
    with pytest.raises(ValueError, match="got 2 catalogues and 1 results"):
        write_report([catalogue, catalogue, result], tmp_path / "x.html")


def test_without_bokeh_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    for name in ("bokeh", "bokeh.plotting"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("absent.h5", "-o", tmp_path / "x.html")
    assert done.exit_code == 1
    assert done.output == "Error: reports need Bokeh: pip install 'stellarfit[report]'\n"


def test_neither_import_nor_help_need_bokeh_or_matplotlib():
    code = ("import sys, stellarfit, emulators; from stellarfit.cli import main; "
            "main(['report', '--help'], standalone_mode=False); "
            "assert not {'bokeh', 'matplotlib', 'jinja2'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "stellarfit report out/star.h5 -o star.html" in done.stdout
