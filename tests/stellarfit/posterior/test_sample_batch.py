"""Many stars side by side: samples as of each alone, calibrated, and a wrong likelihood caught."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy.stats import binom, kstest

from stellarfit import Spectrum, fit_batch, sample, sample_batch
from stellarfit.posterior.side_by_side import side_by_side
from stellarfit.preparing import prepare
from tests.stellarfit.conftest import pixels_of

PRIOR = {"teff": (5000.0, 6500.0), "fe_h": (-1.0, 0.3), "mg_fe": (-0.3, 0.3)}
OPTIONS = {"resolution": 20_000, "free": list(PRIOR), "progress": False, "jitter": False,
           "robust": False, "fixed": {"logg": 4.3, "vmic": 1.2, "rv": 0.0, "vsini": 0.0},
           "priors": {n: "uniform:{}:{}".format(*limits) for n, limits in PRIOR.items()}}


def draw_truths(count, seed):
    rng = np.random.default_rng(seed)
    return [{n: rng.uniform(*limits) for n, limits in PRIOR.items()} for _ in range(count)]


@pytest.fixture(scope="module")
def truths():
    return draw_truths(100, 1)


@pytest.fixture(scope="module")
def stars(truths, lines, observe):
    return [observe(lines, {"logg": 4.3, "vmic": 1.2, "teff": t["teff"], "fe_h": t["fe_h"],
                            "mg_h": t["fe_h"] + t["mg_fe"]}, snr=40.0, seed=k,
                    wavelength=pixels_of(5166.0, 5180.0, 20_000))
            for k, t in enumerate(truths)]


def calibrated(posteriors, truths):
    """Whether truths lie in their posteriors as often as these say, in all but 1 of 1000 cases."""
    for name in PRIOR:
        place = np.array([(p.of(name) < t[name]).mean()
                          for p, t in zip(posteriors, truths, strict=True)])
        if kstest(place, "uniform").pvalue < 0.001 / 9:
            return False
        for level in (0.5, 0.9):
            held = (np.abs(place - 0.5) < level / 2).sum()
            low, high = binom.interval(1 - 0.001 / 9, len(place), level)
            if not low <= held <= high:
                return False
    return True


@pytest.mark.parametrize(("told", "right"), [(1.0, True), (0.7, False)])
def test_posteriors_hold_the_truth_as_often_as_they_say_and_too_small_noise_is_caught(
        stars, truths, lines, told, right) -> None:
    seen = [Spectrum(s.wavelength, s.flux, ivar=s.ivar / told**2, medium=s.medium) for s in stars]
    posteriors = sample_batch(seen, emulator=lines, sampler="importance", **OPTIONS)
    assert np.mean([p.converged for p in posteriors]) > 0.95
    assert calibrated(posteriors, truths) is right


@pytest.mark.parametrize(("sampler", "walkers"), [("emcee", 12), ("importance", None)])
def test_a_star_among_others_has_the_posterior_it_has_alone(
        stars, lines, sampler, walkers) -> None:
    how = {**OPTIONS, "sampler": sampler, "walkers": walkers, "emulator": lines, "max_steps": 200}
    together = sample_batch(stars[:2], seed=5, **how)
    alone = sample(stars[1], seed=5, **how)
    for name in PRIOR:
        low, median, high = alone.interval(name)
        assert together[1].interval(name)[1] == pytest.approx(median, abs=0.3 * (high - low))
        assert together[1].of(name).std() == pytest.approx(alone.of(name).std(), rel=0.25)


def test_no_u_turn_chains_of_a_batch_are_around_each_fit(stars, lines) -> None:
    pytest.importorskip("pyro")
    how = {**OPTIONS, "emulator": lines, "sampler": "nuts", "chains": 1, "max_steps": 4}
    together = sample_batch(stars[:2], **how)
    assert [p.chain.shape for p in together] == [(1, 4, 1, 3)] * 2
    assert [p.fit.provenance["sampler"] for p in together] == ["nuts", "nuts"]
    for posterior in together:
        sigma = np.sqrt(np.diag(posterior.fit.covariance))
        assert (np.abs(posterior.samples - posterior.fit.values) < 8.0 * sigma).all()


def test_what_is_wrong_with_one_star_is_said_before_any_is_sampled(stars, lines) -> None:
    other = Spectrum(stars[0].wavelength[::2], stars[0].flux[::2], ivar=stars[0].ivar[::2],
                     medium="air", name="coarse")
    with pytest.raises(ValueError, match="'coarse', has other pixels"):
        sample_batch([stars[0], other], emulator=lines, **OPTIONS)
    with pytest.raises(ValueError, match="1 checkpoints for 2 spectra"):
        sample_batch(stars[:2], emulator=lines, checkpoints=["a.h5"], **OPTIONS)
    assert sample_batch([], emulator=lines, **OPTIONS) == []


def test_each_star_goes_on_from_its_checkpoint(stars, lines, tmp_path) -> None:
    how = {**OPTIONS, "emulator": lines, "sampler": "emcee", "walkers": 12}
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    sample_batch(stars[:2], max_steps=20, checkpoints=files, **how)
    resumed = sample_batch(stars[:2], max_steps=60, checkpoints=files, **how)
    whole = sample_batch(stars[:2], max_steps=60, **how)
    for one, other in zip(resumed, whole, strict=True):
        assert one.chain.shape[1] == 60
        np.testing.assert_array_equal(one.chain, other.chain)


def test_the_gaussians_of_a_batch_are_those_that_samples_start_at(stars, lines) -> None:
    fits = fit_batch(stars[:3], emulator=lines,
                     **{k: v for k, v in OPTIONS.items() if k != "progress"})
    sampled = sample_batch(stars[:3], emulator=lines, sampler="importance", **OPTIONS)
    for fit, posterior in zip(fits, sampled, strict=True):
        np.testing.assert_allclose(posterior.fit.values, fit.values)
    assert len(prepare(stars[:3], emulator=lines, **{
        k: v for k, v in OPTIONS.items() if k not in ("progress", "jitter", "robust")})) == 1


def test_what_is_asked_for_together_is_evaluated_once_and_each_gets_its_own() -> None:
    calls = []

    def likelihood(theta, stars):
        calls.append((threading.current_thread(), len(theta)))
        return 10.0 * stars + theta[:, 0]

    def ask(star, times):
        def run(mine):
            return [mine(np.full((star + 1, 2), float(turn))).tolist() for turn in range(times)]
        return run

    found = side_by_side([ask(0, 3), ask(1, 1), ask(2, 2)], likelihood)
    assert found == [[[0.0], [1.0], [2.0]], [[10.0, 10.0]], [[20.0] * 3, [21.0] * 3]]
    assert [n for _, n in calls] == [6, 4, 1]
    assert {t for t, _ in calls} == {threading.current_thread()}


def test_a_user_who_interrupts_is_obeyed() -> None:
    def interrupted(theta, stars):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side([lambda mine: mine(np.zeros((1, 1)))] * 3, interrupted)


def test_a_star_that_fails_and_one_that_cannot_be_evaluated_end_all_with_their_error() -> None:
    def fails(mine):
        mine(np.zeros((1, 1)))
        raise ArithmeticError("no")

    def asks(mine):
        return [mine(np.zeros((1, 1))) for _ in range(3)]

    turns = []

    def likelihood(theta, stars):
        turns.append(len(stars))
        return theta[:, 0]

    with pytest.raises(ArithmeticError, match="no"):
        side_by_side([fails, lambda mine: [asks(mine) for _ in range(100)]], likelihood)
    assert len(turns) < 5

    def refuse(theta, stars):
        raise MemoryError("too many")

    with pytest.raises(MemoryError, match="too many"):
        side_by_side([asks, asks], refuse)
