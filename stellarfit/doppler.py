"""Doppler shift of a spectrum, as an additive shift in ln(wavelength)."""

from __future__ import annotations

import torch
from torch import Tensor

from stellarfit.constants import SPEED_OF_LIGHT


def log_shift(velocity: Tensor) -> Tensor:
    """Return ln(observed / rest wavelength) of a receding velocity in km/s.

    The relativistic formula of purely radial motion,
    ``lambda_obs / lambda_rest = sqrt((1 + beta) / (1 - beta))``, that is
    ``ln(...) = artanh(beta)`` (e.g. Wright & Eastman 2014, PASP 126, 838, eq. 1).
    """
    return torch.atanh(velocity.double() / SPEED_OF_LIGHT)


def log_shift_slope(velocity: Tensor) -> Tensor:
    """Return the derivative of :func:`log_shift`, per km/s."""
    return 1.0 / (SPEED_OF_LIGHT * (1.0 - (velocity.double() / SPEED_OF_LIGHT) ** 2))
