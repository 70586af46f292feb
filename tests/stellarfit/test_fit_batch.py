"""Stars side by side, what errors mean, and what an abundance is worth."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import stellarfit
from emulators.error_model import ErrorModel
from stellarfit.quality import Flag
from stellarfit.spectrum import Spectrum

FIXED = {"vmic": 1.2, "vsini": 0.0}
FREE = ["teff", "logg", "fe_h", "rv"]
STARS = [{"teff": 5600.0, "logg": 4.3, "fe_h": -0.2, "rv": 10.0},
         {"teff": 4800.0, "logg": 2.5, "fe_h": -0.6, "rv": -120.0},
         {"teff": 6300.0, "logg": 4.0, "fe_h": 0.1, "rv": 45.0}]
OPTIONS = {"resolution": 20_000, "free": FREE, "fixed": FIXED}


@pytest.fixture(scope="module")
def stars(lines, observe):
    spectra = []
    for seed, star in enumerate(STARS):
        seen = observe(lines, {**star, "vmic": 1.2}, snr=80.0, seed=seed)
        mask = np.random.default_rng(seed).uniform(size=len(seen)) < 0.05
        spectra.append(Spectrum(seen.wavelength, seen.flux, ivar=seen.ivar, mask=mask,
                                medium="air", name=f"star {seed}"))
    return spectra


@pytest.fixture(scope="module")
def together(stars, lines):
    return stellarfit.fit_batch(stars, emulator=lines, **OPTIONS)


def test_stars_in_a_batch_end_where_each_ends_alone(stars, together, lines) -> None:
    assert [r.name for r in together] == ["star 0", "star 1", "star 2"]
    for spectrum, result, truth in zip(stars, together, STARS, strict=True):
        alone = stellarfit.fit(spectrum, emulator=lines, **OPTIONS)
        for name in FREE:
            assert result.labels[name] == pytest.approx(alone.labels[name],
                                                        abs=0.05 * alone.errors[name])
            assert result.errors[name] == pytest.approx(alone.errors[name], rel=0.02)
            assert abs(result.labels[name] - truth[name]) < 4 * result.errors[name]
        assert result.flags == alone.flags


def test_a_batch_of_weighted_fits_is_that_of_each_too(stars, lines) -> None:
    how = {"jitter": True, "robust": True, "priors": {"logg": "gaussian:4.0:0.5"}}
    for spectrum, result in zip(stars, stellarfit.fit_batch(stars, emulator=lines, **OPTIONS,
                                                            **how), strict=True):
        alone = stellarfit.fit(spectrum, emulator=lines, **OPTIONS, **how)
        assert result.labels["teff"] == pytest.approx(alone.labels["teff"],
                                                      abs=0.1 * alone.errors["teff"])


def test_the_stars_of_a_large_batch_end_where_each_ends_alone(lines, observe) -> None:
    rng = np.random.default_rng(5)
    truths = [{"teff": rng.uniform(4600, 6400), "logg": rng.uniform(3.2, 4.6), "vmic": 1.2,
               "fe_h": rng.uniform(-0.8, 0.2), "rv": rng.uniform(-50, 50)} for _ in range(40)]
    own = copy.copy(lines)
    sample = rng.uniform(lines.labels.low, lines.labels.high, (60, 6))
    own.errors = ErrorModel(torch.as_tensor(0.003 * rng.standard_normal((60, len(lines.pixels))),
                                            dtype=torch.float32), torch.as_tensor(sample))
    spectra = [observe(lines, t, snr=80.0, seed=k) for k, t in enumerate(truths)]
    many = stellarfit.fit_batch(spectra, emulator=own, **OPTIONS)
    assert sum(r.converged for r in many) >= 39
    for k in (0, 17, 31, 32, 39):
        alone = stellarfit.fit(spectra[k], emulator=own, **OPTIONS)
        for name in FREE:
            assert many[k].labels[name] == pytest.approx(alone.labels[name],
                                                         abs=0.1 * alone.errors[name])


def test_an_empty_batch_is_no_error_and_other_pixels_are_one(stars, lines) -> None:
    assert stellarfit.fit_batch([], emulator=lines, **OPTIONS) == []
    moved = Spectrum(stars[0].wavelength * 1.0001, stars[0].flux, ivar=stars[0].ivar,
                     medium="air", name="moved")
    with pytest.raises(ValueError, match="'moved', has other pixels than the first"):
        stellarfit.fit_batch([stars[0], moved], emulator=lines, **OPTIONS)


def test_errors_of_the_continuum_are_its_scatter(lines, observe) -> None:
    star = {**STARS[0], "vmic": 1.2}
    spectra = [observe(lines, star, snr=60.0, seed=s) for s in range(60)]
    results = stellarfit.fit_batch(spectra, emulator=lines, **OPTIONS)
    n = len(FREE)
    coefficients = np.array([r.coefficients for r in results])
    sigma = np.sqrt(np.diag(results[0].full_covariance))[n:]
    # A correlation between stellar parameters and continuum shows: without it they'd be smaller.
    np.testing.assert_allclose(coefficients.std(axis=0) / sigma, 1.0, atol=0.35)
    np.testing.assert_allclose(results[0].full_covariance[:n, :n], results[0].covariance)
    joint = np.array([np.append(r.values, r.coefficients) for r in results])
    off = joint - joint.mean(axis=0)
    distance = np.einsum("si,ij,sj->s", off, np.linalg.inv(results[0].full_covariance), off)
    assert distance.mean() == pytest.approx(joint.shape[1], rel=0.25)


def test_conditional_errors_are_below_marginal_ones(together) -> None:
    for result in together:
        marginal = np.sqrt(np.diag(result.covariance))
        assert (result.conditional_errors <= marginal * (1 + 1e-9)).all()
        assert result.conditional_errors[0] < 0.7 * marginal[0]


def test_errors_are_scaled_to_chi_square_only_when_asked(together) -> None:
    poor = replace(together[0], chi2=4.0 * together[0].dof)
    scaled = poor.scaled_to_chi2()
    assert poor.errors["teff"] == together[0].errors["teff"]
    assert scaled.errors["teff"] == pytest.approx(2.0 * poor.errors["teff"])
    assert scaled.errors["fe_h"] == pytest.approx(2.0 * poor.errors["fe_h"])
    assert scaled.provenance["errors_scaled_by"] == pytest.approx(2.0)
    good = replace(together[0], chi2=0.5 * together[0].dof)
    assert good.scaled_to_chi2().errors["teff"] == good.errors["teff"]


def verdict(lines, observe, snr, fe_h, free):
    star = {"teff": 5800.0, "logg": 4.3, "vmic": 1.2, "fe_h": fe_h, "rv": 0.0}
    spectrum = observe(lines, star, snr=snr, seed=2)
    return stellarfit.fit(spectrum, emulator=lines, resolution=20_000, free=[*FREE, *free],
                          fixed=FIXED)


def test_an_element_with_lines_is_measured_and_one_without_is_not(lines, observe) -> None:
    result = verdict(lines, observe, 100.0, 0.0, ["mg_fe", "ca_fe"])
    assert result.verdicts == {"mg_fe": "measured", "ca_fe": "no information"}
    assert result.flags & Flag.NO_INFORMATION
    assert not result.flags & Flag.UPPER_LIMIT
    assert "no information: ca_fe" in result.summary()
    assert result.to_table()["ca_fe_verdict"][0] == "no information"


def test_a_line_that_may_as_well_be_absent_is_an_upper_limit(lines, observe) -> None:
    kinds = {verdict(lines, observe, snr, -1.0, ["mg_fe"]).verdicts["mg_fe"]
             for snr in (6.0, 8.0, 10.0)}
    assert "upper limit" in kinds
    assert "measured" not in kinds
