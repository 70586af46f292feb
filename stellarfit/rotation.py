"""Rotational broadening: Gray's kernel, applied exactly in Fourier space.

A rigidly rotating star of projected equatorial velocity vsini and linear limb darkening
epsilon broadens every line with the profile (Gray 2005, *The Observation and Analysis of
Stellar Photospheres*, 3rd ed., eq. 18.14)

    G(t) = [2 (1 - epsilon) sqrt(1 - t^2) + (pi epsilon / 2) (1 - t^2)]
           / [pi (1 - epsilon / 3)],        t = velocity / vsini in [-1, 1].

On a grid uniform in ln(wavelength) the convolution is a product with the transform of G, whose
parts are Bessel functions: of the root, that of order 1, of the parabola, that of order 3/2.
Both are 1 at vsini = 0 and smooth in it.  Nothing is sampled at the pixels, so a profile much
narrower than one is as exact as a wide one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.interpolation import filtered, frequencies

LIMB_DARKENING = 0.6  # epsilon of a solar-type star in the optical (Gray 2005, section 17)


class _Bessel(torch.autograd.Function):
    """L_n(x) = n! (2 / x)^n J_n(x), which is 1 at x = 0, for n = 1, 2, ...

    Its derivative is -x L_(n+1)(x) / (2 (n + 1)); torch knows the values of J_0 and J_1 (to 5e-7)
    and no derivatives.
    """

    @staticmethod
    def forward(x: Tensor, n: int) -> Tensor:
        square = x**2
        near = torch.ones_like(square)  # a series, below x = 2 exact to rounding
        for k in range(11, 0, -1):
            near = 1.0 - square * near / (4.0 * k * (n + k))
        x = torch.where(square < 4.0, 2.0, x)
        below, j = torch.special.bessel_j0(x), torch.special.bessel_j1(x)
        for m in range(1, n):
            below, j = j, 2.0 * m / x * j - below
        return torch.where(square < 4.0, near, math.factorial(n) * (2.0 / x) ** n * j)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.n = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def _slope(ctx: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.as_tensor(-x * _Bessel.apply(x, ctx.n + 1) / (2.0 * (ctx.n + 1)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * _Bessel._slope(ctx), None

    @staticmethod
    def jvp(ctx: Any, moved: Tensor, _: None) -> Tensor:
        return moved * _Bessel._slope(ctx)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, None], x: Tensor, n: int) -> tuple[Tensor, Any]:
        return torch.as_tensor(_Bessel.apply(x, n)), dims[0]


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


def transform(phase: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the Fourier transform of Gray's kernel, normalised to 1 at phase 0.

    Parameters
    ----------
    phase : tensor
        Angular frequency times vsini / c, dimensionless.
    epsilon : float or tensor
        Linear limb-darkening coefficient, broadcastable to `phase`.
    """
    # The two parts of eq. 18.14 carry the fractions (1 - epsilon) and 2 epsilon / 3 of
    # 1 - epsilon / 3: that is what their integrals over t give.
    return torch.as_tensor(((1.0 - epsilon) * _Bessel.apply(phase, 1)
                            + (2.0 * epsilon / 3.0) * _parabola(phase)) / (1.0 - epsilon / 3.0))


def slope(phase: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the derivative of :func:`transform` with respect to the phase."""
    square = phase**2
    near = torch.zeros_like(square)
    for k in range(len(_SERIES) - 1, 0, -1):
        near = near * square + 2 * k * _SERIES[k]
    p = torch.where(square < 1.0, 1.0, phase)
    parabola = torch.where(square < 1.0, near * phase,
                           3.0 * (torch.sin(p) / p**2 - _parabola(p) / p))
    root = -0.25 * phase * _Bessel.apply(phase, 2)
    return torch.as_tensor(((1.0 - epsilon) * root + (2.0 * epsilon / 3.0) * parabola)
                           / (1.0 - epsilon / 3.0))


def rotate(
    flux: Tensor, vsini: Tensor, *, log_step: float, epsilon: float | Tensor = LIMB_DARKENING
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
    return filtered(flux, transform(phase, epsilon))
