"""Fit stellar spectra with emulators: flux at the detector in, labels out.

>>> import stellarfit
>>> result = stellarfit.fit("star.fits", instrument="harps")        # doctest: +SKIP
>>> print(result.summary())                                         # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stellarfit.calibration import Calibration, calibrate, load_calibration
    from stellarfit.fitting import fit, fit_batch
    from stellarfit.instrument import Instrument
    from stellarfit.lsf_plot import plot_lsf
    from stellarfit.plot import plot_fit, plot_residuals
    from stellarfit.posterior.comparison import compare
    from stellarfit.posterior.plot import plot_corner
    from stellarfit.posterior.result import Posterior, load_posterior
    from stellarfit.posterior.sampling import sample, sample_batch
    from stellarfit.quality import Flag
    from stellarfit.readers import read, read_all
    from stellarfit.report.writing import write_report
    from stellarfit.result import FitResult
    from stellarfit.result_file import load_result
    from stellarfit.spectrum import Spectrum, from_specutils
    from stellarfit.survey.many import fit_many

__all__ = [
    "Calibration", "FitResult", "Flag", "Instrument", "Posterior", "Spectrum",
    "calibrate", "compare", "fit", "fit_batch", "fit_many", "from_specutils", "load_calibration",
    "load_posterior", "load_result", "plot_corner", "plot_fit", "plot_lsf", "plot_residuals",
    "read", "read_all", "sample", "sample_batch", "write_report",
]

# Loaded at first use, so that the command line can answer --help without torch.
_HOMES = {
    "Calibration": "calibration", "FitResult": "result", "Flag": "quality",
    "Instrument": "instrument", "Posterior": "posterior.result", "Spectrum": "spectrum",
    "calibrate": "calibration", "compare": "posterior.comparison", "fit": "fitting",
    "fit_batch": "fitting", "fit_many": "survey.many", "from_specutils": "spectrum",
    "load_calibration": "calibration", "load_posterior": "posterior.result",
    "load_result": "result_file", "plot_corner": "posterior.plot", "plot_fit": "plot",
    "plot_lsf": "lsf_plot", "plot_residuals": "plot", "read": "readers",
    "read_all": "readers", "sample": "posterior.sampling",
    "sample_batch": "posterior.sampling", "write_report": "report.writing",
}


# Modules that texts send users to.
_MODULES = ("continuum", "priors", "survey")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"stellarfit.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'stellarfit' has no attribute {name!r}")
    return getattr(import_module(f"stellarfit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
