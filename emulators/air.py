"""Wavelengths in air and in vacuum.

The refractive index is that of dry air at 15 C, 1 atm and 0.045 % CO2: Birch & Downs
(1994, Metrologia 31, 315), as written by Morton (2000, ApJS 130, 403), equation 8.  It is
given as a function of the vacuum wavelength, so the way from air to vacuum is iterated,
not approximated by a second formula: the two functions undo each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Below 2000 Å air absorbs, the formula nears its poles, and tables give vacuum wavelengths.
SHORTEST = 2000.0


def refractive_index(wavelength: ArrayLike) -> NDArray[np.float64]:
    """Return n of standard air at vacuum wavelengths in Å (Morton 2000, equation 8)."""
    s2 = (1e4 / np.asarray(wavelength, dtype=np.float64)) ** 2
    return np.asarray(
        1.0 + 8.34254e-5 + 2.406147e-2 / (130.0 - s2) + 1.5998e-4 / (38.9 - s2)
    )


def _refuse_below(limit: float, wavelength: NDArray[np.float64], medium: str) -> None:
    if wavelength.size and np.nanmin(wavelength) < limit:
        raise ValueError(
            f"{medium} wavelengths start at {np.nanmin(wavelength):.6g} Å, but air and vacuum "
            f"are converted from {limit:.5g} Å up: cut the spectrum, or give wavelengths in Å"
        )


def vacuum_to_air(wavelength: ArrayLike) -> NDArray[np.float64]:
    """Convert vacuum wavelengths to air.

    Parameters
    ----------
    wavelength : (...) array_like
        Å in vacuum, from 2000 up.

    Returns
    -------
    (...) float64
        Å in air.

    Raises
    ------
    ValueError
        Below 2000 Å.

    Examples
    --------
    >>> round(float(vacuum_to_air(5000.0)), 3)
    4998.606
    """
    vacuum = np.asarray(wavelength, dtype=np.float64)
    _refuse_below(SHORTEST, vacuum, "vacuum")
    return np.asarray(vacuum / refractive_index(vacuum))


def air_to_vacuum(wavelength: ArrayLike) -> NDArray[np.float64]:
    """Convert air wavelengths to vacuum: the exact inverse of :func:`vacuum_to_air`.

    Parameters
    ----------
    wavelength : (...) array_like
        Å in air, from the air wavelength of 2000 Å (1999.35) up.

    Returns
    -------
    (...) float64
        Å in vacuum.

    Raises
    ------
    ValueError
        Below 2000 Å in vacuum.
    """
    air = np.asarray(wavelength, dtype=np.float64)
    # A part in 1e12 of slack, so that what came from 2000 Å may go back.
    _refuse_below(SHORTEST / float(refractive_index(SHORTEST)) * (1 - 1e-12), air, "air")
    vacuum = air
    # Each pass gains three digits or more, since lambda dn/dlambda < 4e-4: five reach float64.
    for _ in range(5):
        vacuum = air * refractive_index(vacuum)
    return vacuum
