"""An arm: a stretch of pixels with one line-spread function and one continuum.

A spectrograph's arms, the orders of an echelle and the exposures of a star are all arms.
They share the star, and each has its own instrument, continuum and, if a fit frees it,
velocity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stellarfit.continuum import Chebyshev, Continuum
from stellarfit.instrument import Instrument
from stellarfit.resolution_matrix import PixelMatrix


@dataclass(frozen=True, eq=False)
class Arm:
    """The pixels of one arm and how they see a star.

    Attributes
    ----------
    wavelength : (n_pix,) float64
        Angstrom, increasing, in the emulator's medium.
    instrument : Instrument
    continuum : Continuum
    name : str
        Of the arm: its velocity is the parameter ``rv_NAME``, its resolution
        ``resolution_NAME``.
    matrix : PixelMatrix, optional
        Takes the place of the instrument's profile.
    """

    wavelength: NDArray[np.float64]
    instrument: Instrument
    continuum: Continuum = field(default_factory=Chebyshev)
    name: str = ""
    matrix: PixelMatrix | None = None

    def __len__(self) -> int:
        return len(self.wavelength)
