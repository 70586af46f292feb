"""Samples agree with the posterior, whichever sampler drew them, and say when not to trust them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

import stellarfit
from stellarfit import compare, sample
from stellarfit.posterior.density import Density
from stellarfit.posterior.importance import Importance
from stellarfit.posterior.proposal import Around
from tests.stellarfit.posterior.chains import OPTIONS, draw


@pytest.fixture(scope="module")
def on_a_grid(density):
    """Mean and standard deviation of the posterior by brute force."""
    best, sigma = density.best.values, np.sqrt(np.diag(density.covariance))
    axes = [b + s * np.linspace(-6, 6, 61) for b, s in zip(best, sigma, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log = density(points)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ points
    return mean, np.sqrt(weight @ (points - mean) ** 2)


@pytest.mark.parametrize("sampler", ["emcee", "nuts", "importance"])
def test_every_sampler_has_the_moments_of_a_fine_grid(star, lines, on_a_grid, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    found = draw(star, lines, sampler=sampler, seed=1, max_steps=2500,
                 walkers=12 if sampler == "emcee" else None)
    mean, sigma = on_a_grid
    own = 4.0 / np.sqrt(found.diagnosis.ess)
    assert found.converged, found.verdict
    assert (np.abs(found.samples.mean(0) - mean) < own * sigma).all()
    assert (np.abs(found.samples.std(0) / sigma - 1.0) < own).all()


def test_the_posterior_of_a_good_spectrum_is_that_of_the_fit(posterior) -> None:
    assert posterior.converged
    assert compare(posterior).agree, compare(posterior)


def test_a_short_chain_is_not_called_converged(star, lines) -> None:
    short = draw(star, lines, max_steps=20)
    assert not short.converged
    assert "needed" in short.verdict


def test_a_label_at_its_bound_keeps_its_samples_inside(star, lines) -> None:
    found = draw(star, lines, max_steps=1000, priors={"fe_h": "uniform:-2:-0.4"})
    metals = found.of("fe_h")
    assert metals.max() <= -0.4
    assert metals.max() > -0.41
    assert found.converged, found.verdict


def test_a_parameter_that_the_spectrum_says_nothing_of_fills_its_prior(star, lines) -> None:
    # calcium has no line in these spectra
    found = draw(star, lines, free=["teff", "fe_h", "ca_fe"], max_steps=1500,
                 priors={"ca_fe": "uniform:-0.3:0.3"})
    spread = found.of("ca_fe").std()
    assert spread == pytest.approx(0.6 / np.sqrt(12.0), rel=0.15)


@pytest.mark.parametrize(("options", "message"), [
    ({"walkers": 4, "free": ["teff", "fe_h", "mg_fe"]}, "4 walkers are too few for 3 parameters"),
    ({"sampler": "gibbs"}, "unknown sampler 'gibbs'; valid: emcee, nuts, importance"),
    ({"max_steps": 1}, "max_steps must be a whole number of at least 2"),
    ({"chains": 0}, "chains must be a whole number of at least 1"),
    ({"walkers": 0}, "walkers must be a whole number of at least 4"),
    ({"walkers": 12.5}, "walkers must be a whole number"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"checkpoint": "."}, "is a folder, not a checkpoint"),
    ({"priors": {"teff": "uniform:9000:9500"}}, "leave no point of the emulator's domain"),
    ({"sampler": "importance", "walkers": 8}, "has no walkers"),
    ({"priors": {"teff": "gaussian:9000:1"}, "free": ["fe_h"],
      "fixed": {**OPTIONS["fixed"], "teff": 5300}}, "does not move in this fit"),
])
def test_bad_settings_end_in_a_sentence(star, lines, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        draw(star, lines, **options)


def test_a_posterior_that_is_no_gaussian_is_not_called_one(density) -> None:
    narrow = Density(density.problem, density.best)
    narrow.__dict__["covariance"] = density.covariance * 0.01  # far too sure of itself
    running = Importance(narrow, seed=0)
    running.advance(512, lambda: None)
    found = running.diagnose()
    assert not found.converged
    assert "draws count" in found.verdict


def test_proposals_have_the_density_that_they_claim() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    around = Around(np.array([1.0, -2.0]), covariance, freedom=5)
    points = around.draw(20_000, np.random.RandomState(0))
    np.testing.assert_allclose(np.cov(points.T), covariance * 5.0 / 3.0, rtol=0.1)
    expected = multivariate_t([1.0, -2.0], covariance, df=5).logpdf(points[:50])
    np.testing.assert_allclose(around.log_density(points[:50]), expected, rtol=1e-6)


def test_a_spectrum_that_is_nowhere_finite_is_refused(star, lines, monkeypatch) -> None:
    from stellarfit.posterior import density

    real = density._of_spectra
    monkeypatch.setattr(density, "_of_spectra", lambda *args: real(*args) * torch.nan)
    for sampler in ("emcee", "importance"):
        with pytest.raises(ValueError, match="nowhere finite around the fit"):
            draw(star, lines, sampler=sampler, walkers=None, max_steps=10)


def test_samples_of_the_same_star_come_from_the_package_itself() -> None:
    assert stellarfit.sample is sample
