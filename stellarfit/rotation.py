"""Rotational broadening: Gray's kernel, applied exactly in Fourier space.

A rigidly rotating star of projected equatorial velocity vsini and linear limb darkening
epsilon broadens every line with the profile (Gray 2005, *The Observation and Analysis of
Stellar Photospheres*, 3rd ed., eq. 18.14)

    G(t) = [2 (1 - epsilon) sqrt(1 - t^2) + (pi epsilon / 2) (1 - t^2)]
           / [pi (1 - epsilon / 3)],        t = velocity / vsini in [-1, 1].

On a grid uniform in ln(wavelength) the convolution is a product with the transform of G.  The
parabola's is elementary; the root's is a Bessel function, which we take by Gaussian quadrature in
t: exact to rounding while the number of nodes exceeds half the phase.  Both are 1 at vsini = 0 and
smooth in it.  Nothing is sampled at the pixels, so a profile much narrower than one is as exact as
a wide one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.interpolation import filtered, frequencies

LIMB_DARKENING = 0.6  # epsilon of a solar-type star in the optical (Gray 2005, section 17)


@lru_cache(maxsize=8)
def _nodes(count: int) -> tuple[Tensor, Tensor]:
    """Return the positive half of the nodes t, and normalised weights of sqrt(1 - t^2).

    They are Gauss-Chebyshev's of the second kind.
    """
    count += count % 2
    k = torch.arange(1, count // 2 + 1, dtype=torch.float64) * math.pi / (count + 1)
    return torch.cos(k), 4.0 / (count + 1) * torch.sin(k) ** 2


#: 3 (sin p - p cos p) / p^3 = sum_k a_k p^2k, below p = 1 exact to rounding
_SERIES = tuple((-1) ** k * 6.0 * (k + 1) / math.factorial(2 * k + 3) for k in range(9))


def _parabola(phase: Tensor) -> Tensor:
    """Return the transform of 1 - t^2, normalised to 1 at phase 0."""
    square = phase**2
    near = torch.zeros_like(square)
    for coefficient in reversed(_SERIES):
        near = near * square + coefficient
    p = torch.where(square < 1.0, 1.0, phase)
    return torch.where(square < 1.0, near, 3.0 * (torch.sin(p) - p * torch.cos(p)) / p**3)


def transform(phase: Tensor, epsilon: float | Tensor, *, nodes: int = 64) -> Tensor:
    """Return the Fourier transform of Gray's kernel, normalised to 1 at phase 0.

    Parameters
    ----------
    phase : tensor
        Angular frequency times vsini / c, dimensionless; see :func:`nodes_for`.
    epsilon : float or tensor
        Linear limb-darkening coefficient, broadcastable to `phase`.
    """
    t, weight = (x.to(phase.device, phase.dtype) for x in _nodes(nodes))
    root = torch.cos(phase.unsqueeze(-1) * t) @ weight
    # The two parts of eq. 18.14 carry the fractions (1 - epsilon) and 2 epsilon / 3 of
    # 1 - epsilon / 3: that is what their integrals over t give.
    return torch.as_tensor(((1.0 - epsilon) * root + (2.0 * epsilon / 3.0) * _parabola(phase))
                           / (1.0 - epsilon / 3.0))


def slope(phase: Tensor, epsilon: float | Tensor, *, nodes: int = 64) -> Tensor:
    """Return the derivative of :func:`transform` with respect to the phase."""
    t, weight = (x.to(phase.device, phase.dtype) for x in _nodes(nodes))
    root = torch.sin(phase.unsqueeze(-1) * t) @ (-t * weight)
    square = phase**2
    near = torch.zeros_like(square)
    for k in range(len(_SERIES) - 1, 0, -1):
        near = near * square + 2 * k * _SERIES[k]
    p = torch.where(square < 1.0, 1.0, phase)
    parabola = torch.where(square < 1.0, near * phase,
                           3.0 * (torch.sin(p) / p**2 - _parabola(p) / p))
    return torch.as_tensor(((1.0 - epsilon) * root + (2.0 * epsilon / 3.0) * parabola)
                           / (1.0 - epsilon / 3.0))


def nodes_for(vsini: float, log_step: float) -> int:
    """Return how many quadrature nodes keep :func:`transform` exact up to `vsini` (km/s)."""
    largest_phase = math.pi / log_step * vsini / SPEED_OF_LIGHT
    # A cosine of phase p is a polynomial of degree p + O(p^(1/3)) to rounding.
    return 16 + int(0.5 * largest_phase + 5.0 * largest_phase ** (1.0 / 3.0))


def rotate(
    flux: Tensor, vsini: Tensor, *, log_step: float, epsilon: float | Tensor = LIMB_DARKENING,
    nodes: int = 64,
) -> Tensor:
    """Return flux broadened by rotation.

    Parameters
    ----------
    flux : (..., n_spec, n_pix) tensor
        Normalised, on a grid uniform in ln(wavelength); or derivatives of it.
    vsini : (n_spec,) tensor
        Projected equatorial velocity, km/s.
    log_step : float
        Pixel in ln(wavelength).
    epsilon : float or (n_spec,) tensor
    nodes : int
        See :func:`nodes_for`.

    Returns
    -------
    (..., n_spec, n_pix) tensor
        Within vsini of the ends it holds the flux of a star whose spectrum is mirrored
        there; the caller keeps such pixels out.
    """
    frequency = frequencies(flux.shape[-1], log_step, flux.device)
    phase = frequency * (vsini.double() / SPEED_OF_LIGHT).unsqueeze(-1)
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.double().unsqueeze(-1)
    return filtered(flux, transform(phase, epsilon, nodes=nodes))
