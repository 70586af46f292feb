"""The continuum: linear, so solved exactly for every trial of the rest.

The observed flux is the normalised model times ``c_0 + sum_k a_k T_k``, where c_0 is 1 for
a spectrum that is normalised already and 0 otherwise.  The coefficients enter linearly, so
for given stellar parameters the best ones are a linear least-squares solution (variable
projection; Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413), and the residual and its
derivatives only need the projection away from the columns ``model * T_k``.

Under a flat prior the coefficients integrate out in closed form: with S the whitened
columns ``model * T_k``,

    -2 ln L = chi2 + ln det(S^T S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

from stellarfit.noise import Noise

Array = NDArray[np.float64]
HIGHEST_DEGREE = 30


class Continuum(Protocol):
    """What multiplies the normalised model in one arm."""

    def terms(self, wavelength: Array, window: tuple[float, float]) -> Array:
        """Return the basis (n_pix, n_term) at wavelengths (n_pix,) of an emulator's window."""

    @property
    def level(self) -> float:
        """The part c_0 that is not fitted."""


@dataclass(frozen=True)
class Chebyshev:
    """A Chebyshev polynomial over the emulator's window, or one for each piece of it.

    Parameters
    ----------
    degree : int
    breaks : tuple of float
        Wavelengths, Angstrom, where one polynomial ends and the next begins, without any
        condition that they meet.
    """

    degree: int = 3
    breaks: tuple[float, ...] = ()
    level: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= HIGHEST_DEGREE:
            raise ValueError(f"the continuum's degree is {self.degree}; "
                             f"expected 0 to {HIGHEST_DEGREE}")
        if not all(math.isfinite(b) for b in self.breaks):
            raise ValueError(f"the continuum breaks at {self.breaks}; expected wavelengths in Å")

    def terms(self, wavelength: Array, window: tuple[float, float]) -> Array:
        """Return T_k(x) of each piece, x the wavelength scaled to [-1, 1] across it."""
        low, high = window
        edges = [low, *(b for b in sorted(self.breaks) if low < b < high), high]
        piece = np.searchsorted(edges[1:-1], wavelength, side="right")
        columns = []
        for i, (first, last) in enumerate(pairwise(edges)):
            x = (2.0 * wavelength - (first + last)) / (last - first)
            inside = chebyshev.chebvander(x, self.degree) * (piece == i)[:, None]
            columns.append(inside)
        return np.hstack(columns)

    def __str__(self) -> str:
        return f"chebyshev:{self.degree}" + "".join(f":{b:g}" for b in self.breaks)


@dataclass(frozen=True)
class Spline:
    """A cubic spline with knots every `spacing` Angstrom."""

    spacing: float
    level: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.spacing) and self.spacing > 0):
            raise ValueError(f"the continuum's knots are {self.spacing} Å apart; "
                             "expected a positive number")

    def terms(self, wavelength: Array, window: tuple[float, float]) -> Array:
        """Return the cubic B-splines on equidistant knots over what the pixels span."""
        from scipy.interpolate import BSpline

        low, high = max(window[0], wavelength[0]), min(window[1], wavelength[-1])
        low, high = (low, high) if high > low else (wavelength[0], wavelength[-1])
        count = max(1, round((high - low) / self.spacing))
        inner = np.linspace(low, high, count + 1)
        knots = np.concatenate([np.full(3, low), inner, np.full(3, high)])
        x = np.clip(wavelength, low, high)
        return np.asarray(BSpline.design_matrix(x, knots, 3).toarray())

    def __str__(self) -> str:
        return f"spline:{self.spacing:g}"


@dataclass(frozen=True)
class Normalised:
    """No continuum: the spectrum has been divided by its own, and nothing is fitted."""

    level: float = 1.0

    def terms(self, wavelength: Array, window: tuple[float, float]) -> Array:
        """Return no columns at all, (n_pix, 0)."""
        return np.empty((len(wavelength), 0))

    def __str__(self) -> str:
        return "normalised"


def as_continuum(value: int | str | Continuum) -> Continuum:
    """Return a continuum from a degree, or from what :func:`str` makes of one.

    Raises
    ------
    ValueError
        For anything but a degree, ``chebyshev:DEGREE[:BREAK...]``, ``spline:SPACING`` or
        ``normalised``.
    """
    if isinstance(value, (Chebyshev, Spline, Normalised)):
        return value
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        if value != int(value):
            raise ValueError(f"the continuum's degree is {value}; expected a whole number")
        return Chebyshev(int(value))
    if not isinstance(value, str):
        if not callable(getattr(value, "terms", None)):
            raise ValueError(f"{value!r} is no continuum; expected a degree, its spelling or a "
                             "Chebyshev, Spline or Normalised of stellarfit.continuum")
        return value  # type: ignore[return-value]
    kind, *numbers = value.split(":")
    try:
        if kind == "normalised" and not numbers:
            return Normalised()
        if kind == "spline" and len(numbers) == 1:
            return Spline(float(numbers[0]))
        if kind == "chebyshev" and numbers:
            return Chebyshev(int(numbers[0]), tuple(float(n) for n in numbers[1:]))
        return Chebyshev(int(kind))
    except ValueError as error:
        why = "" if "literal" in str(error) or "convert" in str(error) else f" ({error})"
        raise ValueError(
            f"'{value}' is no continuum{why}; expected a degree, chebyshev:DEGREE[:BREAK...], "
            "spline:SPACING (Å between knots) or normalised"
        ) from error


@dataclass(frozen=True)
class Projection:
    """The best continuum for a model, and what is left.

    Attributes
    ----------
    coefficients : (n_spec, n_term) float64
    continuum : (n_spec, n_pix) float64
        ``c_0 + sum_k a_k T_k``.
    residual : (n_spec, n_pix) float64
        (data - model * continuum), whitened; 0 at ignored pixels.
    frame : (n_spec, n_pix, n_term) float64
        Orthonormal basis of the whitened columns ``model * T_k``.
    triangle : (n_spec, n_term, n_term) float64
        ``frame @ triangle`` are those columns.
    """

    coefficients: Tensor
    continuum: Tensor
    residual: Tensor
    frame: Tensor
    triangle: Tensor

    @property
    def chi2(self) -> Tensor:
        """Sum of squared residuals, (n_spec,)."""
        return (self.residual**2).sum(-1)

    @property
    def log_determinant(self) -> Tensor:
        """ln det(S^T S), (n_spec,): the volume of what the coefficients may be."""
        diagonal = torch.diagonal(self.triangle, dim1=-2, dim2=-1).abs()
        return torch.as_tensor(2.0 * torch.log(diagonal.clamp(min=1e-300)).sum(-1))

    @property
    def covariance(self) -> Tensor:
        """Of the coefficients at fixed stellar parameters, (n_spec, n_term, n_term)."""
        inverse = torch.linalg.pinv(self.triangle)
        return torch.as_tensor(inverse @ inverse.transpose(-1, -2))

    def remove(self, columns: Tensor) -> Tensor:
        """Return whitened columns (n_spec, n_pix, n_column) less what the continuum explains."""
        return columns - self.frame @ (self.frame.transpose(-1, -2) @ columns)


def project(model: Tensor, flux: Tensor, noise: Noise, terms: Tensor, level: Tensor) -> Projection:
    """Solve for the continuum of each spectrum.

    Parameters
    ----------
    model, flux : (n_spec, n_pix) tensors
        Normalised model and observed flux.
    noise : Noise
        Of the same spectra.
    terms : (n_pix, n_term) float64 tensor
    level : (n_pix,) float64 tensor
        The part c_0 that is not fitted.
    """
    model, flux = model.double(), flux.double()
    columns = noise.whiten(model.unsqueeze(-1) * terms)
    frame, triangle = torch.linalg.qr(columns)
    data = noise.whiten((flux - level * model).unsqueeze(-1))
    inner = frame.transpose(-1, -2) @ data
    # With fewer good pixels than terms the triangle is singular: the least-norm
    # solution is as good as any, and such spectra are flagged elsewhere.
    coefficients = (torch.linalg.pinv(triangle) @ inner).squeeze(-1)
    residual = (data - frame @ inner).squeeze(-1)
    return Projection(coefficients, level + coefficients @ terms.T, residual, frame, triangle)
