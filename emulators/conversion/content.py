"""What a file of one spectrum holds, and what its columns are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.columns import column_words
from emulators.grid_check import FEW, HIGHEST, LOWEST, outside

# Names of columns by what they hold, without case and signs, the preferred first.
WAVELENGTH = ("wavelength", "wavelengths", "wave", "lambda", "lam", "wl", "wls", "waveobs", "awav")
FLUX = ("fluxnorm", "normalizedflux", "normalisedflux", "normflux", "rectifiedflux", "flux",
        "fluxes", "intensity", "spec", "spectrum")
CONTINUUM = ("continuum", "cntm", "cont", "fluxcontinuum", "continuumflux")


@dataclass(frozen=True)
class Content:
    """A spectrum as a file has it, before anything is checked.

    Parameters
    ----------
    wavelength, flux : (n_pix,) float64
    continuum : (n_pix,) float64, optional
        In the units of `flux`; used where `flux` is not normalised.
    unit : str
        Of `wavelength`, where the file or its format says so.
    medium : str
        ``air`` or ``vacuum``, where the file or its format says so.
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float64]
    continuum: NDArray[np.float64] | None = None
    unit: str = ""
    medium: str = ""


def is_normalised(flux: NDArray[Any]) -> bool:
    """Whether a flux can be relative to the continuum.

    A few pixels may lie outside, those of emission lines.  A flux that is tiny throughout
    is not normalised either: that of a star at Earth is 1e-13.
    """
    finite = flux[np.isfinite(flux)]
    return not finite.size or bool(outside(finite).mean() <= FEW and finite.max() > 1e-3)


def normalised(content: Content) -> NDArray[np.float32]:
    """Return the flux relative to the continuum, shape (n_pix,), NaN where it is unknown.

    Raises
    ------
    ValueError
        When it is not normalised and the file has no continuum to divide by.
    """
    flux = content.flux
    if not is_normalised(flux) and content.continuum is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            flux = flux / content.continuum
    if not is_normalised(flux):
        finite = flux[np.isfinite(flux)]
        raise ValueError(
            f"the flux runs from {finite.min():.4g} to {finite.max():.4g}, but a grid holds flux "
            f"divided by its continuum, within {LOWEST:g} to {HIGHEST:g}: normalise it, or give "
            "files with a column 'continuum'"
        )
    return np.asarray(flux, dtype=np.float32)


def from_columns(columns: Mapping[str, Any], units: Mapping[str, str] | None = None) -> Content:
    """Return the spectrum in named columns.

    The name of the wavelengths may carry unit and medium: ``wavelength_air``, ``wave [nm]``,
    ``AWAV``.
    """
    wavelength, flux = _column(columns, WAVELENGTH), _column(columns, FLUX)
    if wavelength is None or flux is None:
        raise ValueError(
            f"no spectrum in columns {', '.join(columns)}: expected one called "
            f"{', '.join(WAVELENGTH[:3])}, ... and one called {', '.join(FLUX[5:7])}, ..."
        )
    continuum = _column(columns, CONTINUUM)
    _, unit, medium = column_words(wavelength)
    return Content(
        _numbers(columns[wavelength], wavelength), _numbers(columns[flux], flux),
        None if continuum is None else _numbers(columns[continuum], continuum),
        (units or {}).get(wavelength, "") or unit, medium,
    )


def _column(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    # The first of a name wins.
    bare = {column_words(c)[0].replace("_", ""): c for c in reversed(list(columns))}
    return next((bare[n] for n in names if n in bare), None)


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    array = np.ma.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the column {what!r} holds text, not numbers")
    return np.asarray(np.ma.filled(array.astype(np.float64), np.nan)).ravel()
