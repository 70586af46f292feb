"""Results: what is saved comes back, tables carry units, plots are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import emulators
from stellarfit import FitResult, Spectrum, fit, load_result


@pytest.fixture(scope="module")
def result():
    emulator = emulators.load("mgb-fgk")
    wavelength = np.arange(5180.0, 5210.0, 0.1)
    labels = {"teff": 5200.0, "logg": 4.5, "vmic": 1.0, "fe_h": -0.3}
    flux = emulator(labels, wavelength).detach().double().numpy()
    mask = np.zeros(len(flux), dtype=bool)
    mask[50:60] = True
    star = Spectrum(wavelength, flux, ivar=np.full(len(flux), 1e4), mask=mask, medium="air",
                    name="mock <b>")
    return fit(star, resolution=40_000, emulator=emulator, free=["teff", "fe_h", "rv"],
               fixed={"logg": 4.5, "vmic": 1.0, "vsini": 0.0})


def test_a_saved_result_comes_back_identical(result, tmp_path):
    loaded = FitResult.load(result.save(tmp_path / "fit.h5"))
    assert loaded.labels == load_result(tmp_path / "fit.h5").labels == result.labels
    assert loaded.errors == result.errors
    assert loaded.summary() == result.summary()
    assert loaded.provenance == result.provenance
    for name in ("covariance", "used", "model", "continuum"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
    np.testing.assert_array_equal(loaded.spectrum.flux, result.spectrum.flux)
    np.testing.assert_array_equal(loaded.spectrum.mask, result.spectrum.mask)


def test_a_result_in_the_ultraviolet_comes_back(result, tmp_path):
    from astropy import units

    wavelength = np.linspace(2000.0, 2900.0, len(result.spectrum))
    far = Spectrum(wavelength * units.Angstrom, result.spectrum.flux, ivar=result.spectrum.ivar,
                   medium="vacuum")
    loaded = load_result(replace(result, spectra=(far,)).save(tmp_path / "uv.h5"))
    np.testing.assert_array_equal(loaded.spectrum.wavelength, wavelength)


def test_a_damaged_state_is_refused_with_the_name_of_the_file(result, tmp_path):
    import h5py

    path = result.save(tmp_path / "fit.h5")
    for state in ("{", '{"spectra": [], "names": [], "units": [], "label_names": [], "arms": []}'):
        with h5py.File(path, "r+") as file:
            file.attrs["state"] = state
        with pytest.raises(ValueError, match=r"fit\.h5' is not a readable result"):
            load_result(path)


def test_pixels_are_counted_where_the_fit_reaches(result):
    used = np.zeros(len(result.used), dtype=bool)
    used[10:20] = used[30:40] = True
    assert "20 of 30 pixels" in replace(result, used=used).summary()


def test_a_label_of_an_own_grid_has_its_name_for_a_description():
    from stellarfit.result import describe_parameter

    assert describe_parameter("age") == "age"
    assert describe_parameter("mg_fe") == "abundance ratio [Mg/Fe]"


def test_a_damaged_result_is_refused_in_one_sentence(result, tmp_path):
    path = result.save(tmp_path / "fit.h5")
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a readable result"):
        load_result(path)
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match="not a readable result"):
        load_result(path)
    with pytest.raises(FileNotFoundError, match="no result"):
        load_result(tmp_path / "absent.h5")


def test_the_table_has_units_descriptions_and_survives_ecsv(result, tmp_path):
    from astropy.table import Table

    table = result.to_table()
    assert str(table["teff"].unit) == "K"
    assert str(table["e_rv"].unit) == "km / s"
    assert "[Fe/H]" in table["fe_h"].description
    table.write(tmp_path / "fit.ecsv")
    again = Table.read(tmp_path / "fit.ecsv")
    assert again["teff"][0] == result.labels["teff"]
    assert again.meta["emulator_sha256"] == result.provenance["emulator_sha256"]


def test_the_plot_greys_masked_pixels_and_names_the_labels(result, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    figure = result.plot()
    top = figure.axes[0]
    shaded = [p for p in top.patches if p.get_x() > 5184 and p.get_x() < 5186]
    assert shaded
    text = "".join(t.get_text() for axes in figure.axes for t in axes.texts)
    assert "teff" in text
    assert "K" in text
    assert result.plot(tmp_path / "fit.png").stat().st_size > 10_000


def test_what_a_header_said_may_be_of_any_type(result, tmp_path):
    from dataclasses import replace
    from datetime import date

    result.spectrum.meta["date"] = date(2020, 1, 1)
    try:
        loaded = load_result(result.save(tmp_path / "fit.h5"))
    finally:
        del result.spectrum.meta["date"]
    assert loaded.spectrum.meta["date"] == "2020-01-01"
    assert loaded.spectrum.counts == result.spectrum.counts
    assert replace(loaded, flags=0).labels == result.labels


def test_a_notebook_shows_parameters_errors_and_flags_and_no_markup_of_the_file(result):
    page = result._repr_html_()
    assert "mock &lt;b&gt;" in page
    assert "<b>mock" not in page.replace("<b>mock &lt;", "")
    for name, unit in zip(result.names, result.units, strict=True):
        assert f">{name}<" in page
        assert f">{unit}<" in page
    assert f">{result.labels['teff']:.0f}<" in page
    assert "flags: " in page
    assert "pixels" in result.spectrum._repr_html_()


def test_an_estimated_noise_that_residuals_contradict_is_told(result):
    estimated = replace(result.spectrum, meta={**result.spectrum.meta, "noise": "estimated"})
    doubtful = replace(result, spectra=(estimated,), chi2=0.25 * result.dof)
    assert "errors are some 2.0 times too large" in doubtful.summary()
    assert "too large" not in replace(doubtful, chi2=1.0 * result.dof).summary()


def test_a_result_goes_to_pandas_with_its_values_and_errors(result):
    pytest.importorskip("pandas")
    frame = result.to_table().to_pandas()
    assert frame["teff"][0] == result.labels["teff"]
    assert frame["e_teff"][0] == result.errors["teff"]
