"""Between the training pixels: band-limited interpolation of an emulated spectrum.

A network is held to the synthesis only at its training pixels; between them, where lines
about as narrow as a pixel leave it free, it may do as it likes.  A line-spread function
that needs more points therefore gets them by interpolation, after rotation has smoothed
the spectrum: the Fourier series through the samples, exact for all that they resolve.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: training pixels at either end that feel what the samples do not show beyond it
EDGE = 3


def mirrored(flux: Tensor) -> Tensor:
    """Return flux (..., n) followed by itself reversed, (..., 2 n), for a Fourier transform.

    Its ends meet without a jump, whose ringing would reach into the window.
    """
    return torch.cat([flux, flux.flip(-1)], dim=-1)


def refine(flux: Tensor, factor: int) -> Tensor:
    """Return flux (..., n) with factor - 1 points in every step, (..., factor (n - 1) + 1).

    Linear in the flux; the samples themselves are kept.
    """
    if factor == 1:
        return flux
    n_pix = flux.shape[-1]
    series = torch.fft.rfft(mirrored(flux))
    fine = torch.fft.irfft(factor * series, n=2 * n_pix * factor)
    return torch.as_tensor(fine[..., :factor * (n_pix - 1) + 1])
