"""Macroturbulence: the radial-tangential model, in Fourier space.

Streams as large as the line-forming region carry half of the light radially and half
tangentially, with Gaussian velocities of dispersion parameter zeta (Gray 2005, *The
Observation and Analysis of Stellar Photospheres*, 3rd ed., chapter 17).  At an angle theta
from the centre of the disc they broaden by zeta cos(theta) and zeta sin(theta); the
transform of a Gaussian exp[-(v / z)^2] is exp(-z^2 k^2 / 4), and over a disc without limb
darkening u = cos^2(theta) is uniform in [0, 1], so that the mean over disc and streams is

    M(k) = (1 - exp(-q)) / q,        q = (zeta k)^2 / 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: below this q the series of M is exact to rounding and, unlike the quotient, differentiable
_SMALL = 1e-3


def transform(phase: Tensor) -> Tensor:
    """Return the Fourier transform of the radial-tangential profile, 1 at phase 0.

    Parameters
    ----------
    phase : tensor
        Angular frequency times zeta / c, dimensionless.
    """
    q = 0.25 * phase**2
    series = 1.0 - q / 2.0 + q**2 / 6.0 - q**3 / 24.0
    safe = torch.where(q < _SMALL, torch.ones_like(q), q)
    return torch.where(q < _SMALL, series, -torch.expm1(-safe) / safe)
