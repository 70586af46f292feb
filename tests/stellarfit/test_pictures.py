"""Pictures of fits and instruments: what is drawn, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stellarfit import Instrument, Spectrum, fit, plot_fit, plot_lsf, plot_residuals

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result(lines, observe):
    labels = {"teff": 5300.0, "logg": 4.5, "vmic": 1.0, "fe_h": -0.4}
    seen = observe(lines, labels, snr=60.0, seed=2)
    mask = seen.mask.copy()
    mask[150:160] = True
    star = Spectrum(seen.wavelength, seen.flux, ivar=seen.ivar, mask=mask, medium="air",
                    name="masked")
    return fit(star, emulator=lines, resolution=20_000, free=["fe_h"], fixed={
        "teff": 5300.0, "logg": 4.5, "vmic": 1.0, "rv": 0.0, "vsini": 0.0})


def test_residuals_are_in_units_of_the_noise_and_masked_pixels_are_grey(result, tmp_path):
    figure = plot_residuals(result)
    left, right = figure.axes
    drawn = left.lines[0].get_ydata()
    assert np.isnan(drawn[150:160]).all()
    assert np.nanstd(drawn) == pytest.approx(1.0, abs=0.15)
    middle = result.spectrum.wavelength[155]
    assert any(p.get_x() < middle < p.get_x() + p.get_width() for p in left.patches)
    assert sum(p.get_width() for p in right.patches) == pytest.approx(1.0, abs=0.01)
    assert plot_residuals(result, tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


def test_no_picture_stays_open_in_pyplot(result, tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_fit(result, tmp_path / "f.png")
    plot_fit(result)
    assert plt.get_fignums() == before


def test_a_profile_is_as_wide_as_its_resolution_says():
    left, right = plot_lsf(20_000).axes
    velocity, profile = left.lines[0].get_data()
    above = velocity[profile >= 0.5]
    assert above[-1] - above[0] == pytest.approx(299792.458 / 20_000, rel=0.01)
    assert set(right.lines[0].get_ydata()) == {20_000.0}


def test_an_instrument_is_drawn_with_its_table_skew_and_pixels():
    left, right = plot_lsf("desi", wavelength=np.arange(4000.0, 6000.0, 0.8)).axes
    assert np.ptp(right.lines[0].get_ydata()) > 1000
    assert "pixels of" in left.get_legend().get_texts()[-1].get_text()
    left, _ = plot_lsf(Instrument("mine", 20_000, h3=0.1)).axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == [
        "Gaussian", "Gauss-Hermite, h3 = 0.1, h4 = 0"]


def test_what_cannot_be_drawn_is_refused(result, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown instrument.*valid: .*harps"):
        plot_lsf("nonsense")
    with pytest.raises(ValueError, match="wavelength has 1 pixels; expected two or more"):
        plot_lsf("harps", wavelength=[5000.0])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: plot_residuals(result), lambda: plot_lsf("harps")):
        with pytest.raises(ImportError, match=r"pip install 'stellarfit\[plot\]'"):
            draw()
