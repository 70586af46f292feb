"""Macroturbulence against an integral over the disc, and what it must preserve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.interpolation import filtered, frequencies
from stellarfit.macroturbulence import transform


def disc_profile(velocity: np.ndarray, zeta: float) -> np.ndarray:
    """The radial-tangential profile by summing Gaussians over rings of the disc."""
    mu = (np.arange(4000) + 0.5) / 4000
    weight = 2.0 * mu / len(mu)                      # a ring's projected area, no limb darkening
    profile = np.zeros_like(velocity)
    for m, w in zip(mu, weight, strict=True):
        for z in (zeta * m, zeta * np.sqrt(1.0 - m**2)):
            profile += 0.5 * w * np.exp(-((velocity / z) ** 2)) / (np.sqrt(np.pi) * z)
    return profile


def test_the_transform_is_that_of_rings_summed_over_the_disc() -> None:
    velocity, zeta = np.linspace(-60.0, 60.0, 24_001), 5.0
    profile = disc_profile(velocity, zeta)
    for k in (0.05, 0.2, 0.5, 1.0):
        expected = np.trapezoid(profile * np.cos(k * velocity), velocity)
        ours = float(transform(torch.tensor(k * zeta, dtype=torch.float64)))
        assert ours == pytest.approx(expected, abs=2e-4)


def test_without_turbulence_nothing_changes_and_derivatives_are_finite() -> None:
    phase = torch.tensor([0.0, 1e-9, 1e-2, 0.06, 0.0633, 1.0, 50.0], dtype=torch.float64,
                         requires_grad=True)
    value = transform(phase)
    assert value[0].item() == 1.0
    value.sum().backward()
    assert torch.isfinite(phase.grad).all()
    assert phase.grad[0].item() == 0.0
    assert torch.autograd.gradcheck(transform, (phase[2:].detach().requires_grad_(),))


def test_equivalent_width_is_preserved_and_lines_become_shallower() -> None:
    step = 1e-5
    x = step * (np.arange(2000) - 1000)
    flux = torch.as_tensor(1.0 - 0.8 * np.exp(-0.5 * (x / 3e-5) ** 2))
    kernel = transform(frequencies(2000, step) * 6.0 / SPEED_OF_LIGHT)
    broad = filtered(flux, kernel)
    assert float((1.0 - broad).sum()) == pytest.approx(float((1.0 - flux).sum()), rel=1e-9)
    assert float(broad.min()) > float(flux.min()) + 0.02
