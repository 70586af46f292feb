"""Turbospectrum's output: wavelength, normalised flux, flux, and perhaps intensities.

bsyn writes them without a header (``bsynb.f``, formats 1964 and 1965).  A normalised flux of
-1 says that the transfer did not converge there, and the last one is NaN where gfortran
compiled an old version; both are unknown.  The medium is that of the line list.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emulators.conversion.content import Content
from emulators.conversion.text import read_head, read_numbers


def read_turbospectrum(path: Path) -> Content:
    """Read a spectrum as Turbospectrum writes it."""
    numbers = read_numbers(path, read_head(path))
    if len(numbers) < 3:
        raise ValueError(f"{len(numbers)} columns, but Turbospectrum writes wavelength, normalised "
                         "flux and flux; use format='text'")
    return Content(numbers[0], np.where(numbers[1] == -1.0, np.nan, numbers[1]), unit="Angstrom")
