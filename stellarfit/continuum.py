"""The continuum: Chebyshev polynomials, solved exactly for every trial of the rest.

The observed flux is the normalised model times ``sum_k a_k T_k``.  The coefficients enter
linearly, so for given stellar parameters the best ones are a linear least-squares solution
(variable projection; Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413), and the residual
and its derivatives only need the projection away from the columns ``model * T_k``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.polynomial import chebyshev
from torch import Tensor


def basis(wavelength: Tensor, degree: int, window: tuple[float, float]) -> Tensor:
    """Return T_k(x), (n_pix, degree + 1) float64, x the wavelength scaled to [-1, 1]."""
    low, high = window
    x = (2.0 * wavelength.cpu().double() - (low + high)) / (high - low)
    return torch.as_tensor(chebyshev.chebvander(x.numpy(), degree), device=wavelength.device)


@dataclass(frozen=True)
class Projection:
    """The best continuum for a model, and what is left.

    Attributes
    ----------
    coefficients : (n_spec, n_term) float64
    continuum : (n_spec, n_pix) float64
        ``sum_k a_k T_k``.
    residual : (n_spec, n_pix) float64
        (data - model * continuum) / sigma; 0 at ignored pixels.
    frame : (n_spec, n_pix, n_term) float64
        Orthonormal basis of the weighted columns ``model * T_k / sigma``.
    """

    coefficients: Tensor
    continuum: Tensor
    residual: Tensor
    frame: Tensor

    @property
    def chi2(self) -> Tensor:
        """Sum of squared residuals, (n_spec,)."""
        return (self.residual**2).sum(-1)

    def remove(self, columns: Tensor) -> Tensor:
        """Return weighted columns (n_spec, n_pix, n_column) without what the continuum explains."""
        return columns - self.frame @ (self.frame.transpose(-1, -2) @ columns)


def project(model: Tensor, flux: Tensor, weight: Tensor, terms: Tensor) -> Projection:
    """Solve for the continuum of each spectrum.

    Parameters
    ----------
    model, flux : (n_spec, n_pix) tensors
        Normalised model and observed flux.
    weight : (n_spec, n_pix) tensor
        1 / sigma; 0 at pixels to ignore.
    terms : (n_pix, n_term) float64 tensor
        From :func:`basis`.
    """
    model, flux, weight = model.double(), flux.double(), weight.double()
    columns = (weight * model).unsqueeze(-1) * terms
    frame, triangle = torch.linalg.qr(columns)
    data = weight * flux
    inner = (frame.transpose(-1, -2) @ data.unsqueeze(-1))
    # With fewer good pixels than terms the triangle is singular: the least-norm
    # solution is as good as any, and such spectra are flagged elsewhere.
    coefficients = (torch.linalg.pinv(triangle) @ inner).squeeze(-1)
    residual = data - (frame @ inner).squeeze(-1)
    return Projection(coefficients, coefficients @ terms.T, residual, frame)
