"""The optimisers find what was put in, at the precision that they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit import optimize
from stellarfit.continuum import Chebyshev
from stellarfit.optimize import adam, covariance, levenberg_marquardt, normal_equations
from stellarfit.parameters import make_parameters
from tests.stellarfit.mocks import data_of, model_of

FREE = ("teff", "logg", "vmic", "fe_h", "mg_fe", "rv", "vsini")
TRUTH = np.array([
    [5700.0, 4.4, 1.0, 0.0, 0.05, 12.0, 5.0],
    [4700.0, 2.5, 1.5, -0.7, 0.25, -31.0, 9.0],
    [6400.0, 4.1, 1.4, -0.3, 0.1, 3.0, 22.0],
])
START = TRUTH + np.array([
    [-250.0, -0.4, 0.3, 0.2, -0.1, 2.0, 3.0],
    [200.0, 0.3, -0.4, 0.2, 0.1, -2.0, -4.0],
    [-300.0, -0.3, 0.2, -0.3, 0.1, 1.0, 5.0],
])


def stars_of(model, data, *, flux=None, weight=None):
    """The same data with another flux or weight."""
    return data_of(model.parameters, data.flux if flux is None else flux,
                   data.noise.weight if weight is None else weight, data.terms)


@pytest.fixture(scope="module")
def build(lines):
    """A function that makes the model and data of stars at given parameters."""

    def make(theta, *, free=FREE, snr=100.0, noise_seed=None, low=5165.0, high=5195.0, **kwargs):
        wavelength = np.exp(np.arange(np.log(low), np.log(high), 1.0 / 50_000))
        parameters = make_parameters(lines.labels, lines.domain, free=free, resolution=20_000,
                                     **kwargs)
        model = model_of(lines, parameters, wavelength, resolution=20_000,
                             rv_range=(-60.0, 60.0))
        terms = torch.as_tensor(Chebyshev(2).terms(wavelength, (low, high)))
        continuum = terms @ torch.tensor([900.0, 80.0, -40.0], dtype=torch.float64)
        with torch.no_grad():
            flux = model(torch.as_tensor(theta)) * continuum
        sigma = continuum.abs() / snr
        if noise_seed is not None:
            draws = np.random.default_rng(noise_seed).standard_normal(flux.shape)
            flux = flux + sigma * torch.as_tensor(draws)
        weight = (1.0 / sigma).expand_as(flux).clone()
        return model, data_of(parameters, flux, weight, terms)

    return make


def test_lm_recovers_the_truth_of_noiseless_data(build):
    model, data = build(TRUTH, snr=1000.0)
    solution = levenberg_marquardt(model, data, START, tolerance=1e-9)
    assert solution.converged.all()
    assert (solution.chi2 < 1e-6).all()
    assert (np.abs(solution.theta - TRUTH) < 1e-4 * model.parameters.scale).all()


def test_lm_converges_from_afar_in_few_iterations(build):
    model, data = build(TRUTH, noise_seed=1)
    far = np.tile([5500.0, 3.5, 1.2, -0.5, 0.0, 0.0, 5.0], (3, 1))
    far[:, 5] = TRUTH[:, 5] + [3.0, -3.0, 3.0]
    solution = levenberg_marquardt(model, data, far)
    near = levenberg_marquardt(model, data, TRUTH)
    assert solution.converged.all()
    assert (solution.iterations <= 15).all()
    assert (np.abs(solution.chi2 - near.chi2) < 0.01).all()


def test_a_batch_of_stars_ends_where_each_of_them_ends(build):
    model, data = build(TRUTH, noise_seed=2)
    together = levenberg_marquardt(model, data, START)
    for k in range(len(TRUTH)):
        alone = levenberg_marquardt(
            model, stars_of(model, data, flux=data.flux[[k]], weight=data.noise.weight[[k]]),
            START[[k]])
        np.testing.assert_allclose(alone.theta[0], together.theta[k], rtol=1e-7, atol=1e-7)
        assert alone.iterations[0] == together.iterations[k]
        assert alone.chi2[0] == pytest.approx(together.chi2[k], rel=1e-9)


def test_data_without_weight_do_not_matter(build):
    model, data = build(TRUTH, noise_seed=3)
    weight = data.noise.weight.clone()
    weight[:, 100:160] = 0.0
    poisoned = data.flux.clone()
    poisoned[:, 100:160] = 1e9
    clean = levenberg_marquardt(model, stars_of(model, data, weight=weight), START)
    dirty = levenberg_marquardt(model, stars_of(model, data, flux=poisoned, weight=weight),
                                START)
    np.testing.assert_array_equal(clean.theta, dirty.theta)


def test_the_unit_of_the_flux_does_not_matter(build):
    model, data = build(TRUTH, noise_seed=3)
    tiny = stars_of(model, data, flux=1e-17 * data.flux, weight=1e17 * data.noise.weight)
    one, other = (levenberg_marquardt(model, d, START) for d in (data, tiny))
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outside", [
    {"teff": 7150.0, "logg": 4.3},                       # beyond a face of the box
    {"teff": 6500.0, "logg": 2.7},                       # beyond the joint limit
    {"teff": 7200.0, "logg": 3.5, "mg_fe": 0.5},         # beyond three faces at once
])
def test_when_the_truth_is_outside_lm_lands_on_the_face_at_the_best_point_of_it(build, outside):
    values = dict(zip(FREE, [6800.0, 4.2, 1.4, -0.3, 0.1, 3.0, 8.0], strict=True)) | outside
    truth = np.array([[values[n] for n in FREE]])
    model, data = build(truth)
    p = model.parameters
    start = np.array([[5500.0, 4.0, 1.0, -0.5, 0.0, 1.0, 5.0]])
    solution = levenberg_marquardt(model, data, start)
    theta = solution.theta[0]
    assert solution.converged[0]
    assert (p.G @ theta <= p.h + 1e-9 * np.abs(p.h) + 1e-9).all()
    assert set(outside) & set(p.at_limit(theta))
    # The same point is found from elsewhere, and nothing around it in the domain is better.
    again = levenberg_marquardt(model, data, TRUTH[[2]])
    assert again.chi2[0] == pytest.approx(solution.chi2[0], abs=0.05)
    sigma = 1.0 / np.sqrt(np.diagonal(solution.information[0]))
    rng = np.random.default_rng(0)
    trials = theta + 0.3 * sigma * rng.normal(size=(300, len(theta)))
    trials = trials[(trials @ p.G.T <= p.h).all(axis=1)]
    assert len(trials) > 5
    with torch.no_grad():
        chi2 = data.project(model(torch.as_tensor(trials)),
                            torch.zeros(len(trials), dtype=torch.long)).chi2
    assert float(chi2.min()) > solution.chi2[0] - 0.02


def test_starting_on_faces_lm_comes_off_them(build):
    model, data = build(TRUTH[[0]])
    start = [[7000.0, 5.0, 0.3, 0.0, 0.4, 12.0, 2.0]]
    solution = levenberg_marquardt(model, data, start)
    assert solution.converged[0]
    assert solution.chi2[0] < 0.01


def test_a_start_outside_is_moved_inside(build):
    model, data = build(TRUTH[[0]])
    solution = levenberg_marquardt(model, data, [[9000.0, 7.0, 5.0, 2.0, 3.0, 12.0, 400.0]],
                                   max_iterations=60)
    p = model.parameters
    assert (p.G @ solution.theta[0] <= p.h + 1e-9 * np.abs(p.h) + 1e-9).all()
    assert np.isfinite(solution.chi2[0])


def test_a_long_first_step_is_not_trapped_where_a_derivative_vanishes(build):
    # Rotation and microturbulence enter squared: at 0 nothing calls them back.
    truth = np.tile([5700.0, 4.4, 1.0, 0.0, 0.05, 12.0, 4.0], (24, 1))
    rng = np.random.default_rng(0)
    low, high = [4200.0, 1.5, 0.1, -1.5, -0.3, 10.0, 3.0], [6800.0, 4.9, 2.4, 0.8, 0.3, 14.0, 40.0]
    model, data = build(truth, low=5172.0, high=5192.0)
    solution = levenberg_marquardt(model, data, rng.uniform(low, high, size=truth.shape))
    assert solution.converged.all()
    assert (solution.chi2 < 0.05).sum() >= 23
    assert solution.iterations.mean() < 12


def test_a_star_that_does_not_rotate_ends_at_no_rotation(build):
    truth = TRUTH[[0]].copy()
    truth[0, -1] = 0.0
    model, data = build(truth)
    solution = levenberg_marquardt(model, data, START[[0]])
    assert solution.converged[0]
    assert solution.chi2[0] < 0.05
    assert 0.0 <= solution.theta[0, -1] < 1.5


def test_too_few_iterations_are_reported_as_not_converged(build):
    model, data = build(TRUTH)
    solution = levenberg_marquardt(model, data, START, max_iterations=2)
    assert not solution.converged.any()
    assert (solution.iterations == 2).all()


def test_information_is_the_curvature_of_the_profiled_chi_square(build):
    model, data = build(TRUTH[[0]])
    theta, stars = torch.as_tensor(TRUTH[[0]]), torch.zeros(1, dtype=torch.long)
    information = torch.as_tensor(normal_equations(model, data, TRUTH[[0]], np.array([0]))[2])
    scale = torch.as_tensor(model.parameters.scale)

    def chi2(x):
        return data.project(model(x[None] * scale), stars).chi2[0]

    hessian = torch.func.hessian(chi2)(theta[0] / scale) / torch.outer(scale, scale)
    torch.testing.assert_close(information[0], 0.5 * hessian, rtol=1e-5,
                               atol=1e-7 * information.abs().max().item())


def test_the_gradient_is_that_of_the_profiled_chi_square(build):
    model, data = build(TRUTH, noise_seed=4)
    stars = torch.arange(3)
    theta = torch.as_tensor(TRUTH).requires_grad_()
    data.project(model(theta), stars).chi2.sum().backward()
    gradient = torch.as_tensor(normal_equations(model, data, TRUTH, np.arange(3))[1])
    # Kaufman's approximation drops a term of the second order in the residual only.
    # Along rv the slope is the spectrum's, not that of its sum over the grid (`camera`).
    rv = list(model.parameters.names).index("rv")
    torch.testing.assert_close(gradient[:, rv], -0.5 * theta.grad[:, rv], rtol=1e-6, atol=1e-5)
    others = [k for k in range(gradient.shape[1]) if k != rv]
    torch.testing.assert_close(gradient[:, others], -0.5 * theta.grad[:, others], rtol=1e-9,
                               atol=1e-9)


def test_covariance_is_the_inverse_information():
    rng = np.random.default_rng(6)
    scale = np.array([100.0, 0.2, 1.0, 0.1])
    root = rng.normal(size=(9, 4)) / scale
    information = root.T @ root
    result, silent = covariance(information, scale)
    np.testing.assert_allclose(result, np.linalg.inv(information), rtol=1e-9)
    assert not silent.any()


def test_a_parameter_without_trace_gets_an_infinite_error_and_spoils_no_other(build):
    free = ("teff", "fe_h", "ca_fe", "rv")
    theta = np.array([[5700.0, -0.2, 0.1, 5.0]])
    fixed = {"logg": 4.4, "vmic": 1.0}
    model, data = build(theta, free=free, fixed=fixed, noise_seed=5)
    solution = levenberg_marquardt(model, data, [[5600.0, -0.1, 0.0, 4.0]])
    assert solution.converged[0]
    result, silent = covariance(solution.information[0], model.parameters.scale)
    assert silent.tolist() == [False, False, True, False]
    assert np.isinf(result[2, 2])
    seen = [0, 1, 3]
    expected = np.linalg.inv(solution.information[0][np.ix_(seen, seen)])
    np.testing.assert_allclose(result[np.ix_(seen, seen)], expected, rtol=1e-6)
    assert solution.theta[0, 2] == pytest.approx(0.0, abs=0.05)       # nothing moved it


def test_adam_reaches_nearly_the_chi_square_of_lm(build):
    free, fixed = ("teff", "fe_h", "rv"), {"logg": 4.4, "vmic": 1.0, "vsini": 5.0}
    model, data = build(np.array([[5700.0, -0.2, 5.0]]), free=free, fixed=fixed, noise_seed=6,
                        low=5175.0, high=5190.0)
    start = [[5500.0, 0.0, 4.0]]
    lm = levenberg_marquardt(model, data, start)
    descent = adam(model, data, start, steps=250)
    assert descent.converged[0]
    assert descent.chi2[0] < lm.chi2[0] + 0.5
    np.testing.assert_allclose(descent.information, lm.information, rtol=0.05,
                               atol=0.02 * np.abs(lm.information).max())


def test_adam_stays_inside_the_domain(build):
    free, fixed = ("teff", "fe_h", "rv"), {"logg": 4.4, "vmic": 1.0, "vsini": 5.0}
    model, data = build(np.array([[7300.0, -0.2, 5.0]]), free=free, fixed=fixed,
                        low=5175.0, high=5190.0)
    descent = adam(model, data, [[6800.0, 0.0, 5.5]], steps=100)
    assert descent.theta[0, 0] == pytest.approx(7000.0, abs=0.1)
    assert descent.theta[0, 0] <= 7000.0 * (1 + 1e-5)


@pytest.mark.parametrize("n_draw", [100])
def test_errors_are_the_scatter_of_repeated_observations(build, n_draw):
    free = ("teff", "logg", "fe_h", "mg_fe", "rv", "vsini")
    truth = np.tile([5700.0, 4.4, -0.2, 0.1, 5.0, 9.0], (n_draw, 1))
    model, data = build(truth, free=free, fixed={"vmic": 1.0}, snr=150.0, noise_seed=7,
                        low=5172.0, high=5190.0)
    solution = levenberg_marquardt(model, data, truth + 0.3 * model.parameters.scale)
    assert solution.converged.all()
    sigma = np.array([np.sqrt(np.diag(covariance(i, model.parameters.scale)[0]))
                      for i in solution.information])
    pulls = (solution.theta - truth) / sigma
    assert (np.abs(pulls.mean(axis=0)) < 3.5 / np.sqrt(n_draw)).all()
    assert ((pulls.std(axis=0) > 0.8) & (pulls.std(axis=0) < 1.25)).all()
    dof = data.flux.shape[1] - len(free) - data.terms.shape[1]
    assert solution.chi2.mean() == pytest.approx(dof, rel=4 * np.sqrt(2 / dof / n_draw))


def test_a_star_that_blows_up_neither_converges_nor_harms_the_others(build):
    model, data = build(TRUTH[:2], noise_seed=3)
    flux = data.flux.clone()
    flux[1] = 1e308                                   # overflows when squared
    alone = levenberg_marquardt(model, data, START[:2])
    both = levenberg_marquardt(model, stars_of(model, data, flux=flux), START[:2])
    assert not both.converged[1]
    np.testing.assert_allclose(both.theta[0], alone.theta[0])
    assert np.isinf(covariance(np.full((2, 2), np.nan), np.ones(2))[0].diagonal()).all()


def test_derivatives_of_nearby_lead_to_the_minimum_of_exact_ones(build, monkeypatch):
    model, data = build(TRUTH, noise_seed=4)
    lagged = levenberg_marquardt(model, data, START)
    monkeypatch.setattr(optimize, "ON_THE_WAY", 0.0)
    monkeypatch.setattr(optimize, "AT_THE_END", 0.0)
    fresh, _ = build(TRUTH, noise_seed=4)
    exact = levenberg_marquardt(fresh, data, START)
    assert lagged.converged.all()
    for k in range(len(TRUTH)):
        step = lagged.theta[k] - exact.theta[k]
        assert step @ exact.information[k] @ step < 0.05**2
        ratio = np.diag(lagged.information[k]) / np.diag(exact.information[k])
        np.testing.assert_allclose(ratio, 1.0, atol=0.1)


def test_a_star_that_ran_out_of_iterations_has_the_derivatives_of_where_it_is(build):
    model, data = build(TRUTH, noise_seed=4)
    cut = levenberg_marquardt(model, data, START, max_iterations=2)
    assert not cut.converged.any()
    fresh, _ = build(TRUTH, noise_seed=4)
    chi2, _, information, _ = normal_equations(fresh, data, cut.theta, np.arange(3))
    np.testing.assert_allclose(cut.chi2, chi2, rtol=1e-9)
    for own, expected in zip(cut.information, information, strict=True):
        np.testing.assert_allclose(np.diag(own) / np.diag(expected), 1.0, atol=0.2)
