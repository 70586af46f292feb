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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.interpolation import filtered, frequencies

LIMB_DARKENING = 0.6  # epsilon of a solar-type star in the optical (Gray 2005, section 17)
#: where the series for small x, of so many terms, ends
NEAR, TERMS = 2.0, 12


class _Bessel(torch.autograd.Function):
    """L_n(x) = Gamma(n + 1) (2 / x)^n J_n(x), the transform of (1 - t^2)^(n - 1/2), 1 at x = 0.

    For n = 1, 3/2, 2, ...  Its derivative is -x L_(n+1)(x) / (2 (n + 1)); torch knows J_0 and J_1
    (to 5e-7), and no derivatives.
    """

    @staticmethod
    def forward(x: Tensor, n: float) -> Tensor:
        result = torch.ones_like(x)
        near = x.abs() < NEAR
        square, series = x[near] ** 2, result[near]
        for k in range(TERMS, 0, -1):
            series = 1.0 - square * series / (4.0 * k * (n + k))
        result[near] = series
        x = x[~near].abs()
        if n % 1.0:
            m, unit = 0.5, torch.sqrt(2.0 / (math.pi * x))
            below, j = unit * torch.cos(x), unit * torch.sin(x)
        else:
            m, j = 1.0, torch.special.bessel_j1(x)
            below = torch.special.bessel_j0(x) if n > 1.0 else j
        while m < n:
            below, j, m = j, 2.0 * m / x * j - below, m + 1.0
        if n % 1.0:  # for powers of whole numbers are many times faster
            j = j * torch.sqrt(2.0 / x)
        result[~near] = math.gamma(n + 1.0) * (2.0 / x) ** int(n) * j
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.n = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * _bessel_slope(ctx.saved_tensors[0], ctx.n), None

    @staticmethod
    def jvp(ctx: Any, moved: Tensor, _: None) -> Tensor:
        return moved * _bessel_slope(ctx.saved_tensors[0], ctx.n)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, None], x: Tensor, n: float) -> tuple[Tensor, Any]:
        return _bessel(x, n), dims[0]


def _bessel(x: Tensor, n: float) -> Tensor:
    return torch.as_tensor(_Bessel.apply(x, n))  # type: ignore[no-untyped-call]


def _bessel_slope(x: Tensor, n: float) -> Tensor:
    return -x * _bessel(x, n + 1.0) / (2.0 * (n + 1.0))


def _both(function: Callable[[Tensor, float], Tensor], phase: Tensor, epsilon: float | Tensor
          ) -> Tensor:
    """Return what root and parabola of eq. 18.14 add up to.

    They carry the fractions 1 - epsilon and 2 epsilon / 3 of 1 - epsilon / 3: that is what their
    integrals over t give.
    """
    return torch.as_tensor(((1.0 - epsilon) * function(phase, 1.0) + (2.0 * epsilon / 3.0)
                            * function(phase, 1.5)) / (1.0 - epsilon / 3.0))


def transform(phase: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the Fourier transform of Gray's kernel, normalised to 1 at phase 0.

    Parameters
    ----------
    phase : tensor
        Angular frequency times vsini / c, dimensionless.
    epsilon : float or tensor
        Linear limb-darkening coefficient, broadcastable to `phase`.
    """
    return _both(_bessel, phase, epsilon)


def slope(phase: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the derivative of :func:`transform` with respect to the phase."""
    return _both(_bessel_slope, phase, epsilon)


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
