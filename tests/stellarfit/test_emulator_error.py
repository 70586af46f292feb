"""The emulator's own error in the noise: broadened as a flux is, and honest about the fit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

import stellarfit
from emulators import Emulator
from emulators.error_model import ErrorModel
from stellarfit.parameters import make_parameters
from stellarfit.spectrum import Spectrum
from stellarfit.weighting import emulator_noise, width_of
from tests.stellarfit.mocks import model_of

STAR = {"teff": 5500.0, "logg": 4.0, "vmic": 1.2, "fe_h": -0.3, "rv": 10.0}
FREE = ["teff", "logg", "fe_h", "rv"]
FIXED = {"vmic": 1.2, "vsini": 0.0}


def with_errors(emulator: Emulator, errors: np.ndarray) -> Emulator:
    """A copy of an emulator whose error on 80 stars near the mock star is `errors`."""
    own = copy.copy(emulator)
    labels = emulator.labels.vector({n: v for n, v in STAR.items() if n != "rv"})
    own.errors = ErrorModel(torch.as_tensor(errors, dtype=torch.float32),
                            torch.as_tensor(np.tile(labels, (len(errors), 1))))
    return own


def error_at(emulator: Emulator, resolution: float) -> np.ndarray:
    parameters = make_parameters(emulator.labels, emulator.domain, free=FREE, fixed=FIXED,
                                 resolution=resolution)
    wavelength = np.linspace(5165.0, 5195.0, 400)
    model = model_of(emulator, parameters, wavelength, resolution=resolution)
    theta = torch.tensor([STAR[n] for n in parameters.names], dtype=torch.float64)
    return np.sqrt(emulator_noise(model, theta.numpy()).square.numpy())


def test_an_error_common_to_all_pixels_survives_the_instrument(lines: Emulator) -> None:
    sign = np.where(np.arange(80) % 2, 1.0, -1.0)[:, None]
    errors = 0.01 * sign * np.ones((80, len(lines.pixels)))
    np.testing.assert_allclose(error_at(with_errors(lines, errors), 5_000.0), 0.01, rtol=1e-4)


def test_independent_errors_average_out_as_noise_does(lines: Emulator) -> None:
    rng = np.random.default_rng(0)
    errors = 0.01 * rng.standard_normal((80, len(lines.pixels)))
    model = with_errors(lines, errors)
    for resolution in (5_000.0, 20_000.0):
        sigma = 1.0 / resolution / np.sqrt(8 * np.log(2)) / lines.log_step  # in pixels
        # white noise through a Gaussian of this width, which is wide against a pixel
        expected = 0.01 / np.sqrt(2.0 * np.sqrt(np.pi) * sigma)
        assert np.sqrt(np.mean(error_at(model, resolution) ** 2)) == pytest.approx(
            expected, rel=0.1)


def test_a_result_says_whether_its_errors_hold_the_emulators(lines: Emulator, observe) -> None:
    star = observe(lines, STAR)
    known = with_errors(lines, 1e-3 * np.ones((80, len(lines.pixels))))
    for emulator, options, told in ((lines, {}, True), (known, {}, False),
                                    (known, {"emulator_error": False}, False)):
        result = stellarfit.fit(star, resolution=20_000, emulator=emulator, free=FREE,
                                fixed=FIXED, **options)
        assert ("own error is not known" in result.summary()) == told


def test_without_a_sample_there_is_no_error(lines: Emulator) -> None:
    parameters = make_parameters(lines.labels, lines.domain, free=FREE, fixed=FIXED,
                                 resolution=20_000.0)
    model = model_of(lines, parameters, np.linspace(5165.0, 5195.0, 50), resolution=20_000.0)
    assert emulator_noise(model, np.array([STAR[n] for n in parameters.names])) is None


def test_errors_hang_together_over_what_smooths_them() -> None:
    rng = np.random.default_rng(5)
    white = rng.standard_normal((80, 3000))
    assert width_of(torch.as_tensor(white)) == pytest.approx(1.0, abs=0.1)
    sigma = 3.0
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    smooth = np.array([np.convolve(row, kernel, "same") for row in white])
    expected = 2.0 * np.sqrt(np.pi) * sigma    # the sum of a Gaussian's autocorrelation
    assert width_of(torch.as_tensor(smooth)) == pytest.approx(expected, rel=0.15)
    # what all pixels share does not count, however large, nor do pixels without error
    shared = smooth + 10.0 * rng.standard_normal((80, 1))
    assert width_of(torch.as_tensor(shared)) == pytest.approx(expected, rel=0.3)
    assert width_of(torch.ones(3, 50, dtype=torch.float64)) == 1.0
    assert width_of(torch.zeros(3, 50, dtype=torch.float64)) == 1.0


@pytest.fixture(scope="module")
def stars(lines: Emulator, observe: Callable[..., Spectrum]) -> tuple[list[Spectrum], Emulator]:
    """Sixteen stars from a "synthesis" that differs from the emulator by known errors."""
    rng = np.random.default_rng(3)
    errors = 0.02 * rng.standard_normal((80, len(lines.pixels)))
    spectra = []
    for seed in range(16):
        # a pixel per FWHM: the broadened errors of neighbouring pixels hang together little
        wavelength = 5161.0 * np.exp(np.arange(0.0, 0.0073, 1.0 / 20_000.0))
        star = observe(lines, STAR, wavelength=wavelength, resolution=20_000.0, snr=500.0,
                       seed=seed)
        log = np.log(star.wavelength) - 10.0 / 299_792.458
        wrong = np.convolve(0.02 * rng.standard_normal(len(lines.pixels)), _kernel(lines), "same")
        off = np.interp(log, np.log(lines.pixels), wrong)
        spectra.append(Spectrum(star.wavelength, star.flux * (1.0 + off), ivar=star.ivar,
                                medium=star.medium, name="mock"))
    return spectra, with_errors(lines, errors)


def _kernel(lines: Emulator) -> np.ndarray:
    sigma = 1.0 / 20_000.0 / np.sqrt(8 * np.log(2)) / lines.log_step
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    kernel = np.convolve(kernel, np.ones(5))  # and the observed pixel, of five of the emulator's
    return kernel / kernel.sum()


def test_errors_are_honest_only_with_the_emulators_own(
    stars: tuple[list[Spectrum], Emulator]
) -> None:
    spectra, emulator = stars
    pulls = {True: [], False: []}
    for star in spectra:
        for own in (True, False):
            result = stellarfit.fit(star, resolution=20_000.0, emulator=emulator, free=FREE,
                                    fixed=FIXED, emulator_error=own, jitter=False,
                                    robust=False)
            pulls[own] += [(result.labels[n] - STAR[n]) / result.errors[n]
                           for n in ("teff", "logg", "fe_h")]
    assert np.std(pulls[False]) > 2.0
    assert 0.7 < np.std(pulls[True]) < 1.4


def test_the_fit_says_how_large_the_emulators_error_is(
    stars: tuple[list[Spectrum], Emulator]
) -> None:
    spectra, emulator = stars
    options = {"resolution": 20_000.0, "emulator": emulator, "free": FREE, "fixed": FIXED,
               "jitter": False, "robust": False}
    with_it = stellarfit.fit(spectra[0], **options)
    without = stellarfit.fit(spectra[0], emulator_error=False, **options)
    assert 0.002 < with_it.provenance["emulator_error"] < 0.02
    assert "emulator_error" not in without.provenance
    assert with_it.reduced_chi2 < 0.5 * without.reduced_chi2
    assert np.array_equal(with_it.spectrum.ivar, without.spectrum.ivar)
