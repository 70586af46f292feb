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

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma, jv
from torch import Tensor

from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.interpolation import filtered, frequencies

Array = NDArray[np.float64]
LIMB_DARKENING = 0.6  # epsilon of a solar-type star in the optical (Gray 2005, section 17)
#: of the tabulated phases; at their end the transform has fallen to 2e-5, and is 0 from there
STEP, END = 1.0 / 64.0, 2048.0
#: where the series for small phases, of so many terms, ends
NEAR, TERMS = 2.0, 12


def _bessel(x: Array, n: float) -> Array:
    """Return L_n(x) = Gamma(n + 1) (2 / x)^n J_n(x), for n = 1, 3/2, 2 or 5/2.

    It is the transform of (1 - t^2)^(n - 1/2), 1 at x = 0; its derivative is
    -x L_(n+1)(x) / (2 (n + 1)).
    """
    near = np.ones_like(x)
    for k in range(TERMS, 0, -1):
        near = 1.0 - x.clip(max=NEAR) ** 2 * near / (4.0 * k * (n + k))
    x = x.clip(NEAR)
    far = gamma(n + 1.0) * (2.0 / x) ** n * jv(n, x)
    return np.asarray(np.where(x > NEAR, far, near))


@lru_cache
def _cubics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Return v, d, b and c of L_1, then of L_3/2 - L_1, each (n,): of cubics between the phases.

    They are v + d t + b t^2 + c t^3 from one phase, t = 0, to the next, t = 1, of values and
    derivatives there (Hermite's).
    """
    x = np.arange(0.0, END, STEP)
    found = []
    for n in (1.0, 1.5):
        v, d = _bessel(x, n), -STEP * x * _bessel(x, n + 1.0) / (2.0 * (n + 1.0))
        rise, after = np.diff(v, append=0.0), np.append(d[1:], 0.0)
        found += [v, d, 3.0 * rise - 2.0 * d - after, d + after - 2.0 * rise]
    found[4:] = [p - r for r, p in zip(found[:4], found[4:], strict=True)]
    return tuple(torch.as_tensor(f, dtype=dtype, device=device) for f in found)


def transform_and_slope(phase: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the Fourier transform of Gray's kernel, 1 at phase 0, and its derivative.

    By cubics between tabulated phases: exact to 1e-10, its derivative to 1e-8.

    Parameters
    ----------
    phase : tensor
        Angular frequency times vsini / c, dimensionless.
    epsilon : float or tensor
        Linear limb-darkening coefficient, broadcastable to `phase`.
    """
    place = phase.abs().clamp(max=END) / STEP
    left = place.detach().floor().clamp(max=END / STEP - 1.0)
    t, index = place - left, left.long().flatten()
    columns = [c.index_select(0, index).view_as(t) for c in _cubics(phase.dtype, phase.device)]
    # What of eq. 18.14 the parabola carries, by the integrals over t; the root has the rest.
    share = 2.0 * epsilon / (3.0 - epsilon)
    v, d, b, c = (r + share * more for r, more in zip(columns[:4], columns[4:], strict=True))
    return (v + t * (d + t * (b + t * c)),
            (d + t * (2.0 * b + 3.0 * t * c)) / STEP * torch.sign(phase))


def transform(phase: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return the first of :func:`transform_and_slope`."""
    return transform_and_slope(phase, epsilon)[0]


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
