"""The page of a star: what it says, and what it must not run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("bokeh")

from markupsafe import escape

from stellarfit import Spectrum, fit
from stellarfit.identification import identify, seen_width
from stellarfit.quality import Flag, describe
from stellarfit.report.page import page_of, plain
from stellarfit.report.spectrum import spectrum_figures
from stellarfit.report.star import star_page
from stellarfit.result import ArmFit
from tests.stellarfit.posterior.chains import OPTIONS, STAR
from tests.stellarfit.report.conftest import EVIL


@pytest.fixture(scope="module")
def page(result):
    return star_page(replace(result, flags=int(Flag.LOW_SNR | Flag.MANY_MASKED)))


def body_of(page: str) -> str:
    """What a reader sees: without scripts, which Bokeh's own library fills."""
    return page[page.index("<h1>"):page.index('<script type="application/json"')]


def test_the_page_has_labels_errors_and_flags_in_words(page, result):
    body = body_of(page)
    for name in result.names:
        assert f"<td>{name}</td>" in body
    assert f"{result.labels['teff']:.0f}" in body
    assert all(escape(text) in body for text in describe(int(Flag.LOW_SNR | Flag.MANY_MASKED)))
    assert "effective temperature" in body
    assert str(result.provenance["emulator_sha256"]) in body
    assert "logg</td>" in body  # fixed


def test_what_was_held_is_in_the_table_and_no_warning(result):
    provenance = {**result.provenance, "at_limit": [], "emulator_errors": "taken in",
                  "held": {"vmac": 0.0}}
    verdicts = dict.fromkeys(result.verdicts, "measured")
    body = body_of(star_page(replace(result, flags=0, provenance=provenance, verdicts=verdicts)))
    assert '<div class="flags none">' in body
    assert "vmac</td>" in body


def test_no_name_becomes_a_script_and_nothing_is_loaded(page):
    for evil in EVIL:
        assert evil not in page
        assert escape(evil) in page
    assert "default-src 'none'" in page
    assert "http" not in body_of(page)


def test_curves_are_in_both_units_and_residuals_share_the_wavelengths(result):
    from bokeh.models import ColumnDataSource, Plot, VStrip

    layout = spectrum_figures(result)
    plots = list(layout.select({"type": Plot}))
    assert len(plots) == 3
    assert len({p.x_range.id for p in plots}) == 1
    source = next(s for s in layout.select({"type": ColumnDataSource}) if "flux_observed" in s.data)
    (arm,) = result.by_arm()
    both = source.data["flux_normalised"] * arm.continuum
    np.testing.assert_allclose(both, source.data["flux_observed"], rtol=1e-5)
    assert np.isnan(source.data["flux_observed"][105:125]).all()
    strips = next(r for p in plots for r in p.renderers if isinstance(r.glyph, VStrip))
    shaded = [(a, b) for a, b in zip(strips.data_source.data["x0"], strips.data_source.data["x1"],
                                     strict=True)]
    assert any(a <= arm.wavelength[100] and b >= arm.wavelength[129] for a, b in shaded)


def test_a_posterior_has_its_verdict_intervals_and_corner(posterior):
    pytest.importorskip("corner")
    body = body_of(star_page(posterior))
    assert posterior.verdict in body
    assert 'src="data:image/png;base64,' in body
    low, median, high = posterior.interval("teff")
    for number in (f"{median:.0f}", f"{median - low:.0f}", f"{high - median:.0f}"):
        assert f"<td class=number>{number}</td>" in body


def test_several_arms_are_tabs(lines, observe):
    from bokeh.models import Tabs

    one, other = (observe(lines, STAR, snr=80.0, seed=s) for s in (1, 2))
    free = {**OPTIONS, "free": ["teff"], "fixed": {**OPTIONS["fixed"], "fe_h": -0.4}}
    both = fit({"blue": one, "red": other}, emulator=lines, **free)
    (tabs,) = spectrum_figures(replace(both, arms=("blue", "$$red$$"))).select({"type": Tabs})
    assert [t.title for t in tabs.tabs] == ["blue", "$ $red$ $"]


def test_the_strongest_lines_are_those_of_the_sun(emulator):
    labels = {"teff": 5772.0, "logg": 4.44, "vmic": 1.0, "fe_h": 0.0}
    rest, rv = np.arange(5160.0, 5190.0, 0.03), 50.0
    flux = emulator(labels, rest).double().numpy()
    shift = np.sqrt((1.0 + rv / 299792.458) / (1.0 - rv / 299792.458))
    star = Spectrum(rest * shift, flux, ivar=np.full(len(rest), 1e4), medium="air")
    arm = ArmFit(star, "", rv, np.ones(len(rest), dtype=bool), flux, np.ones(len(rest)))
    found = identify(arm, labels, fwhm=seen_width(labels, 100_000))
    assert {("Mg I", 5172.68), ("Mg I", 5183.60), ("Fe II", 5169.03), ("Fe I", 5171.60)} <= {
        (one.species, round(one.rest, 2)) for one in found}
    assert [one.depth for one in found] == sorted((one.depth for one in found), reverse=True)
    assert all(one.wavelength == pytest.approx(one.rest * shift) for one in found)
    again = identify(replace(arm, spectrum=star.to_medium("vacuum")), labels, fwhm=5.0)
    assert any(one.species == "Mg I" and abs(one.rest - 5174.125) < 0.01 for one in again)


def test_what_bokeh_would_take_for_mathematics_is_plain():
    from bokeh.plotting import figure

    assert "$$" not in plain("$$x$$")
    assert "\\" not in plain(r"\(x\)")
    with pytest.raises(Exception, match="'name' is undefined"):
        page_of("star.html", "", [figure(name="spectrum")])
