"""What the door of Spectrum puts right, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table

from emulators.air import air_to_vacuum
from stellarfit.pixels import estimate_noise
from stellarfit.spectrum import Spectrum, from_specutils

N = 60
WAVELENGTH = np.linspace(5000.0, 5005.9, N)
FLUX = 1.0 + 0.1 * np.sin(np.arange(N))
IVAR = np.linspace(1e4, 2e4, N)


def make(wavelength=WAVELENGTH, flux=FLUX, **kwargs):
    if "uncertainty" not in kwargs:
        kwargs.setdefault("ivar", IVAR)
    return Spectrum(wavelength, flux, **{"medium": "air", **kwargs})


def noisy(n=4000, sigma=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return np.linspace(5000, 6000, n), 1 + sigma * rng.standard_normal(n)


def refusal(*args, **kwargs):
    """The sentence with which a spectrum is refused: one line, and no more."""
    with pytest.raises(ValueError) as caught:
        make(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_descending_wavelengths_are_reversed_with_their_flux_ivar_and_mask():
    mask = np.arange(N) % 7 == 0
    up = make(mask=mask)
    down = make(WAVELENGTH[::-1], FLUX[::-1], ivar=IVAR[::-1], mask=mask[::-1])
    for field in ("wavelength", "flux", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(down, field), getattr(up, field))


def test_unsorted_wavelengths_are_sorted_with_all_the_rest():
    order = np.random.default_rng(1).permutation(N)
    spectrum = make(WAVELENGTH[order], FLUX[order], ivar=IVAR[order])
    np.testing.assert_array_equal(spectrum.wavelength, WAVELENGTH)
    np.testing.assert_array_equal(spectrum.flux, FLUX)
    np.testing.assert_array_equal(spectrum.ivar, IVAR)


def test_duplicate_wavelengths_are_counted_and_refused():
    wavelength = WAVELENGTH.copy()
    wavelength[[4, 9]] = wavelength[[3, 8]]
    sentence = refusal(wavelength)
    assert "2 wavelengths are given more than once" in sentence
    assert "average" in sentence


def test_the_arrays_of_the_caller_are_neither_changed_nor_shared():
    wavelength, flux, ivar = WAVELENGTH.copy(), FLUX.copy(), IVAR.copy()
    flux[3] = np.nan
    spectrum = make(wavelength, flux, ivar=ivar)
    assert np.isnan(flux[3])
    wavelength[:], flux[:], ivar[:] = 0, 0, 0
    assert spectrum.wavelength[0] == 5000
    assert spectrum.flux[0] == 1
    assert spectrum.ivar[0] == 1e4


def test_the_medium_must_be_given():
    assert "medium='air' or medium='vacuum'" in refusal(medium=None)
    assert "'Luft'" in refusal(medium="Luft")


def test_non_finite_fluxes_are_masked_zeroed_and_counted():
    flux = FLUX.copy()
    flux[[2, 5]] = np.nan, np.inf
    spectrum = make(flux=flux)
    assert spectrum.counts["n_nan"] == 2
    assert spectrum.mask[[2, 5]].all()
    assert spectrum.mask.sum() == 2
    assert (spectrum.flux[[2, 5]] == 0).all()
    assert (spectrum.ivar[[2, 5]] == 0).all()


def test_ivar_that_is_not_a_positive_number_is_masked_and_counted():
    ivar = IVAR.copy()
    ivar[:4] = 0, -1, np.nan, np.inf
    spectrum = make(ivar=ivar)
    assert spectrum.counts["n_zero_ivar"] == 4
    assert spectrum.mask[:4].all()
    assert (spectrum.ivar[:4] == 0).all()
    assert spectrum.good.sum() == N - 4


def test_uncertainties_become_ivar_and_bad_ones_are_masked():
    sigma = np.full(N, 0.02)
    sigma[:4] = 0, -1, np.nan, np.inf
    spectrum = make(uncertainty=sigma)
    np.testing.assert_allclose(spectrum.ivar[4:], 2500.0)
    assert spectrum.counts["n_zero_ivar"] == 4
    assert not spectrum.good[:4].any()


def test_ivar_and_uncertainty_together_are_refused():
    assert "both" in refusal(ivar=IVAR, uncertainty=IVAR)


def test_a_given_mask_is_kept_and_counted_apart():
    mask = np.zeros(N, dtype=int)
    mask[:5] = 4  # any bit is bad
    spectrum = make(mask=mask)
    assert spectrum.counts == {"n_nan": 0, "n_zero_ivar": 0, "n_gap": 0, "n_masked": 5}
    assert spectrum.ivar[0] == IVAR[0]
    assert not spectrum.good[0]


def test_flux_that_is_all_nan_is_refused():
    assert "all 60 fluxes are NaN" in refusal(flux=np.full(N, np.nan))


def test_ivar_that_is_all_zero_is_refused():
    assert "none of the 60 pixels has a positive ivar" in refusal(ivar=np.zeros(N))


def test_a_spectrum_with_every_pixel_masked_is_refused():
    assert "all 60 pixels are masked" in refusal(mask=np.ones(N, dtype=bool))


@pytest.mark.parametrize("factor", [0.1, 1e-4])
def test_wavelengths_in_nm_or_micron_without_a_unit_are_refused(factor):
    sentence = refusal(WAVELENGTH * factor)
    assert "look like nm (or µm" in sentence
    assert "Quantity" in sentence


def test_the_k_band_in_nm_and_log_wavelengths_are_refused_too():
    assert "nm" in refusal(np.linspace(1950, 2480, N))
    assert "log10 Å" in refusal(np.log10(WAVELENGTH))


@pytest.mark.parametrize("unit", [u.nm, u.um, u.m, u.AA])
def test_quantities_are_converted_to_angstrom(unit):
    spectrum = make((WAVELENGTH * u.AA).to(unit))
    np.testing.assert_allclose(spectrum.wavelength, WAVELENGTH, rtol=1e-14)


def test_a_wavelength_that_is_no_length_is_refused():
    assert "in K, which is not Angstrom" in refusal(WAVELENGTH * u.K)


def test_flux_and_its_uncertainty_may_have_different_units():
    jansky = FLUX * u.Jy
    by_sigma = make(flux=jansky, uncertainty=np.full(N, 20.0) * u.mJy)
    by_ivar = make(flux=jansky, ivar=np.full(N, 2500e-6) * u.mJy**-2)
    np.testing.assert_allclose(by_sigma.ivar, 2500.0)
    np.testing.assert_allclose(by_ivar.ivar, 2500.0)
    np.testing.assert_array_equal(by_sigma.flux, FLUX)
    assert by_sigma.meta["flux_unit"] == "Jy"


def test_masked_arrays_and_table_columns_are_taken_with_their_masks_and_units():
    flux = np.ma.masked_array(FLUX, mask=np.arange(N) == 3)
    table = Table({"w": WAVELENGTH / 10, "f": flux})
    table["w"].unit = "nm"
    spectrum = make(table["w"], table["f"])
    np.testing.assert_allclose(spectrum.wavelength, WAVELENGTH)
    assert spectrum.counts["n_nan"] == 1
    assert spectrum.mask[3]


def test_arrays_of_different_length_are_refused_with_their_shapes():
    assert "wavelength (60,), flux (59,)" in refusal(flux=FLUX[1:])
    assert "mask (3,)" in refusal(mask=[True, False, False])
    assert "one-dimensional" in refusal(
        WAVELENGTH.reshape(2, -1), FLUX.reshape(2, -1), ivar=IVAR.reshape(2, -1)
    )


def test_fewer_than_two_pixels_are_refused():
    assert "1 pixels" in refusal([5000.0], [1.0], ivar=[1.0])
    assert "0 pixels" in refusal([], [], ivar=[])


def test_wavelengths_that_are_not_finite_or_not_positive_are_refused():
    wavelength = WAVELENGTH.copy()
    wavelength[7] = np.nan
    assert "1 of 60 wavelengths are not finite" in refusal(wavelength)
    wavelength[7] = -5000
    assert "must be positive" in refusal(wavelength)


def test_what_is_not_a_number_is_refused():
    assert "flux is not an array of numbers" in refusal(flux=["a"] * N)
    assert "wavelength is not an array of numbers" in refusal("star.fits")


def test_white_noise_is_estimated_to_ten_percent_in_every_block():
    wavelength, flux = noisy()
    spectrum = Spectrum(wavelength, flux, medium="air")
    assert spectrum.noise_estimated
    assert spectrum.meta["noise"] == "estimated"
    np.testing.assert_allclose(np.median(spectrum.ivar**-0.5), 0.01, rtol=0.05)
    np.testing.assert_allclose(spectrum.ivar**-0.5, 0.01, rtol=0.3)


def test_noise_that_grows_along_the_spectrum_is_followed():
    rng = np.random.default_rng(3)
    sigma = np.linspace(0.01, 0.03, 6000)
    estimate = estimate_noise(1 + sigma * rng.standard_normal(6000), np.zeros(6000, dtype=bool))
    np.testing.assert_allclose(estimate[:300].mean(), 0.011, rtol=0.15)
    np.testing.assert_allclose(estimate[-300:].mean(), 0.029, rtol=0.15)


def test_broad_lines_cosmics_and_masked_pixels_leave_the_noise_estimate_alone():
    wavelength, flux = noisy()
    flux -= 0.6 * np.exp(-0.5 * ((wavelength - 5400) / 5) ** 2)
    flux[::50] += 100
    mask = np.zeros(len(flux), dtype=bool)
    mask[1000:1900] = True
    flux[mask] *= 1e6
    spectrum = Spectrum(wavelength, flux, mask=mask, medium="air")
    np.testing.assert_allclose(np.median(spectrum.ivar[~mask] ** -0.5), 0.01, rtol=0.1)


def test_given_noise_is_not_called_estimated():
    assert not make().noise_estimated


def test_runs_of_zeros_are_gaps_when_no_errors_say_otherwise():
    wavelength, flux = noisy()
    flux[1000:1100] = 0
    flux[50] = 0  # alone it is a value
    gap = Spectrum(wavelength, flux, medium="air")
    assert gap.counts["n_gap"] == 110  # five more on either side
    assert gap.mask[995:1105].all()
    assert gap.mask.sum() == 110
    believed = Spectrum(wavelength, flux, ivar=np.ones(len(flux)), medium="air")
    assert believed.counts["n_gap"] == 0
    assert believed.good.all()


def test_zeros_throughout_are_refused():
    wavelength, flux = noisy()
    with pytest.raises(ValueError, match="all 4000 fluxes are zero"):
        Spectrum(wavelength, 0 * flux, medium="air")


def test_noise_that_cannot_be_estimated_is_asked_for():
    assert "too few to estimate the noise" in refusal(WAVELENGTH[:9], FLUX[:9], ivar=None)
    assert "no scatter" in refusal(flux=np.ones(N), ivar=None)


def test_snr_is_the_median_over_good_pixels():
    flux = FLUX.copy()
    flux[:20] = np.nan
    spectrum = make(flux=flux, ivar=np.full(N, 1e4))
    assert spectrum.snr == pytest.approx(100 * np.median(FLUX[20:]))


def test_to_medium_converts_and_comes_back():
    spectrum = make(name="star")
    vacuum = spectrum.to_medium("vacuum")
    assert vacuum.medium == "vacuum"
    assert vacuum.name == "star"
    np.testing.assert_array_equal(vacuum.wavelength, air_to_vacuum(WAVELENGTH))
    np.testing.assert_allclose(vacuum.to_medium("air").wavelength, WAVELENGTH, rtol=1e-14)
    assert spectrum.to_medium("air") is spectrum
    with pytest.raises(ValueError, match="water"):
        spectrum.to_medium("water")


def test_a_cut_keeps_its_pixels_noise_and_history():
    wavelength, flux = noisy()
    flux[3] = np.nan
    spectrum = Spectrum(wavelength, flux, medium="air", name="star")
    part = spectrum.cut(5200, 5300)
    inside = (wavelength >= 5200) & (wavelength <= 5300)
    np.testing.assert_array_equal(part.flux, flux[inside])
    np.testing.assert_array_equal(part.ivar, spectrum.ivar[inside])
    assert part.noise_estimated
    assert part.counts["n_nan"] == 1
    assert part.name == "star"


def test_a_cut_that_leaves_nothing_names_both_ranges():
    with pytest.raises(ValueError, match=r"run 5000-5005\.9 Å, but 6000-6100 Å .*nothing is left"):
        make().cut(6000, 6100)
    with pytest.raises(ValueError, match="all 11 pixels in 5000-5001 Å are masked"):
        make(mask=WAVELENGTH < 5002).cut(5000, 5001)


def test_a_spectrum_is_frozen_but_can_be_replaced():
    spectrum = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectrum.flux = FLUX
    halved = dataclasses.replace(spectrum, flux=spectrum.flux / 2)
    np.testing.assert_array_equal(halved.flux, FLUX / 2)
    wavelength, flux = noisy()
    estimated = Spectrum(wavelength, flux, medium="air")
    assert dataclasses.replace(estimated, name="x").noise_estimated


def test_the_repr_says_what_it_is():
    mask = np.arange(N) < 3
    text = repr(make(name="Sun", mask=mask))
    assert text.startswith("Spectrum('Sun', 5000.00-5005.90 Å air, 60 pixels, 3 masked, S/N ")
    wavelength, flux = noisy()
    assert "(estimated)" in repr(Spectrum(wavelength, flux, medium="vacuum"))


def test_a_specutils_spectrum_is_taken_with_its_uncertainty_and_mask() -> None:
    specutils = pytest.importorskip("specutils")
    from astropy import units
    from astropy.nddata import InverseVariance

    from stellarfit.observation import as_spectrum

    theirs = specutils.Spectrum(
        spectral_axis=np.linspace(515.0, 530.0, 50) * units.nm, flux=np.ones(50) * units.Jy,
        uncertainty=InverseVariance(np.full(50, 400.0) / units.Jy**2),
        mask=np.arange(50) == 7,
    )
    ours = as_spectrum(theirs, medium="vacuum")
    np.testing.assert_allclose(ours.wavelength[[0, -1]], [5150.0, 5300.0])
    np.testing.assert_allclose(ours.ivar[ours.good], 400.0)
    assert ours.mask.tolist() == (np.arange(50) == 7).tolist()
    with pytest.raises(ValueError, match=r"medium"):
        as_spectrum(theirs)


def test_a_spectrum_goes_to_specutils_and_back() -> None:
    pytest.importorskip("specutils")
    mask = np.array([False, True, False, False])
    ours = Spectrum([5000.0, 5001.0, 5002.0, 5003.0], [1.0, 2.0, 3.0, 4.0], ivar=[4, 4, 9, 9],
                    mask=mask, medium="vacuum", name="star", meta={"flux_unit": "Jy"})
    theirs = ours.to_specutils()
    assert theirs.meta["medium"] == "vacuum"
    again = from_specutils(theirs, medium="vacuum")
    for name in ("wavelength", "flux", "mask"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ours, name))
    np.testing.assert_allclose(again.ivar, ours.ivar)
    assert again.meta["flux_unit"] == "Jy"


def test_what_has_wavelength_flux_and_flux_err_is_taken_as_lightkurve_names_them() -> None:
    from types import SimpleNamespace

    from astropy import units

    from stellarfit.observation import as_spectrum

    theirs = SimpleNamespace(
        wavelength=np.linspace(515.0, 530.0, 50) * units.nm, flux=np.ones(50) * units.mJy,
        flux_err=np.full(50, 5e-5) * units.Jy)
    ours = as_spectrum(theirs, medium="vacuum")
    np.testing.assert_allclose(ours.wavelength[[0, -1]], [5150.0, 5300.0])
    np.testing.assert_allclose(ours.ivar, 400.0)
    with pytest.raises(ValueError, match="medium"):
        as_spectrum(theirs)
    assert as_spectrum(theirs, medium="air", ivar=np.full(50, 9.0)).snr == pytest.approx(3.0)
