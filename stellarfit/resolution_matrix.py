"""A line-spread function given as a matrix, pixel by pixel, as DESI delivers it.

Spectro-perfectionism (Bolton & Schlegel 2010, PASP 122, 248) extracts a spectrum together
with the matrix R that says how it saw a star: observed = R @ flux, where flux is the star's
mean over each of the detector's pixels.  The matrix is banded; :class:`PixelMatrix` keeps
the band.  It already holds the instrument's profile, so the stage before it only averages
over pixels: nothing is convolved twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stellarfit.constants import SIGMA_PER_FWHM


@dataclass(frozen=True, eq=False)
class PixelMatrix:
    """A banded matrix from pixels of the star to pixels of the observation.

    Parameters
    ----------
    band : (n_diagonal, n_pix) float64
        ``band[d, i]`` multiplies pixel ``i + d - n_diagonal // 2`` in the sum for pixel i.

    Raises
    ------
    ValueError
        For an even number of diagonals or values that are not finite.
    """

    band: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.band.ndim != 2 or self.band.shape[0] % 2 == 0:
            raise ValueError(
                f"a resolution matrix has an odd number of diagonals, got shape {self.band.shape}"
            )
        if not np.isfinite(self.band).all():
            raise ValueError("the resolution matrix has values that are not finite")

    @classmethod
    def from_desi(cls, data: NDArray[np.float64]) -> PixelMatrix:
        """Return the matrix of one target, (n_diagonal, n_pix) as in a DESI file.

        DESI stores SciPy's diagonals, from the uppermost: ``data[k, j]`` is the element of
        row ``j - offset`` and column j, ``offset = n_diagonal // 2 - k``.
        """
        count, n_pix = data.shape
        band = np.zeros((count, n_pix))
        for k in range(count):
            offset = count // 2 - k
            rows = np.arange(max(0, -offset), min(n_pix, n_pix - offset))
            band[offset + count // 2, rows] = data[k, rows + offset]
        return cls(band)

    def cut(self, keep: NDArray[np.bool_]) -> PixelMatrix:
        """Return the rows of the pixels to keep, a contiguous run; what they see beyond is lost."""
        return PixelMatrix(np.array(self.band[:, keep]))

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Pixels, (n_pix,) bool, of which the matrix knows nothing: DESI zeroes masked rows."""
        light = self.band.sum(axis=0)
        return np.asarray(light <= 0.5 * np.median(light[light > 0])
                          if (light > 0).any() else np.ones(len(light), dtype=bool))

    def resolution(self, wavelength: NDArray[np.float64]) -> float:
        """Return the typical R = wavelength / FWHM that the matrix amounts to.

        From its second moments, in pixels of wavelengths (n_pix,); what averages over the
        pixel is not in it.
        """
        offset = np.arange(self.band.shape[0])[:, None] - self.band.shape[0] // 2
        good = ~self.empty
        total = self.band[:, good].sum(axis=0)
        mean = (self.band[:, good] * offset).sum(axis=0) / total
        square = (self.band[:, good] * offset**2).sum(axis=0) / total - mean**2
        sigma = float(np.sqrt(max(np.median(square), 0.05))) * np.gradient(np.log(wavelength))
        return float(SIGMA_PER_FWHM / np.median(sigma))

    def apply(self, flux: Tensor) -> Tensor:
        """Return the observed flux (..., n_pix) of the star's, a mean over each pixel.

        Rows are normalised: the continuum stays 1, and a row without light is the star's own
        (its pixel is to be ignored).
        """
        index, weights = self._rows
        return (flux[..., index] * flux.new_tensor(weights)).sum(-2)

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Columns and normalised weights of each row, (n_diagonal, n_pix)."""
        count, n_pix = self.band.shape
        index = np.arange(n_pix) + (np.arange(count) - count // 2)[:, None]
        band = np.where((index >= 0) & (index < n_pix), self.band, 0.0)
        total = band.sum(axis=0)
        alone = np.arange(count)[:, None] == count // 2
        weights = np.where(total > 0, band / np.where(total > 0, total, 1.0), 1.0 * alone)
        return index.clip(0, n_pix - 1), weights
