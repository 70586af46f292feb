"""What a file says: columns by their usual names, units, media."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.columns import column_words
from stellarfit.constants import SIGMA_PER_FWHM

# Names of columns and image extensions by what they hold, the preferred first.
WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "wl", "awav", "wavel", "wvl")
LOG_WAVELENGTH = ("loglam", "log_lam", "loglambda", "log_lambda", "log_wave", "log_wavelength")
FLUX = ("flux", "flux_reduced", "flx", "spec", "spectrum", "counts", "intensity", "flux_norm",
        "normalized_flux", "normalised_flux")
UNCERTAINTY = ("err", "error", "sigma", "uncertainty", "uncert", "flux_err", "flux_error",
               "err_flux", "e_flux", "err_reduced", "std", "stdev")
IVAR = ("ivar", "flux_ivar", "ivar_flux", "inverse_variance")
MASK = ("mask", "and_mask", "andmask", "pixmask", "qual", "quality", "flags", "flag", "dq", "bad")
ANGSTROM = {
    "angstrom": 1.0, "ang": 1.0, "a": 1.0, "aa": 1.0, "å": 1.0, "0.1nm": 1.0,
    "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0,
    "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4, "micrometer": 1e4, "micrometre": 1e4,
    "m": 1e10, "meter": 1e10, "metre": 1e10,
}
#: sigma of the line-spread function in pixels of a logarithmic scale, as SDSS writes it
DISPERSION = ("wdisp",)
#: R itself, pixel by pixel
RESOLUTION = ("resolution", "resolving_power", "res")
#: what a column about pixels may be called
PIXELS = frozenset((*WAVELENGTH, *LOG_WAVELENGTH, *FLUX, *UNCERTAINTY, *IVAR, *MASK, *DISPERSION,
                    *RESOLUTION))
#: whose velocity wavelengths are free of, by the beginning of SPECSYS (Greisen et al. 2006)
FRAMES = {"BARYC": "barycentric", "HELIO": "heliocentric", "TOPOC": "topocentric"}
UNITLESS = ("", "none", "unitless", "dimensionless")


@dataclass(frozen=True)
class Content:
    """What a file says, before it is checked: the arguments of :class:`Spectrum`.

    ``named`` tells that the column of wavelengths states the medium in its own name, which
    no other word in the file, nor the caller, can overrule.  ``hint`` is the medium by
    CTYPE1 or UCD, which are weaker than a keyword made for the purpose; ``doubt`` why the
    medium is not known, where it is not.
    """

    wavelength: Any
    flux: Any
    ivar: Any = None
    uncertainty: Any = None
    mask: Any = None
    medium: str | None = None
    medium_from: str = "header"
    named: bool = False
    hint: str | None = None
    doubt: str = "the file does not say whether its wavelengths are in air or vacuum"
    name: str = ""
    resolution: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One column of a table: its name as written, values, and unit and UCD if it has them."""

    name: str
    values: Any
    unit: str = ""
    ucd: str = ""

    @property
    def words(self) -> tuple[str, str, str]:
        """The name in lower case, bare, and the unit and the medium that stood in it.

        ``Wavelength_air [nm]`` gives ``wavelength``, ``nm``, ``air``.
        """
        return column_words(self.name)


def read_bytes(path: Path, size: int = -1) -> bytes:
    """Return the first `size` bytes of a file, unzipped if need be; all of them if -1."""
    with open(path, "rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            stream.seek(0)
            return stream.read(size)
    try:
        with gzip.open(path) as unzipped:
            return unzipped.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError("the gzipped file is corrupted or cut short; fetch it again") from error


def in_angstrom(values: NDArray[Any], unit: str) -> Any:
    """Return wavelengths in the given unit as a Quantity in Å.

    Without a unit they come back as they are, for :class:`Spectrum` to judge.  Units that
    begin with ``log`` are logarithms of Å.
    """
    text = unit.strip().lower().replace(" ", "")
    if text.startswith(("log", "ln")):
        return exponential(values)
    if text in UNITLESS:
        return values
    scale = ANGSTROM.get(text, ANGSTROM.get(text.removesuffix("s")))
    if scale is None:
        raise ValueError(
            f"the wavelengths are in {unit.strip()!r}, which is not a length we know; "
            "convert them to Å or nm"
        )
    from astropy import units

    return units.Quantity(np.asarray(values, dtype=np.float64) * scale, "Angstrom")


def exponential(logarithm: NDArray[Any]) -> NDArray[np.float64]:
    """Undo the logarithm of wavelengths in Å, common or (some model grids) natural."""
    # In float64 before the power: SDSS stores loglam in float32.
    exponent = np.asarray(logarithm, dtype=np.float64)
    # 10^7 Å is a millimetre, e^7 Å is in the far ultraviolet: no star is in doubt.
    natural = exponent.size > 0 and exponent.min() > 7
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(exponent) if natural else 10.0**exponent)


def stated_medium(text: Any) -> str | None:
    """Return 'air' or 'vacuum' for a header value that says so in words."""
    word = str(text).strip().lower()
    return "air" if word == "air" else "vacuum" if word in ("vac", "vacuum") else None


def find(columns: Iterable[Column], names: Sequence[str]) -> Column | None:
    """Return the column that goes by the first of `names` that any goes by."""
    found = [(names.index(bare), not medium, i, c) for i, c in enumerate(columns)
             for bare, _, medium in [c.words] if bare in names]
    # Among equals the one that names its medium is preferred: beside a 'wavelength_air',
    # 'wavelength' is in vacuum (ESPRESSO, and HARPS through its pipeline).
    return min(found, key=lambda f: f[:3])[3] if found else None


def from_columns(columns: Sequence[Column]) -> Content | None:
    """Return the spectrum in the columns of a table, or None if they hold none."""
    linear, logarithmic = find(columns, WAVELENGTH), find(columns, LOG_WAVELENGTH)
    flux = find(columns, FLUX)
    axis = linear or logarithmic
    if axis is None or flux is None:
        return None
    _, unit, medium = axis.words
    wavelength = (in_angstrom(axis.values, axis.unit or unit) if linear
                  else exponential(axis.values))
    # ESO phase 3: the errors of FLUX_REDUCED are ERR_REDUCED, not ERR.
    pair = ("err_reduced",) if flux.words[0] == "flux_reduced" else ()
    sigma, ivar, mask = (find(columns, n) for n in ((*pair, *UNCERTAINTY), IVAR, MASK))
    return Content(
        wavelength=wavelength, flux=flux.values,
        ivar=_in_unit_of(flux, ivar, -2) if ivar else None,
        uncertainty=_in_unit_of(flux, sigma, 1) if sigma and not ivar else None,
        mask=bad_pixels(mask.values) if mask else None,
        medium=medium or None, named=bool(medium), hint=_ucd_medium(axis.ucd),
        resolution=_resolution(columns, wavelength),
        meta={"flux_unit": flux.unit} if flux.unit else {},
    )


def _in_unit_of(flux: Column, other: Column, power: int) -> Any:
    """Return the values of a column in a power of the flux's unit, where both name one we know."""
    from astropy import units

    wanted, given = (units.Unit(c.unit, parse_strict="silent") for c in (flux, other))
    if not flux.unit or not other.unit or not given.is_equivalent(wanted**power):
        return other.values
    return np.ma.asarray(other.values) * given.to(wanted**power)


def _resolution(columns: Sequence[Column], wavelength: Any) -> Any:
    """Return R = wavelength / FWHM per pixel where a column knows, else None."""
    if (known := find(columns, RESOLUTION)) is not None:
        return known.values
    dispersion = find(columns, DISPERSION)
    if dispersion is None or len(wavelength) < 2:
        return None
    pixel = np.gradient(np.log(np.asarray(getattr(wavelength, "value", wavelength))))
    with np.errstate(divide="ignore"):
        return SIGMA_PER_FWHM / (np.asarray(dispersion.values, dtype=float) * np.abs(pixel))


def named_columns(columns: Sequence[Column]) -> Content:
    """Return the spectrum in named columns, which must be there."""
    content = from_columns(columns)
    if content is None:
        raise ValueError(
            f"no spectrum in columns {', '.join(c.name for c in columns)}; expected one called "
            f"{', '.join(WAVELENGTH[:3])}, ... and one called {', '.join(FLUX[:2])}, ..."
        )
    return content


def _ucd_medium(ucd: str) -> str | None:
    """Return the medium by the UCD of a wavelength column, as ESO phase 3 writes it."""
    return {"em.wl;obs.atmos": "air", "em.wl": "vacuum"}.get(ucd.strip().lower())


def bad_pixels(values: Any) -> NDArray[np.bool_]:
    """Return True where a mask, of bools or bits, is set or has no value."""
    flags = np.ma.asarray(values)
    if flags.dtype.kind not in "biuf":
        raise ValueError(f"the mask column holds {flags.dtype}, but numbers or booleans are "
                         "expected; rename it to have it left out")
    return np.asarray(np.ma.filled(flags != 0, True))
