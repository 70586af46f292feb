"""Fit stellar spectra with emulators: flux at the detector in, labels out.

>>> import stellarfit
>>> result = stellarfit.fit("star.fits", instrument="harps")        # doctest: +SKIP
>>> print(result.summary())                                         # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Loaded at first use, so that the command line can answer --help without torch.
_HOMES = {
    "FitResult": "result", "Flag": "quality", "Instrument": "instrument",
    "Posterior": "sampling", "Spectrum": "spectrum", "fit": "fitting",
    "load_result": "result", "read": "readers", "sample": "sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stellarfit' has no attribute {name!r}")
    return getattr(import_module(f"stellarfit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
