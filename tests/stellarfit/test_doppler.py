"""The Doppler shift against astropy's, and its sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy import units as u

from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.doppler import log_shift

VELOCITIES = [-2000.0, -300.0, -1e-3, 0.0, 12.3, 500.0, 30_000.0]


@pytest.mark.parametrize("velocity", VELOCITIES)
def test_the_shift_is_the_relativistic_one_of_astropy(velocity):
    rest = 5183.6 * u.AA
    shifted = (velocity * u.km / u.s).to(u.AA, u.doppler_relativistic(rest))
    shift = log_shift(torch.tensor(velocity, dtype=torch.float64))
    assert rest.value * np.exp(shift.item()) == pytest.approx(shifted.value, rel=1e-13)


def test_shifts_there_and_back_cancel():
    velocity = torch.linspace(-3000.0, 3000.0, 101, dtype=torch.float64)
    there = log_shift(velocity)
    assert torch.equal(there, -log_shift(-velocity))
    back = SPEED_OF_LIGHT * torch.tanh(there)
    torch.testing.assert_close(back, velocity, rtol=1e-13, atol=1e-10)


def test_a_receding_star_is_shifted_to_longer_wavelengths():
    shift = log_shift(torch.tensor([-10.0, 0.0, 10.0]))
    assert shift[0] < 0 == shift[1] < shift[2]


def test_a_slow_star_is_shifted_by_v_over_c_and_the_gradient_says_so():
    velocity = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    shift = log_shift(velocity)
    shift.backward()
    assert shift.item() == pytest.approx(1.0 / SPEED_OF_LIGHT, rel=1e-10)
    assert velocity.grad.item() == pytest.approx(1.0 / SPEED_OF_LIGHT, rel=1e-10)


def test_single_precision_velocities_are_shifted_in_double_precision():
    assert log_shift(torch.tensor([30.0])).dtype == torch.float64
