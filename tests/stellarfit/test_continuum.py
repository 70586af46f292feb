"""The projected continuum against least squares done in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit.continuum import Chebyshev
from stellarfit.continuum import project as project_with
from stellarfit.noise import Noise

N, DEGREE = 200, 3
WINDOW = (5150.0, 5300.0)
WAVELENGTH = torch.linspace(5155.0, 5290.0, N, dtype=torch.float64)


def basis():
    """The terms of the continuum."""
    return torch.as_tensor(Chebyshev(DEGREE).terms(WAVELENGTH.numpy(), WINDOW))


def project(model, flux, weight, terms, level=0.0):
    """Solve with independent noise."""
    return project_with(model, flux, Noise(weight), terms, torch.full((len(terms),), level,
                                                                      dtype=torch.float64))


@pytest.fixture
def problem():
    """Two stars: model, flux, weight and the terms of the continuum."""
    rng = np.random.default_rng(2)
    model = 1.0 - 0.5 * rng.uniform(size=(2, N)) ** 3
    flux = 900.0 * model * (1 + 0.2 * np.linspace(-1, 1, N)) + rng.normal(0, 9.0, (2, N))
    weight = rng.uniform(0.05, 0.15, (2, N))
    weight[:, ::17] = 0.0
    tensors = (torch.as_tensor(x) for x in (model, flux, weight))
    return *tensors, basis()



def test_basis_is_chebyshevs_on_the_window():
    x = (2 * WAVELENGTH - sum(WINDOW)) / (WINDOW[1] - WINDOW[0])
    expected = torch.stack([torch.cos(k * torch.arccos(x)) for k in range(DEGREE + 1)], dim=1)
    torch.testing.assert_close(basis(), expected, rtol=0, atol=1e-13)


def test_projection_is_the_least_squares_continuum(problem):
    model, flux, weight, terms = problem
    solved = project(*problem)
    for star in range(2):
        columns = (weight[star] * model[star])[:, None] * terms
        expected, chi2, *_ = np.linalg.lstsq(columns.numpy(), (weight * flux)[star].numpy())
        np.testing.assert_allclose(solved.coefficients[star], expected, rtol=1e-10, atol=1e-9)
        assert float(solved.chi2[star]) == pytest.approx(float(chi2[0]), rel=1e-10)
        np.testing.assert_allclose(solved.continuum[star], terms.numpy() @ expected, rtol=1e-10)
        residual = weight[star] * (flux[star] - model[star] * solved.continuum[star])
        torch.testing.assert_close(solved.residual[star], residual, rtol=0, atol=1e-9)


def test_residual_and_what_is_left_of_columns_are_orthogonal_to_the_continuum(problem):
    model, _, weight, terms = problem
    solved = project(*problem)
    explained = (weight * model).unsqueeze(-1) * terms
    columns = torch.as_tensor(np.random.default_rng(3).normal(size=(2, N, 5)))
    left = solved.remove(columns)
    assert (explained.transpose(1, 2) @ solved.residual.unsqueeze(-1)).abs().max() < 1e-9
    assert (explained.transpose(1, 2) @ left).abs().max() < 1e-10
    torch.testing.assert_close(solved.remove(left), left)


def test_ignored_pixels_do_not_matter(problem):
    model, flux, weight, terms = problem
    poisoned, strange = flux.clone(), model.clone()
    poisoned[weight == 0], strange[weight == 0] = 1e30, -1e30
    clean, dirty = project(*problem), project(strange, poisoned, weight, terms)
    assert torch.equal(clean.coefficients, dirty.coefficients)
    assert torch.equal(clean.residual, dirty.residual)
    assert dirty.residual[weight == 0].abs().max() < 1e-12


def test_projecting_the_continuum_out_gives_the_covariance_of_the_joint_fit(problem):
    model, _, weight, terms = problem
    jacobian = torch.as_tensor(np.random.default_rng(5).normal(size=(2, N, 3)))
    solved = project(*problem)
    scale = (weight * solved.continuum).unsqueeze(-1)
    left = solved.remove(scale * jacobian)
    marginal = torch.linalg.inv(left.transpose(1, 2) @ left)
    joint = torch.cat([scale * jacobian, (weight * model).unsqueeze(-1) * terms], dim=-1)
    full = torch.linalg.inv(joint.transpose(1, 2) @ joint)
    torch.testing.assert_close(marginal, full[:, :3, :3], rtol=1e-9, atol=1e-15)


def test_unit_of_the_flux_does_not_matter(problem):
    model, flux, weight, terms = problem
    one, other = project(*problem), project(model, 1e-17 * flux, 1e17 * weight, terms)
    torch.testing.assert_close(other.chi2, one.chi2)
    torch.testing.assert_close(1e17 * other.continuum, one.continuum)


@pytest.mark.parametrize("n_good", [0, 1, 3])
def test_fewer_good_pixels_than_terms_do_not_crash(problem, n_good):
    model, flux, weight, terms = problem
    few = torch.zeros_like(weight)
    few[:, 50:50 + n_good] = weight[:, 50:50 + n_good] + 0.01
    solved = project(model, flux, few, terms)
    assert torch.isfinite(solved.coefficients).all()
    assert torch.isfinite(solved.residual).all()
    assert (solved.chi2 < 1e-12 * (few * flux).square().sum(-1) + 1e-12).all()


def test_gradients_pass_through_the_projection(problem):
    model, flux, weight, terms = (x[..., :30] if x.ndim == 2 and x.shape[1] == N else x[:30]
                                  for x in problem)
    model = model.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: project(m, flux / 900, weight * 900, terms).chi2, (model,), rtol=1e-5)
