"""Radial velocities are found over the whole range, and nothing odd misleads the search."""

from __future__ import annotations

import numpy as np
import pytest

import stellarfit
from stellarfit.parameters import make_parameters
from stellarfit.search import Pixels, Search
from stellarfit.spectrum import Spectrum
from tests.stellarfit.mocks import arm_of

RESOLUTION = 20_000.0
FREE = ("teff", "logg", "fe_h", "rv")
FIXED = {"vmic": 1.2}
STAR = {"teff": 5600.0, "logg": 4.3, "fe_h": -0.2, "vmic": 1.2}
VELOCITIES = (-300.0, -120.0, 0.0, 45.0, 300.0)


def guess(emulator, spectrum, *, free=(*FREE, "vsini"), fixed=FIXED, resolution=RESOLUTION,
          **kwargs):
    parameters = make_parameters(emulator.labels, emulator.domain, free=free, fixed=fixed,
                                 resolution=resolution)
    ivar = np.where(spectrum.good, spectrum.ivar, 0.0)
    search = Search(emulator, parameters, [arm_of(spectrum.wavelength, resolution)],
                    **{"templates": 8, **kwargs})
    starts = search.modes([Pixels(spectrum.flux, ivar)])[0]
    assert [s.gain for s in starts] == sorted((s.gain for s in starts), reverse=True)
    return starts, parameters


def with_changes(spectrum, *, flux=None, ivar=None, mask=None, keep=slice(None)):
    return Spectrum(spectrum.wavelength[keep], (spectrum.flux if flux is None else flux)[keep],
                    ivar=(spectrum.ivar if ivar is None else ivar)[keep],
                    mask=None if mask is None else mask[keep], medium=spectrum.medium)


@pytest.mark.parametrize("rv", VELOCITIES)
def test_a_fit_recovers_the_velocity_within_a_tenth_of_a_kms(emulator, observe, rv):
    spectrum = observe(emulator, {**STAR, "rv": rv}, resolution=RESOLUTION, snr=50.0, seed=1)
    result = stellarfit.fit(spectrum, resolution=RESOLUTION, emulator=emulator, free=FREE,
                            fixed=FIXED)
    assert result.converged
    assert abs(result.rv - rv) < 0.1
    assert abs(result.rv - rv) < 4 * result.errors["rv"]
    assert result.errors["rv"] < 0.1


@pytest.mark.parametrize("rv", VELOCITIES)
@pytest.mark.parametrize("vsini", [2.0, 60.0])
def test_the_search_alone_comes_within_three_kms(lines, observe, rv, vsini):
    spectrum = observe(lines, {**STAR, "rv": rv, "vsini": vsini}, seed=2)
    starts, parameters = guess(lines, spectrum)
    assert abs(starts[0].rv - rv) < max(3.0, 0.1 * vsini)
    assert starts[0].theta[parameters.names.index("rv")] == starts[0].rv
    assert (starts[0].vsini == 3.0) == (vsini == 2.0)


@pytest.mark.parametrize(("resolution", "per_fwhm"), [(2_000.0, 2.5), (60_000.0, 3.0),
                                                      (7_500.0, 4.0)])
def test_coarse_and_fine_pixels_are_searched_alike(lines, observe, resolution, per_fwhm):
    wavelength = np.exp(np.arange(np.log(5160.0), np.log(5200.0), 1 / (resolution * per_fwhm)))
    spectrum = observe(lines, {**STAR, "rv": -77.0}, resolution=resolution, snr=200.0,
                       wavelength=wavelength)
    starts, _ = guess(lines, spectrum, resolution=resolution)
    assert abs(starts[0].rv + 77.0) < max(3.0, 3e5 / resolution / 10)


def test_the_shipped_emulator_finds_its_own_stars(emulator, observe):
    for star in ({"teff": 4500.0, "logg": 1.8, "fe_h": -1.0, "vmic": 1.8}, STAR):
        spectrum = observe(emulator, {**star, "rv": 120.0}, seed=3, snr=30.0)
        starts, _ = guess(emulator, spectrum)
        assert abs(starts[0].rv - 120.0) < 3.0


def test_masked_pixels_cosmics_and_gaps_are_tolerated(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": 88.0}, seed=4)
    rng = np.random.default_rng(5)
    bad = rng.uniform(size=len(spectrum)) < 0.1
    bad[150:200] = True
    flux = np.where(bad, 1e6 * rng.normal(size=len(bad)), spectrum.flux)
    starts, _ = guess(lines, with_changes(spectrum, flux=flux, mask=bad))
    assert abs(starts[0].rv - 88.0) < 3.0
    gap = (np.arange(len(spectrum)) < 140) | (np.arange(len(spectrum)) > 230)
    starts, _ = guess(lines, with_changes(spectrum, keep=gap))
    assert abs(starts[0].rv - 88.0) < 3.0


@pytest.mark.parametrize("kept", [2, 3])
def test_good_pixels_need_no_good_neighbours(lines, observe, kept):
    spectrum = observe(lines, {**STAR, "rv": 88.0}, seed=4)
    bad = np.arange(len(spectrum)) % kept != 0
    starts, _ = guess(lines, with_changes(spectrum, mask=bad))
    assert abs(starts[0].rv - 88.0) < 3.0


def test_pixels_too_far_apart_are_said_to_be_so(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": 0.0}, seed=4)
    bad = np.arange(len(spectrum)) % 8 != 0
    with pytest.raises(ValueError, match="too far apart"):
        stellarfit.fit(with_changes(spectrum, mask=bad), resolution=RESOLUTION, emulator=lines,
                       free=FREE, fixed=FIXED)


def test_a_few_unmasked_cosmics_do_not_mislead(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": -44.0}, seed=4)
    flux = spectrum.flux.copy()
    flux[[37, 111, 222, 301]] *= 4.0
    starts, _ = guess(lines, with_changes(spectrum, flux=flux))
    assert abs(starts[0].rv + 44.0) < 3.0


def test_a_fixed_velocity_is_respected(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": 30.0})
    starts, parameters = guess(lines, spectrum, free=FREE[:3], fixed={**FIXED, "rv": 30.0})
    assert "rv" not in parameters.names
    assert {s.rv for s in starts} == {30.0}
    result = stellarfit.fit(spectrum, resolution=RESOLUTION, emulator=lines, free=FREE[:3],
                            fixed={**FIXED, "rv": 30.0})
    assert "rv" not in result.names
    assert result.converged
    assert result.reduced_chi2 == pytest.approx(1.0, abs=0.25)


def test_a_fixed_rotation_is_respected(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": 30.0, "vsini": 12.0})
    starts, _ = guess(lines, spectrum, free=FREE, fixed={**FIXED, "vsini": 12.0})
    assert {s.vsini for s in starts} == {12.0}


def test_every_guess_lies_in_the_domain(lines, observe):
    starts, p = guess(lines, observe(lines, {**STAR, "rv": -10.0}), templates=32)
    for start in starts:
        assert (p.G @ start.theta <= p.h + 1e-9 * np.abs(p.h) + 1e-9).all()


def test_the_same_seed_gives_the_same_guesses(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": -10.0})
    one, same, other = (guess(lines, spectrum, seed=s)[0] for s in (1, 1, 2))
    assert all((a.theta == b.theta).all() for a, b in zip(one, same, strict=True))
    assert any((a.theta != b.theta).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("continuum", ["steep", "tiny", "huge"])
def test_slope_and_unit_of_the_flux_do_not_matter(lines, observe, continuum):
    spectrum = observe(lines, {**STAR, "rv": 60.0}, seed=6)
    x = np.linspace(-1, 1, len(spectrum))
    factor = {"steep": np.exp(0.8 * x), "tiny": 1e-17, "huge": 1e9}[continuum] * np.ones(len(x))
    changed = with_changes(spectrum, flux=factor * spectrum.flux, ivar=spectrum.ivar / factor**2)
    starts, _ = guess(lines, changed)
    assert abs(starts[0].rv - 60.0) < 3.0


def test_a_free_resolution_is_fitted(lines, observe):
    spectrum = observe(lines, {**STAR, "rv": 8.0, "resolution": 15_000.0}, snr=200.0,
                       resolution=RESOLUTION)
    result = stellarfit.fit(spectrum, resolution=RESOLUTION, emulator=lines,
                            free=(*FREE, "resolution"), fixed={**FIXED, "vsini": 0.0})
    assert result.converged
    assert result.labels["resolution"] == pytest.approx(15_000.0, rel=0.03)


@pytest.mark.parametrize("n_pix", [2, 3, 10])
def test_a_handful_of_pixels_is_refused_in_one_sentence(lines, n_pix):
    few = Spectrum(5180.0 + 0.1 * np.arange(n_pix), 1.0 + 0.01 * np.sin(np.arange(n_pix)),
                   ivar=np.full(n_pix, 1e4), medium="air")
    with pytest.raises(ValueError, match="usable pixels"):
        stellarfit.fit(few, resolution=RESOLUTION, emulator=lines, free=FREE, fixed=FIXED)
