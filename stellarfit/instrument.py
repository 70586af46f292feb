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
        if not np.isfinite(wavelength).all() or any(b <= a for a, b in pairwise(wavelength)):
            raise ValueError("the wavelengths of a table of resolution must increase")
        # Chained, so that what is no number is refused as well.
        if not (abs(self.h3) <= 0.3 and abs(self.h4) <= 0.3 and self._lowest >= -0.1):
            raise ValueError(
                f"h3 = {self.h3:g}, h4 = {self.h4:g}: no line-spread function is so far from a "
                "Gaussian; expected both between -0.3 and 0.3, and a profile that is nowhere "
                "negative by more than a tenth of its peak"
            )

    @property
    def _lowest(self) -> float:
        """Lowest value of the profile in units of its highest."""
        x = np.linspace(-6.0, 6.0, 1201)
        h3 = (2.0 * np.sqrt(2.0) * x**3 - 3.0 * np.sqrt(2.0) * x) / np.sqrt(6.0)
        h4 = (4.0 * x**4 - 12.0 * x**2 + 3.0) / np.sqrt(24.0)
        profile = np.exp(-0.5 * x**2) * (1.0 + self.h3 * h3 + self.h4 * h4)
        return float(profile.min() / profile.max())

    def check(self, wavelength: NDArray[np.float64]) -> None:
        """Refuse a table of other wavelengths (Angstrom) than those of a spectrum.

        Raises
        ------
        ValueError
        """
        if self.table and not (self.table[0][0] <= wavelength[-1]
                               and self.table[-1][0] >= wavelength[0]):
            raise ValueError(
                f"the resolution of '{self.name}' is known at {self.table[0][0]:g}-"
                f"{self.table[-1][0]:g} Å, but wavelengths run {wavelength[0]:.0f}-"
                f"{wavelength[-1]:.0f} Å: is the table in Å?")

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
        lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
        rows = [line for line in lines if line.strip()]
        comma = "," if any("," in row for row in rows) else None
        columns = np.loadtxt(rows, delimiter=comma, ndmin=2) if rows else np.empty((0, 2))
    except ValueError as error:
        raise ValueError(f"'{path}' is no table of resolution: {error}") from error
    if columns.size == 0:
        raise ValueError(f"'{path}' is empty; expected columns of wavelength (Å) and R")
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
        Instrument("hectochelle-rv31", 32_000, "H3: Conroy et al. 2019, ApJ 883, 107"),
        Instrument("galah", 28_000, "De Silva et al. 2015, MNRAS 449, 2604"),
        Instrument("apogee", 22_500, "Majewski et al. 2017, AJ 154, 94"),
        Instrument("weave-hr", 20_000, "Jin et al. 2024, MNRAS 530, 2688"),
        Instrument("gaia-eso-hr10", 19_800,
                   "until early 2015, 21,500 since; Gilmore et al. 2022, A&A 666, A120"),
        Instrument("lamost-mrs", 7_500, "Liu et al. 2020, arXiv:2005.07210"),
        tabulated("desi", ((3600, 2000), (5550, 3200), (5650, 3300), (6560, 4100), (7550, 4300),
                           (9800, 5500)), "DESI Collaboration 2022, AJ 164, 207"),
        tabulated("sdss", ((3800, 1500), (9000, 2500)),
                  f"{_SMEE}; the ends as documented with data release 8"),
        tabulated("boss", ((3700, 1560), (6000, 2270), (6001, 1850), (9000, 2650)), _SMEE),
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
    if instrument is not None and resolution is not None:
        raise ValueError("got both instrument= and resolution= (--instrument, --resolution); "
                         "give the one you trust")
    if instrument is None and resolution is None:
        raise ValueError(
            "say either instrument= or resolution= (--instrument, --resolution; R = wavelength / "
            f"FWHM): the width of lines is not known without it; instruments: {', '.join(PRESETS)}"
        )
    if resolution is not None:
        try:
            value = float(resolution)
        except (TypeError, ValueError):
            raise ValueError(f"resolution is {resolution!r}; expected a number, wavelength / "
                             "FWHM") from None
        return Instrument(f"R = {value:g}", value)
    if isinstance(instrument, Instrument):
        return instrument
    if (preset := str(instrument).strip().lower()) in PRESETS:
        return PRESETS[preset]
    if Path(str(instrument)).is_file():
        return from_file(str(instrument))
    if {"/", "."} & set(str(instrument)):
        raise FileNotFoundError(f"no table of resolution at '{instrument}', and no instrument of "
                                f"that name; instruments: {', '.join(PRESETS)}")
    raise unknown_names([str(instrument)], list(PRESETS), what="instrument")
