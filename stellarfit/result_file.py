"""Results as HDF5: a file of one, or a group of a file of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellarfit.hdf5 import in_memory, opened, write_arrays
from stellarfit.resolution_matrix import PixelMatrix
from stellarfit.result import FitResult
from stellarfit.spectrum import Spectrum

FORMAT = "stellarfit-result-2"
_ARRAYS = ("values", "covariance", "conditional_errors", "label_values", "label_errors",
           "coefficients", "full_covariance", "rvs", "used", "model", "continuum")
_OF_SPECTRUM = ("wavelength", "flux", "ivar", "mask")
_STATE = ("names", "units", "label_names", "verdicts", "chi2", "dof", "converged", "iterations",
          "flags", "arms", "provenance")


def save_result(result: FitResult, path: str | Path) -> Path:
    """Write a result to a file of its own, whole or not at all; return the path."""
    with in_memory(path) as file:
        write_result(result, file)
    return Path(path)


def write_result(result: FitResult, group: Any) -> None:
    """Write a result into a group of an open HDF5 file."""
    state = {**{k: getattr(result, k) for k in _STATE},
             "spectra": [{"name": s.name, "medium": s.medium, "meta": s.meta}
                         for s in result.spectra]}
    group.attrs["format"] = FORMAT
    # what a header said may be of any type
    group.attrs["state"] = json.dumps(state, default=str)
    write_arrays(group, _arrays(result))


def _arrays(result: FitResult) -> dict[str, NDArray[Any]]:
    arrays = {k: np.atleast_1d(getattr(result, k)) for k in _ARRAYS}
    for i, spectrum in enumerate(result.spectra):
        arrays |= {f"spectrum_{i}_{k}": getattr(spectrum, k) for k in _OF_SPECTRUM}
        if spectrum.resolution is not None:
            arrays[f"spectrum_{i}_resolution"] = spectrum.resolution
        if spectrum.matrix is not None:
            arrays[f"spectrum_{i}_matrix"] = spectrum.matrix.band
    return arrays


def load_result(path: str | Path) -> FitResult:
    """Read what :meth:`FitResult.save` wrote.

    Raises
    ------
    FileNotFoundError
    ValueError
        When the file is damaged or something else.
    """
    with opened(path, "result", FORMAT) as file:
        return read_result(file)


def read_result(group: Any) -> FitResult:
    """Return what :func:`write_result` wrote into a group of an HDF5 file."""
    from astropy import units

    state = json.loads(group.attrs["state"])
    arrays = {k: group[k][()] for k in group}
    spectra = []
    for i, described in enumerate(state.pop("spectra")):
        wavelength, flux, ivar, mask = (arrays.pop(f"spectrum_{i}_{k}") for k in _OF_SPECTRUM)
        resolution, band = (arrays.pop(f"spectrum_{i}_{k}", None)
                            for k in ("resolution", "matrix"))
        spectra.append(Spectrum(
            units.Quantity(wavelength, "Angstrom"), flux, ivar=ivar, mask=mask,
            resolution=resolution, matrix=None if band is None else PixelMatrix(band), **described))
        # Masked pixels lost their reasons when they were masked; the first count knew them.
        spectra[-1].meta.update(described["meta"])
    for key in ("names", "units", "label_names", "arms"):
        state[key] = tuple(state[key])
    return FitResult(spectra=tuple(spectra), **state, **arrays)
