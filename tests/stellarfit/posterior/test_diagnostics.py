"""The word "converged" is withheld for every reason that it should be."""

from __future__ import annotations

import numpy as np
import pytest

from stellarfit.posterior.diagnostics import (
    LARGEST_RHAT,
    LEAST_ESS,
    TIMES_TAU,
    autocorrelation_time,
    diagnose,
    inside,
    split_rhat,
)

NAMES = ("teff", "logg")


def chains(*, n_chain=2, n_step=400, n_walker=16, memory=0.5, seed=0):
    """First-order autoregressions of unit variance, whose tau is (1 + r) / (1 - r)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_chain, n_step, n_walker, len(NAMES)))
    for i in range(1, n_step):
        x[:, i] = memory * x[:, i - 1] + np.sqrt(1 - memory**2) * x[:, i]
    return x


def judge(chain, **options):
    return diagnose(chain, names=NAMES, **{"acceptance": 0.5, **options})


def test_good_chains_converge_and_say_how_well() -> None:
    found = judge(chains())
    assert found.converged
    assert "independent samples" in found.verdict
    np.testing.assert_allclose(found.tau, 3.0, rtol=0.2)
    kept = 400 - found.burn_in
    np.testing.assert_allclose(found.ess, 2 * kept * 16 / 3.0, rtol=0.2)


def test_the_autocorrelation_time_is_that_of_the_process() -> None:
    for memory in (0.0, 0.8):
        tau = autocorrelation_time(chains(memory=memory, n_step=4000))
        np.testing.assert_allclose(tau, (1 + memory) / (1 - memory), rtol=0.1)


@pytest.mark.parametrize(("chain", "options", "reason"), [
    (chains(n_step=60), {}, f"{TIMES_TAU:.0f} are needed"),
    (chains(n_step=200, n_walker=1, memory=0.0), {}, f"{LEAST_ESS:.0f} are needed"),
    (chains() + np.array([0.0, 1.0])[:, None, None, None], {}, "chains disagree about"),
    (chains(), {"acceptance": 0.02}, "the acceptance of 0.02"),
    (chains(), {"divergences": 3}, "3 trajectories diverged"),
    (np.zeros((2, 100, 8, 2)), {"acceptance": None}, "nothing has moved"),
    (np.zeros((2, 3, 8, 2)), {}, "nothing has moved"),
])
def test_every_reason_against_convergence_is_said(chain, options, reason) -> None:
    found = judge(chain, **options)
    assert not found.converged
    assert reason in found.verdict


def test_a_walker_that_is_stuck_is_seen() -> None:
    chain = chains()
    chain[1, :, 3] = chain[1, 0, 3]
    assert "1 of 32 walkers are stuck" in judge(chain).verdict


def test_chains_that_drift_apart_in_one_half_are_seen() -> None:
    chain = chains(memory=0.0)
    chain[:, 200:] += 0.5
    assert (split_rhat(chain) > LARGEST_RHAT).all()
    assert (split_rhat(chains(memory=0.0)) < 1.002).all()


def test_walkers_of_two_modes_that_none_leaves_have_not_converged() -> None:
    rng = np.random.default_rng(0)
    chain = rng.standard_normal((2, 400, 24, 1))
    assert diagnose(chain, names=("teff",), acceptance=0.5).converged
    chain[:, :, ::2] += 10.0
    found = diagnose(chain, names=("teff",), acceptance=0.5)
    assert not found.converged
    assert "walkers disagree about teff" in found.verdict


def test_one_frozen_walker_is_stuck_and_the_others_have_moved() -> None:
    chain = np.random.default_rng(0).standard_normal((2, 400, 24, 1))
    chain[0, :, 3] = 0.5
    found = diagnose(chain, names=("teff",), acceptance=0.5)
    assert np.isfinite(found.tau).all()
    assert "1 of 48 walkers are stuck" in found.verdict


def test_points_that_are_no_samples_are_cut_out_of_all_chains_alike() -> None:
    chain = np.arange(8.0).reshape(2, 4, 1, 1)
    logs = np.zeros((2, 4, 1))
    logs[0, 1] = -np.inf
    np.testing.assert_array_equal(inside(chain, logs)[..., 0, 0], [[0, 2, 3], [4, 5, 6]])
    logs[:] = -np.inf
    assert inside(chain, logs).shape == (2, 0, 1, 1)
