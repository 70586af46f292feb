"""Between and around the training pixels: band-limited interpolation and convolution.

A network is held to the synthesis only at its training pixels; between them, where lines
about as narrow as a pixel leave it free, it may do as it likes.  A line-spread function
that needs more points therefore gets them by interpolation, after rotation has smoothed
the spectrum: the Fourier series through the samples, exact for all that they resolve.
What broadens the star is a product in the same series.
"""

from __future__ import annotations

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor

#: training pixels at either end that feel what the samples do not show beyond it
EDGE = 3


def period(n_pix: int) -> int:
    """Return how long :func:`mirrored` makes n_pix pixels: a length with a fast transform."""
    return 2 * int(next_fast_len(n_pix, real=True))


def mirrored(flux: Tensor) -> Tensor:
    """Return flux (..., n) followed by its end and itself reversed, for a Fourier transform.

    Its ends meet without a jump, whose ringing would reach into the window.
    """
    n_pix = flux.shape[-1]
    end = flux[..., -1:].expand(*flux.shape[:-1], period(n_pix) - 2 * n_pix)
    return torch.cat([flux, end, flux.flip(-1)], dim=-1)


def frequencies(n_pix: int, log_step: float, device: torch.device | str = "cpu") -> Tensor:
    """Return the angular frequencies (n_frequency,) of :func:`filtered`, per ln(wavelength)."""
    cycles = torch.fft.rfftfreq(period(n_pix), d=log_step, device=device, dtype=torch.float64)
    return torch.as_tensor(2.0 * math.pi * cycles)


def series(flux: Tensor) -> Tensor:
    """Return the Fourier series of flux (..., n), at :func:`frequencies`."""
    return torch.as_tensor(torch.fft.rfft(mirrored(flux)))


def sampled(series: Tensor, n_pix: int) -> Tensor:
    """Return the flux (..., n_pix) of a series: the inverse of :func:`series`."""
    return torch.as_tensor(torch.fft.irfft(series, n=period(n_pix))[..., :n_pix])


def filtered(flux: Tensor, transform: Tensor) -> Tensor:
    """Return flux (..., n) convolved with the kernel of a real transform at :func:`frequencies`.

    Near the ends it holds the flux of a star whose spectrum is mirrored there; the caller
    keeps such pixels out.
    """
    return sampled(series(flux) * transform.to(flux.dtype), flux.shape[-1])


def refine(flux: Tensor, factor: int) -> Tensor:
    """Return flux (..., n) with factor - 1 points in every step, (..., factor (n - 1) + 1).

    Linear in the flux; the samples themselves are kept.
    """
    if factor == 1:
        return flux
    n_pix = flux.shape[-1]
    fine = torch.fft.irfft(factor * series(flux), n=period(n_pix) * factor)
    return torch.as_tensor(fine[..., :factor * (n_pix - 1) + 1])
