"""Sampling: the posterior agrees with the fit, and says when it cannot be trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import emulators
from stellarfit import Spectrum, sample
from stellarfit.parameters import make_parameters
from stellarfit.problem import prepare
from stellarfit.sampling import log_posterior
from tests.stellarfit.mocks import model_of

OPTIONS = {"resolution": 20_000, "free": ["teff", "fe_h"],
           "fixed": {"logg": 4.5, "vmic": 1.0, "rv": 0.0, "vsini": 0.0}}


@pytest.fixture(scope="module")
def star():
    emulator = emulators.load("mgb-fgk")
    wavelength = np.arange(5191.0, 5199.0, 0.15)
    parameters = make_parameters(emulator.labels, emulator.domain, resolution=20_000,
                                 **{k: OPTIONS[k] for k in ("free", "fixed")})
    model = model_of(emulator, parameters, wavelength, resolution=20_000)
    with torch.no_grad():
        flux = model(torch.tensor([[5300.0, -0.4]], dtype=torch.float64))[0].double().numpy()
    noise = np.random.default_rng(0).standard_normal(len(flux)) / 100
    return Spectrum(wavelength, flux + noise, ivar=np.full(len(flux), 1e4), medium="air")


@pytest.fixture(scope="module")
def posterior(star):
    return sample(star, max_steps=400, walkers=16, seed=3, progress=False, **OPTIONS)


def test_the_posterior_agrees_with_the_fit(posterior):
    fitted = posterior.fit
    sigma = np.sqrt(np.diag(fitted.covariance))
    assert (np.abs(posterior.samples.mean(0) - fitted.values) < 0.5 * sigma).all()
    np.testing.assert_allclose(posterior.samples.std(0), sigma, rtol=0.3)


def test_the_posterior_reports_acceptance_tau_and_a_verdict(posterior):
    assert 0.1 < posterior.acceptance < 0.9
    assert np.isfinite(posterior.tau).all()
    assert "autocorrelation times" in posterior.verdict
    assert posterior.converged == (len(posterior.chain) >= 50 * posterior.tau.max())
    assert "median" in posterior.summary()


def test_a_short_chain_is_not_called_converged(star):
    short = sample(star, max_steps=20, walkers=8, progress=False, **OPTIONS)
    assert not short.converged
    assert "needed" in short.verdict


def test_same_seed_gives_the_same_chain(star):
    chains = [sample(star, max_steps=10, walkers=8, seed=5, progress=False, **OPTIONS).chain
              for _ in range(2)]
    np.testing.assert_array_equal(chains[0], chains[1])


def test_nothing_outside_the_domain_has_a_probability(star):
    problem = prepare([star], **OPTIONS)[0]
    value = log_posterior(problem, np.array([[5300.0, -0.4], [7500.0, -0.4], [5300.0, 0.7]]))
    assert np.isfinite(value[0])
    assert np.isneginf(value[1:]).all()


def test_samples_stay_in_the_domain(posterior):
    labels = posterior.samples @ np.array([[1.0, 0.0], [0.0, 1.0]])
    assert (labels[:, 0] >= 4000).all()
    assert (labels[:, 0] <= 7000).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"sampler": "gibbs"}, "unknown sampler 'gibbs'; valid: emcee"),
    ({"walkers": 3}, "3 walkers are too few for 2 parameters"),
    ({"max_steps": 0}, "max_steps must be at least 2"),
])
def test_bad_settings_end_in_a_sentence(star, options, message):
    with pytest.raises(ValueError, match=message):
        sample(star, progress=False, **{**OPTIONS, **options})


def test_samples_are_written_with_units(posterior, tmp_path):
    from astropy.table import Table

    table = Table.read(posterior.save(tmp_path / "samples.ecsv"))
    assert str(table["teff"].unit) == "K"
    assert len(table) == len(posterior.samples)
