"""A jitter that is sampled with the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit import Spectrum
from stellarfit.posterior.density import Density
from tests.stellarfit.posterior.chains import STAR, draw


def noisier(lines, observe, jitter):
    """A star whose errors leave out a jitter."""
    seen = observe(lines, STAR, snr=100.0, seed=5)
    extra = np.random.default_rng(6).standard_normal(len(seen)) * jitter * 1200.0
    return Spectrum(seen.wavelength, seen.flux + extra, ivar=seen.ivar, medium=seen.medium)


@pytest.mark.parametrize(
    "sampler", ["emcee", pytest.param("nuts", marks=pytest.mark.slow), "importance"])
def test_a_free_jitter_is_sampled_with_the_labels(lines, observe, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    found = draw(noisier(lines, observe, 0.03), lines, free=["teff", "fe_h", "jitter"],
                 sampler=sampler, walkers=12 if sampler == "emcee" else None, max_steps=300,
                 robust=False)
    low, median, high = found.interval("jitter")
    # its error, for n pixels whose noise is s: (s / j) s / sqrt(2 n)
    expected = (0.03**2 + 0.01**2) / 0.03 / np.sqrt(2.0 * len(found.fit.used))
    assert abs(median - 0.03) < 4.0 * expected
    assert 0.5 * (high - low) == pytest.approx(expected, rel=0.25)
    assert found.names == ("teff", "fe_h", "jitter")
    assert "jitter" in found.summary()
    assert found.to_table()["jitter"].unit is None


def test_the_density_with_a_jitter_is_that_of_the_noise_it_makes(density) -> None:
    """Against a determinant and an inverse of the covariance, without and with modes."""
    from dataclasses import replace

    from stellarfit.posterior.jitter import Jitter

    problem, best = density.problem, density.best
    waves = np.random.default_rng(0).standard_normal((len(best.continuum), 3))
    U = torch.as_tensor(0.02 * waves * best.continuum[:, None])
    for noise in (problem.data.noise, problem.data.noise.with_modes([U])):
        loud = replace(problem, data=replace(problem.data, noise=noise))
        jittered = Density(loud, best, jitter=Jitter(loud, best))
        used = loud.used[0]
        values = []
        for jitter in (0.005, 0.02, 0.05):
            variance = loud.data.noise.weight[0].numpy()[used] ** -2 + (
                jitter**2 - best.provenance["jitter"] ** 2) * best.continuum[used] ** 2
            C = np.diag(variance) + (U.numpy()[used] @ U.numpy()[used].T if noise.modes else 0.0)
            model = loud.solve(best.values[None])[0][0]
            S = (model[:, None] * loud.data.terms.numpy())[used]
            r = (problem.stars[0].flux - loud.data.level.numpy() * model)[used]
            inverse = np.linalg.inv(C)
            gram = S.T @ inverse @ S
            rest = r - S @ np.linalg.solve(gram, S.T @ inverse @ r)
            value = -0.5 * (rest @ inverse @ rest + np.linalg.slogdet(C)[1]
                            + np.linalg.slogdet(gram)[1])
            values.append((jittered(np.append(best.values, jitter)[None])[0], value))
        ours, expected = np.array(values).T
        np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=1e-3)


@pytest.mark.parametrize(("options", "message"), [
    ({"jitter": False}, "needs jitter=True"),
    ({"correlation": 0.3}, "cannot be had together"),
    ({"priors": {"jitter": "gaussian:0.01:0.001"}}, "must be uniform"),
    ({"priors": {"jitter": "uniform:-2:-1"}}, "allows none"),
])
def test_a_jitter_that_cannot_be_sampled_is_refused(star, lines, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        draw(star, lines, **{"free": "teff,fe_h,jitter", **options})
