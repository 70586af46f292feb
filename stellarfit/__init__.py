"""Fit stellar spectra with emulators: flux at the detector in, labels out.

>>> import stellarfit
>>> result = stellarfit.fit("star.fits", instrument="harps")        # doctest: +SKIP
>>> print(result.summary())                                         # doctest: +SKIP
"""

from __future__ import annotations

from stellarfit.fitting import fit
from stellarfit.instrument import Instrument
from stellarfit.quality import Flag
from stellarfit.readers import read
from stellarfit.result import FitResult, load_result
from stellarfit.sampling import Posterior, sample
from stellarfit.spectrum import Spectrum

__all__ = [
    "FitResult", "Flag", "Instrument", "Posterior", "Spectrum",
    "fit", "load_result", "read", "sample",
]
