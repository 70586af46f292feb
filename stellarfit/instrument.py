"""Instruments: what stands between a star's spectrum and the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulators.labels import unknown_names

LOWEST, HIGHEST = 50.0, 1e7


@dataclass(frozen=True)
class Instrument:
    """A spectrograph: the profile that it gives a line much narrower than its resolution.

    Parameters
    ----------
    name : str
    resolution : float
        R = wavelength / FWHM of the profile's Gaussian; where `table` says more, the value
        that stands for it (a fit's parameter ``resolution`` scales the whole table).
    reference : str
        Where the resolution comes from.
    table : ((wavelength, R), ...)
        Resolution against wavelength in Angstrom, interpolated linearly and constant
        beyond its ends.  Empty for one that does not vary.
    h3, h4 : float
        Gauss-Hermite coefficients of skewness and kurtosis (van der Marel & Franx 1993,
        ApJ 407, 525, eq. 9).

    Raises
    ------
    ValueError
        For resolutions that no spectrograph has, or coefficients whose profile is negative
        by more than a tenth of its peak.
    """

    name: str
    resolution: float
    reference: str = ""
    table: tuple[tuple[float, float], ...] = ()
    h3: float = 0.0
    h4: float = 0.0

    def __str__(self) -> str:
        bare = f"R = {self.resolution:g}"
        return bare if self.name == bare else f"{self.name} ({bare})"

    def __post_init__(self) -> None:
        for value in (self.resolution, *(r for _, r in self.table)):
            if not LOWEST <= value <= HIGHEST:
                raise ValueError(
                    f"R = {value:g} is no resolution of a spectrograph; "
                    f"expected wavelength / FWHM between {LOWEST:g} and {HIGHEST:g}"
                )
        wavelength = [w for w, _ in self.table]
        if any(b <= a for a, b in pairwise(wavelength)):
            raise ValueError("the wavelengths of a table of resolution must increase")
        if abs(self.h3) > 0.3 or abs(self.h4) > 0.3:
            raise ValueError(
                f"h3 = {self.h3:g}, h4 = {self.h4:g}: no line-spread function is so far from a "
                "Gaussian; expected both between -0.3 and 0.3"
            )

    @property
    def gaussian(self) -> bool:
        """Whether the profile is a plain Gaussian."""
        return self.h3 == 0.0 and self.h4 == 0.0

    def resolution_at(self, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return R (n_pix,) at wavelengths (n_pix,) in Angstrom."""
        if not self.table:
            return np.full(len(wavelength), self.resolution)
        known, resolution = np.array(self.table).T
        return np.asarray(np.interp(wavelength, known, resolution))

    def scaled_to(self, resolution: float) -> Instrument:
        """Return the instrument with another `resolution`, its table scaled along."""
        factor = resolution / self.resolution
        return replace(self, resolution=resolution,
                       table=tuple((w, r * factor) for w, r in self.table))


def tabulated(
    name: str, table: Sequence[tuple[float, float]], reference: str = "", **coefficients: float
) -> Instrument:
    """Return an instrument whose resolution varies with wavelength; R is the table's median."""
    pairs = tuple((float(w), float(r)) for w, r in table)
    return Instrument(name, float(np.median([r for _, r in pairs])), reference, pairs,
                      **coefficients)


def from_file(path: str | Path) -> Instrument:
    """Return an instrument from a text file of two columns, wavelength (Angstrom) and R.

    Raises
    ------
    FileNotFoundError
    ValueError
        When the file is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no table of resolution at '{path}'")
    try:
        columns = np.loadtxt(path, delimiter="," if "," in path.read_text() else None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"'{path}' is no table of resolution: {error}") from error
    if columns.shape[1] != 2:
        raise ValueError(f"'{path}' has {columns.shape[1]} columns; expected wavelength (Å) and R")
    return tabulated(path.stem, [(w, r) for w, r in columns], str(path.name))


_SMEE = "Smee et al. 2013, AJ 146, 32"
PRESETS = {
    i.name: i
    for i in (
        Instrument("espresso", 140_000, "Pepe et al. 2021, A&A 645, A96"),
        Instrument("harps", 115_000, "Mayor et al. 2003, The Messenger 114, 20"),
        Instrument("feros", 48_000, "Kaufer et al. 1999, The Messenger 95, 8"),
        Instrument("gaia-eso-uves580", 47_000, "Sacco et al. 2014, A&A 565, A113"),
        Instrument("uves", 40_000, "1 arcsec slit; Dekker et al. 2000, SPIE 4008, 534"),
        Instrument("hectochelle-rv31", 32_000, "Szentgyorgyi et al. 2011, PASP 123, 1188"),
        Instrument("galah", 28_000, "De Silva et al. 2015, MNRAS 449, 2604"),
        Instrument("apogee", 22_500, "Majewski et al. 2017, AJ 154, 94"),
        Instrument("weave-hr", 20_000, "Jin et al. 2024, MNRAS 530, 2688"),
        Instrument("gaia-eso-hr10", 19_800, "Randich et al. 2013, The Messenger 154, 47"),
        Instrument("lamost-mrs", 7_500, "Liu et al. 2020, arXiv:2005.07210"),
        tabulated("desi", ((3600, 2000), (5550, 3200), (5650, 3300), (6560, 4100), (7550, 4300),
                           (9800, 5500)), "DESI Collaboration 2022, AJ 164, 207"),
        tabulated("sdss", ((3800, 1850), (9200, 2200)), _SMEE),
        tabulated("boss", ((3600, 1560), (6000, 2270), (6001, 1850), (9000, 2650)), _SMEE),
        Instrument("lamost-lrs", 1_800, "Zhao et al. 2012, RAA 12, 723"),
    )
}


def instrument_for(
    instrument: str | Instrument | None = None, resolution: float | None = None
) -> Instrument:
    """Return the instrument of a preset's name, a file of its resolution, or a bare resolution.

    Raises
    ------
    ValueError
        When neither or both are given, and for an unknown name, listing the presets.
    """
    if (instrument is None) == (resolution is None):
        raise ValueError(
            "say either instrument= or resolution= (--instrument, --resolution; R = wavelength / "
            f"FWHM): the width of lines is not known without it; instruments: {', '.join(PRESETS)}"
        )
    if resolution is not None:
        return Instrument(f"R = {resolution:g}", float(resolution))
    if isinstance(instrument, Instrument):
        return instrument
    if str(instrument) in PRESETS:
        return PRESETS[str(instrument)]
    if Path(str(instrument)).is_file():
        return from_file(str(instrument))
    raise unknown_names([str(instrument)], list(PRESETS), what="instrument")
