"""What has a probability, and how much."""

from __future__ import annotations

import numpy as np
import torch

from stellarfit.posterior.density import Density
from stellarfit.posterior.proposal import Around


def test_nothing_outside_the_domain_has_a_probability(density) -> None:
    theta = np.array([density.best.values, [9000.0, 0.0], [np.nan, 0.0]])
    value = density(theta)
    assert np.isfinite(value[0])
    assert np.isneginf(value[1:]).all()


def test_where_the_emulator_has_no_spectrum_there_is_no_probability(density, monkeypatch) -> None:
    evaluate = density.problem.model.evaluate

    def broken(theta):
        flux = evaluate(theta).clone()
        flux[theta[:, 0] > float(density.best.values[0])] = torch.nan
        return flux

    monkeypatch.setattr(density.problem.model, "evaluate", broken)
    value = density(density.best.values + np.array([[5.0, 0.0], [-5.0, 0.0]]))
    assert np.isneginf(value[0])
    assert np.isfinite(value[1])


def test_the_smooth_density_is_the_same_inside_and_falls_off_beyond(density) -> None:
    inside = density.scattered(4, np.random.default_rng(0))
    smooth = np.array([float(density.smooth(torch.as_tensor(t))) for t in inside])
    np.testing.assert_allclose(smooth - smooth[0], density(inside) - density(inside)[0], atol=1e-6)
    beyond = torch.tensor([8000.0, -0.4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(density.smooth(beyond), beyond)
    assert slope[0] < 0
    assert torch.isfinite(slope).all()


def test_a_parameter_without_an_error_leaves_a_covariance_to_draw_from(density) -> None:
    from dataclasses import replace

    # what a pseudo-inverse leaves beside an infinite variance belongs to no covariance
    given = np.array([[1.0, 5.0], [5.0, np.inf]])
    loose = Density(density.problem, replace(density.best, covariance=given))
    assert (np.linalg.eigvalsh(loose.covariance) > 0).all()
    assert np.isfinite(Around(density.best.values, loose.covariance).root).all()
