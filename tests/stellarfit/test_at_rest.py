"""What is remembered of stars at rest, and how derivatives of close by are mended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit import at_rest
from stellarfit.at_rest import REMEMBERED, Derivatives
from stellarfit.parameters import make_parameters
from tests.stellarfit.mocks import model_of


def model(lines):
    parameters = make_parameters(lines.labels, lines.domain, free=["teff", "logg", "fe_h"],
                                 fixed={"vmic": 1.0, "rv": 0.0, "vsini": 3.0}, resolution=20_000)
    return model_of(lines, parameters, np.linspace(5170.0, 5190.0, 120), resolution=20_000)


def test_remembered_spectra_are_those_of_each_star(lines) -> None:
    ours = model(lines)
    rng = np.random.default_rng(0)
    theta = torch.as_tensor(rng.uniform([4500, 3.5, -1], [6000, 4.5, 0], (REMEMBERED + 60, 3)))
    with torch.no_grad():
        expected = ours(theta)
    torch.testing.assert_close(ours.flux(theta), expected)
    torch.testing.assert_close(ours.flux(theta[:30]), expected[:30])
    mixed = torch.cat([theta[60:90], theta[:200]])  # some known, some forgotten, the old among them
    torch.testing.assert_close(ours.flux(mixed), torch.cat([expected[60:90], expected[:200]]))
    assert len(ours.at_rest._fluxes) == REMEMBERED


def test_a_step_mends_derivatives_exactly_where_the_flux_is_linear() -> None:
    rng = np.random.default_rng(0)
    slope, T = (torch.as_tensor(rng.normal(size=(3, 50))) for _ in range(2))
    known = Derivatives(torch.zeros(3), torch.zeros(3), torch.zeros(50), T)
    place = torch.zeros(3)
    for step in torch.eye(3) * 0.5:  # one way after the other
        place = place + step
        known = known.at(place, place.double() @ slope)
    torch.testing.assert_close(known.T, slope)
    assert known.at(place + 1e-3, torch.zeros(50)) is known  # too short a step to learn from


def test_mended_derivatives_are_nearer_the_truth_than_old_ones(lines) -> None:
    ours = model(lines)
    path = torch.tensor([[5400.0, 4.2, -0.5], [5440.0, 4.3, -0.45], [5480.0, 4.4, -0.4]])
    path = path.double()
    first = ours.jacobian(path[:1])[1]
    for theta in path:
        mended = ours.jacobian(theta[None], stars=[0], reach=[10.0])[1]
    exact = ours.jacobian(path[2:])[1]
    moved = (path[2] - path[1]) / (path[2] - path[1]).norm()
    off = [float(((d - exact) @ moved).norm()) for d in (mended, first)]
    assert off[0] < 0.5 * off[1]


@pytest.mark.parametrize("reach", [0.0, 0.1])
def test_derivatives_of_elsewhere_are_not_used_beyond_their_reach(lines, reach) -> None:
    ours = model(lines)
    near, far = torch.tensor([[5400.0, 4.2, -0.5], [5430.0, 4.2, -0.5]]).double().unsqueeze(1)
    ours.jacobian(near, stars=[0], reach=[reach])
    torch.testing.assert_close(ours.jacobian(far, stars=[0], reach=[reach])[1],
                               ours.jacobian(far)[1])


def test_first_derivatives_are_shared_by_the_fits_of_one_emulator(lines, monkeypatch) -> None:
    monkeypatch.setattr(at_rest, "_first", {})
    monkeypatch.setattr(lines, "sha256", "0" * 64)
    theta = torch.tensor([[5400.0, 4.2, -0.5]]).double()
    expected = model(lines).jacobian(theta, stars=[0], reach=[0.1])[1]
    monkeypatch.setattr(type(lines), "flux_and_tangents", None)  # nobody may ask again
    torch.testing.assert_close(model(lines).jacobian(theta, stars=[7], reach=[0.1])[1], expected)
