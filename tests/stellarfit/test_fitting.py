"""Fitting: the example star, and everything that can be wrong with an input."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import emulators
import stellarfit
from stellarfit import Flag, Spectrum, fit
from tests.stellarfit.mocks import model_of

SPECTRA = Path(str(resources.files("emulators.data"))) / "spectra"
FEW = {"free": ["teff", "logg", "fe_h", "rv"], "fixed": {"vmic": 1.2}}
SUN = {"teff": 5772.0, "logg": 4.44, "vmic": 1.2, "fe_h": 0.0}


@pytest.fixture(scope="module")
def emulator():
    return emulators.load("mgb-fgk")


@pytest.fixture(scope="module")
def star(emulator):
    """A Sun of the emulator's own making at rest, R = 20,000, S/N 200."""
    return mock(emulator)


def mock(emulator, *, low=5180.0, high=5230.0, snr=200.0, **changes):
    from stellarfit.parameters import make_parameters

    wavelength = np.arange(low, high, 0.1)
    parameters = make_parameters(emulator.labels, emulator.domain, free=[*SUN, "rv", "vsini"],
                                 resolution=20_000)
    model = model_of(emulator, parameters, wavelength, resolution=20_000)
    values = {**SUN, "rv": 12.0, "vsini": 0.0, **changes}
    theta = torch.tensor([[values[n] for n in parameters.names]], dtype=torch.float64)
    with torch.no_grad():
        flux = model(theta)[0].double().numpy()
    noise = np.random.default_rng(1).standard_normal(len(flux)) / snr
    return Spectrum(wavelength, flux + noise, uncertainty=np.full(len(flux), 1 / snr), medium="air")


@pytest.fixture(scope="module")
def example():
    return fit(SPECTRA / "example.fits", resolution=30_000)


@pytest.fixture(scope="module")
def truth():
    return json.loads((SPECTRA / "example-truth.json").read_text())["labels"]


def test_example_star_is_fitted_within_the_promised_distance_of_its_truth(example, truth):
    assert example.converged
    assert abs(example.labels["teff"] - truth["teff"]) < 100.0
    assert abs(example.labels["logg"] - truth["logg"]) < 0.2
    assert abs(example.labels["fe_h"] - truth["fe_h"]) < 0.1
    assert abs(example.rv - truth["rv"]) < 0.2
    assert not example.flags & (Flag.POOR_FIT | Flag.NOT_CONVERGED | Flag.EDGE_OF_DOMAIN)


def test_label_errors_come_from_the_joint_covariance(example):
    i, j = example.names.index("fe_h"), example.names.index("mg_fe")
    c = example.covariance
    assert example.errors["mg_h"] == pytest.approx(np.sqrt(c[i, i] + c[j, j] + 2 * c[i, j]))
    assert example.errors["u_h"] == pytest.approx(example.errors["fe_h"])
    assert example.labels["u_h"] == pytest.approx(example.labels["fe_h"])
    assert example.errors["he_frac"] == 0.0


def test_summary_shows_the_truth_beside_the_fit(example, truth):
    text = example.summary(truth)
    assert f"{truth['teff']:.0f}" in text
    assert example.provenance["emulator"] in text


def test_same_seed_gives_the_same_answer(emulator, star):
    first, second = (fit(star, resolution=20_000, emulator=emulator, **FEW) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_a_fit_that_goes_on_from_its_own_result_stays(emulator, star, tmp_path):
    result = fit(star, resolution=20_000, emulator=emulator, **FEW)
    loaded = stellarfit.load_result(result.save(tmp_path / "fit.h5"))
    again = fit(star, resolution=20_000, emulator=emulator, start=loaded, **FEW)
    from_memory = fit(star, resolution=20_000, emulator=emulator, start=result, **FEW)
    np.testing.assert_array_equal(again.values, from_memory.values)
    moved = (again.values - result.values) / np.sqrt(np.diag(result.covariance))
    assert np.abs(moved).max() < 0.1


def test_paths_arrays_and_spectra_give_the_same_fit(emulator, star, tmp_path):
    path = tmp_path / "star.txt"
    np.savetxt(path, np.column_stack([star.wavelength, star.flux, star.ivar**-0.5]))
    options = {"resolution": 20_000, "emulator": emulator, **FEW}
    results = [
        fit(star, **options), fit(path, medium="air", **options),
        fit(star.wavelength, star.flux, ivar=star.ivar, medium="air", **options),
        fit(star.to_medium("vacuum"), **options),
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.values, results[0].values, rtol=1e-5, atol=2e-3)


def test_tied_elements_move_together(emulator, star):
    result = fit(star, resolution=20_000, emulator=emulator, free=["teff", "fe_h", "mg_fe", "rv"],
                 fixed={"logg": 4.44, "vmic": 1.2}, tied={"ti_fe": "mg_fe"})
    assert result.labels["ti_h"] == pytest.approx(result.labels["mg_h"])


def test_adam_finds_the_same_star(emulator):
    star = mock(emulator, low=5182.0, high=5192.0)
    options = {"resolution": 20_000, "emulator": emulator, "free": ["teff", "fe_h"],
               "fixed": {"vmic": 1.2, "logg": 4.44, "rv": 12.0, "vsini": 0.0}}
    lm, adam = fit(star, **options), fit(star, method="adam", **options)
    np.testing.assert_allclose(adam.values, lm.values, atol=np.sqrt(np.diag(lm.covariance)).max())
    assert adam.chi2 == pytest.approx(lm.chi2, rel=0.01)


def test_masked_pixels_do_not_matter(emulator, star):
    bad = np.zeros(len(star), dtype=bool)
    bad[100:130] = True
    options = {"medium": "air", "resolution": 20_000, "emulator": emulator, **FEW}
    results = []
    for poison in (1.0, 1e6):
        flux = np.where(bad, poison, star.flux)
        results.append(fit(star.wavelength, flux, ivar=star.ivar, mask=bad, **options))
    np.testing.assert_allclose(results[0].values, results[1].values, rtol=1e-9)
    assert not results[0].used[bad].any()


def test_no_overlap_is_one_sentence_with_both_ranges(emulator):
    wavelength = np.arange(3800.0, 4900.0, 0.5)
    with pytest.raises(ValueError, match=r"3800-4900 Å, but emulator 'mgb-fgk' covers 5150-5300 Å"):
        fit(wavelength, np.ones(len(wavelength)), ivar=np.ones(len(wavelength)), medium="air",
            resolution=2000, emulator=emulator)


def test_overlap_that_is_all_masked_is_named(emulator):
    wavelength = np.arange(4800.0, 5600.0, 0.5)
    mask = (wavelength > 5100) & (wavelength < 5350)
    with pytest.raises(ValueError, match="masked"):
        fit(wavelength, np.ones(len(wavelength)), ivar=np.ones(len(wavelength)), mask=mask,
            medium="air", resolution=2000, emulator=emulator)


def test_a_spectrum_of_zeros_is_named(emulator):
    wavelength = np.arange(5000.0, 5200.0, 0.1)
    elsewhere = np.where(wavelength < 5100.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="zero from 5150 to 5300"):
        fit(wavelength, elsewhere, ivar=np.ones(2000), medium="air", resolution=2e4,
            emulator=emulator)


def test_too_few_pixels_are_counted(emulator):
    wavelength = np.linspace(5200.0, 5201.0, 12)
    with pytest.raises(ValueError, match="only 12 usable pixels"):
        fit(wavelength, np.ones(12), ivar=np.ones(12), medium="air", resolution=20_000,
            emulator=emulator)


@pytest.mark.parametrize(("options", "message"), [
    ({"free": ["teff", "metallicity"]}, "unknown parameter.*'metallicity'.*valid: .*fe_h"),
    ({"free": ["teff"]}, "no value for logg, vmic"),
    ({"fixed": {"teff": 40_000.0}, "free": ["logg", "vmic", "fe_h"]}, "domain"),
    ({"method": "simplex"}, "unknown method 'simplex'; valid: lm, adam"),
])
def test_bad_options_say_what_is_valid(emulator, star, options, message):
    with pytest.raises(ValueError, match=message):
        fit(star, resolution=20_000, emulator=emulator, **options)


def test_a_resolution_must_be_given(star):
    with pytest.raises(ValueError, match=r"instrument= or resolution=.*harps"):
        fit(star)


def test_a_medium_that_contradicts_the_file_is_flagged():
    from stellarfit.preparing import prepare
    from stellarfit.quality import names_of

    options = {"resolution": 30_000, "free": ["rv"],
               "fixed": {"teff": 5670, "logg": 4.6, "vmic": 1.9, "fe_h": 0.0, "vsini": 6.0}}
    wrong = fit(SPECTRA / "example.fits", medium="vacuum", **options)
    assert "MEDIUM_OVERRULED" in names_of(wrong.flags)
    right = prepare([SPECTRA / "example.fits"], medium="air", **options)[0]
    assert "medium_overruled" not in right.stars[0].observation.spectra[0].meta


def test_unknown_instrument_lists_the_presets(star):
    with pytest.raises(ValueError, match=r"'harp'.*did you mean harps.*valid"):
        fit(star, instrument="harp")


def test_resolution_beyond_the_training_pixels_is_a_flag_not_a_refusal(emulator, star):
    result = fit(star, resolution=115_000, emulator=emulator, **FEW)
    assert result.flags & Flag.BEYOND_TRAINING_SAMPLING
    assert not fit(star, resolution=20_000, emulator=emulator, **FEW).flags \
        & Flag.BEYOND_TRAINING_SAMPLING


def test_little_coverage_is_flagged(emulator, star):
    assert fit(star, resolution=20_000, emulator=emulator, **FEW).flags & Flag.LITTLE_COVERAGE


def test_estimated_noise_is_flagged(emulator, star):
    result = fit(star.wavelength, star.flux, medium="air", resolution=20_000, emulator=emulator,
                 **FEW)
    assert result.flags & Flag.NOISE_ESTIMATED
    assert "estimated" in result.summary()


def test_a_star_beyond_the_domain_ends_flagged_at_its_edge(emulator):
    # The hottest star the emulator makes, its lines weakened further: hotter than the domain.
    hot = mock(emulator, teff=6990.0)
    weak = Spectrum(hot.wavelength, 1.0 - 0.4 * (1.0 - hot.flux), ivar=hot.ivar, medium="air")
    result = fit(weak, resolution=20_000, emulator=emulator, free=["teff", "rv"],
                 fixed={"logg": 4.44, "vmic": 1.2, "fe_h": 0.0, "vsini": 0.0})
    assert result.flags & Flag.EDGE_OF_DOMAIN
    assert result.labels["teff"] == pytest.approx(7000.0, abs=1.0)
    assert "at a limit: teff" in result.summary()


def test_something_that_is_no_star_is_flagged(emulator):
    wavelength = np.arange(5160.0, 5290.0, 0.1)
    flux = 1.0 + 0.3 * np.sin(wavelength / 0.7)
    result = fit(wavelength, flux, ivar=np.full(len(flux), 1e4), medium="air", resolution=20_000,
                 emulator=emulator, **FEW)
    assert result.flags & Flag.POOR_FIT


def test_a_vacuum_white_dwarf_does_not_crash_and_is_not_believed(emulator, spectra_folder):
    result = fit(spectra_folder / "sdss_spec-0266-51602-0031.fits", instrument="sdss",
                 emulator=emulator)
    assert result.flags & (Flag.EDGE_OF_DOMAIN | Flag.UNCONSTRAINED | Flag.POOR_FIT)


@pytest.mark.parametrize("name", ["sun_harps.fits", "procyon_harps.fits"])
def test_real_stars_are_fitted_to_two_per_cent(emulator, spectra_folder, name):
    result = fit(spectra_folder / name, resolution=115_000, emulator=emulator)
    assert result.converged
    assert result.residual_rms < 0.02
    assert abs(result.rv) < 5.0
    # What LTE and these line data give in this window; the README says how far and why.
    teff, logg = {"s": (5772.0, 4.44), "p": (6554.0, 4.0)}[name[0]]
    assert abs(result.labels["teff"] - teff) < 250.0
    assert abs(result.labels["logg"] - logg) < 0.2
    assert abs(result.labels["fe_h"]) < 0.5
    assert result.flags & Flag.MODEL_LIMITED


def test_a_start_with_fixed_velocity_keeps_the_fixed_one(emulator, star):
    first = fit(star, resolution=20_000, emulator=emulator, **FEW)
    again = fit(star, resolution=20_000, emulator=emulator, start=first, free=["teff", "fe_h"],
                fixed={"vmic": 1.2, "logg": 4.44, "rv": 12.0, "vsini": 0.0})
    assert again.rv == 12.0
    assert again.labels["teff"] == pytest.approx(first.labels["teff"], abs=100.0)


def test_resolution_cannot_be_tied(emulator, star):
    with pytest.raises(ValueError, match="resolution cannot be tied"):
        fit(star, resolution=20_000, emulator=emulator, tied={"resolution": "teff"})
