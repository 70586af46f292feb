"""Line-spread function and pixels: from a rest-frame log grid to the detector.

A detector pixel holds the mean, over its width, of the spectrum convolved with the
instrument's profile.  For a Gaussian profile both are one integral with a closed form: the
weight of the spectrum at ln(wavelength) y in the pixel between edges e1 and e2 is

    [Phi((e2 - s - y) / sigma) - Phi((e1 - s - y) / sigma)] / (e2 - e1),

where s is the Doppler shift and Phi the normal distribution function.  A Gauss-Hermite
profile (van der Marel & Franx 1993, ApJ 407, 525, eq. 9),

    phi(x) [1 + h3 (2 sqrt(2) x^3 - 3 sqrt(2) x) / sqrt(6) + h4 (4 x^4 - 12 x^2 + 3) / sqrt(24)],

has a closed form too, since the derivative of -phi He_(n-1) is phi He_n.  The weights are a
narrow band around each pixel, differentiable in s and sigma.  The star is thus never
resampled: shift, profile and pixel act at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stellarfit.constants import SIGMA_PER_FWHM

#: the band reaches this many sigma beyond the pixel: what lies outside a Gaussian is 6e-7,
#: outside one with h4 = 0.1 it is 3e-5
REACH = 5.0
#: sigma, in steps of the grid, below which the grid could not tell it from zero
SMALLEST_STEPS = 0.25

#: how weighted sums over the grid are taken: of flux, index and weights
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def sigma_of(resolution: Tensor) -> Tensor:
    """Return the Gaussian sigma in ln(wavelength) of R = wavelength / FWHM."""
    return SIGMA_PER_FWHM / resolution.double()


def cumulative(x: Tensor, h3: float = 0.0, h4: float = 0.0) -> Tensor:
    """Return the integral of a Gauss-Hermite profile of unit sigma up to x, from x = 0.

    In terms of He_n the polynomials of h3 and h4 are (2 sqrt(2) He_3 + 3 sqrt(2) He_1) / sqrt(6)
    and (4 He_4 + 12 He_2 + 3) / sqrt(24).
    """
    gaussian = 0.5 * torch.erf(x * math.sqrt(0.5))
    if h3 == 0.0 and h4 == 0.0:
        return gaussian
    phi = torch.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    skew = (2.0 * math.sqrt(2.0) * (x**2 - 1.0) + 3.0 * math.sqrt(2.0)) / math.sqrt(6.0)
    tails = (4.0 * (x**3 - 3.0 * x) + 12.0 * x) / math.sqrt(24.0)
    return (1.0 + 3.0 * h4 / math.sqrt(24.0)) * gaussian - phi * (h3 * skew + h4 * tails)


def density(x: Tensor, h3: float = 0.0, h4: float = 0.0) -> Tensor:
    """Return the derivative of :func:`cumulative`: the profile itself."""
    phi = torch.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    if h3 == 0.0 and h4 == 0.0:
        return phi
    skew = (2.0 * math.sqrt(2.0) * (x**3 - 3.0 * x) + 3.0 * math.sqrt(2.0) * x) / math.sqrt(6.0)
    tails = (4.0 * (x**4 - 6.0 * x**2 + 3.0) + 12.0 * (x**2 - 1.0) + 3.0) / math.sqrt(24.0)
    return phi * (1.0 + h3 * skew + h4 * tails)


def pixel_edges(wavelength: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and upper edges (n_pix,) of pixels centred at wavelength, in ln(wavelength).

    Edges lie halfway between neighbours; beside a gap a pixel keeps the width it has on
    its other side.
    """
    log_wavelength = np.log(wavelength)
    step = np.diff(log_wavelength)
    left, right = np.append(step[:1], step), np.append(step, step[-1:])
    width = np.minimum(left, right)
    # Where steps only differ by the curvature of the grid, the two halves stay different.
    smooth = np.maximum(left, right) < 1.5 * width
    return (log_wavelength - 0.5 * np.where(smooth, left, width),
            log_wavelength + 0.5 * np.where(smooth, right, width))


def gathered(flux: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums (..., n_spec, n_pix) of flux (..., n_spec, n_grid).

    Differentiable in the flux and in the weights, (n_spec, n_pix, band).
    """
    places = index.flatten(-2).long().expand(*flux.shape[:-1], -1)
    values = torch.gather(flux, -1, places).reshape(*flux.shape[:-1], *index.shape[-2:])
    return torch.as_tensor((weights * values).sum(-1))


def multiplied(flux: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return what :func:`gathered` does, as a sparse product: many times faster, no derivatives."""
    n_spec, n_pix, band = index.shape
    n_grid = flux.shape[-1]
    place = n_grid * torch.arange(n_spec, dtype=index.dtype, device=index.device)[:, None, None]
    rows = band * torch.arange(n_spec * n_pix + 1, dtype=index.dtype, device=index.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR", UserWarning)  # that it is in beta
        matrix = torch.sparse_csr_tensor(rows, (place + index).flatten(), weights.flatten(),
                                         size=(n_spec * n_pix, n_spec * n_grid),
                                         check_invariants=False)
    columns = flux.reshape(-1, n_spec * n_grid).T.contiguous()
    return (matrix @ columns).T.reshape(*flux.shape[:-1], n_pix)


class LineSpread:
    """Maps rest-frame spectra on a uniform ln(wavelength) grid to observed pixels.

    Parameters
    ----------
    wavelength : (n_pix,) float64
        Centres of the observed pixels, Angstrom.
    log_start, log_step : float
        First point and spacing of the rest-frame grid in ln(wavelength).
    n_grid : int
        Number of its points.
    smallest_resolution : float
        Sets the width of the band once and for all.
    h3, h4 : float
        Of the Gauss-Hermite profile.
    device : torch.device
    """

    def __init__(
        self, wavelength: NDArray[np.float64], *, log_start: float, log_step: float,
        n_grid: int, smallest_resolution: float, h3: float = 0.0, h4: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        low, high = pixel_edges(wavelength)
        self.low, self.high = (
            torch.as_tensor((edge - log_start) / log_step, device=device) for edge in (low, high)
        )
        self.log_step, self.n_grid, self.h3, self.h4 = log_step, n_grid, h3, h4
        widest = float((self.high - self.low).max())
        sigma = SIGMA_PER_FWHM / smallest_resolution / log_step
        self.band = math.ceil(widest + 2.0 * REACH * sigma) + 2
        self.offsets = torch.arange(self.band, dtype=torch.int32, device=device)

    def __call__(self, flux: Tensor, shift: Tensor, sigma: Tensor) -> Tensor:
        """Return observed flux (..., n_spec, n_pix) of rest-frame flux (..., n_spec, n_grid).

        Parameters
        ----------
        flux : (..., n_spec, n_grid) tensor
            Or derivatives of it: the map is linear.
        shift : (n_spec,) float64 tensor
            Doppler shift in ln(wavelength).
        sigma : (n_spec,) or (n_spec, n_pix) float64 tensor
            Of the Gaussian profile, in ln(wavelength); smaller than a quarter of the grid
            step it is taken as that, which the grid could not tell from zero.

        Returns
        -------
        (..., n_spec, n_pix) tensor
            Pixels that reach beyond the grid use its end values; the caller masks them.
        """
        return gathered(flux, *self.weights(shift, sigma, flux.dtype))

    def weights(self, shift: Tensor, sigma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return which grid points each pixel sees, and their weights, (n_spec, n_pix, band).

        Parameters
        ----------
        shift, sigma : tensors
            As in a call.
        dtype : torch.dtype
            Of the flux: the integral may be taken in its precision, since the argument is a
            small difference.
        """
        if self.h3 == self.h4 == 0.0:
            index, upper, lower, _ = self._edges(shift, sigma, dtype, unit=math.sqrt(2.0))
            weights = torch.erf(upper) - torch.erf(lower)
        else:
            index, upper, lower, _ = self._edges(shift, sigma, dtype)
            weights = cumulative(upper, self.h3, self.h4) - cumulative(lower, self.h3, self.h4)
        # Normalising the sum of the weights keeps the continuum at 1 exactly.
        return index.clamp(0, self.n_grid - 1), weights / weights.sum(-1, keepdim=True)

    def weights_along(
        self, shift: Tensor, sigma: Tensor, moved: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return the derivative of the weights as sigma moves."""
        _, upper, lower, width = self._edges(shift, sigma, dtype)
        weights = cumulative(upper, self.h3, self.h4) - cumulative(lower, self.h3, self.h4)
        wider = (moved / self.log_step).to(dtype)
        wider = torch.where(sigma / self.log_step > SMALLEST_STEPS, wider, 0.0)
        wider = (wider.unsqueeze(-1) if wider.ndim == 1 else wider).unsqueeze(-1)
        change = [-density(x, self.h3, self.h4) * x * wider for x in (upper, lower)]
        moved = (change[0] - change[1]) / width.to(dtype)
        total = weights.sum(-1, keepdim=True)
        return (moved - weights * moved.sum(-1, keepdim=True) / total) / total

    def _edges(
        self, shift: Tensor, sigma: Tensor, dtype: torch.dtype, unit: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return grid points, the pixels' edges from there in units of sigma, and those in steps.
        """
        shift = (shift / self.log_step).unsqueeze(-1)
        sigma = unit * (sigma / self.log_step).clamp(min=SMALLEST_STEPS)
        if sigma.ndim == 1:
            sigma = sigma.unsqueeze(-1)
        low, high = self.low - shift, self.high - shift              # (n_spec, n_pix)
        centre = 0.5 * (low + high)
        # Which grid points take part has no derivative; their weights carry it.
        first = torch.floor(centre.detach() - 0.5 * self.band).to(torch.int32) + 1
        index = first.unsqueeze(-1) + self.offsets                   # (n_spec, n_pix, band)
        # From the first of them on, numbers are small enough for the flux's precision.
        steps = (self.offsets / sigma.unsqueeze(-1)).to(dtype)
        upper, lower = (((edge - first) / sigma).to(dtype).unsqueeze(-1) - steps
                        for edge in (high, low))
        return index, upper, lower, sigma.unsqueeze(-1)

    def reach(self, resolution: float) -> float:
        """Return how far, in ln(wavelength), a pixel's weights extend from its centre."""
        widest = float((self.high - self.low).max()) * self.log_step
        return 0.5 * widest + REACH * SIGMA_PER_FWHM / resolution
