"""Files with more than one spectrum: many stars, or the arms and orders of one.

- *DESI* coadds (DESI Collaboration 2024, AJ 168, 58): a table FIBERMAP with TARGETID, and for
  each arm X of B, R, Z the images X_WAVELENGTH, X_FLUX, X_IVAR, X_MASK and the cube X_RESOLUTION,
  in vacuum and in the frame of the solar system's barycentre.
- *LAMOST* at medium resolution: tables COADD_B and COADD_R.
- *PypeIt* ``spec1d``: a table per object, or per object and order.
- *IRAF* multispec images: the orders of an echelle as rows, each with its dispersion in the
  header (Valdes 1993, *The IRAF/NOAO Spectral World Coordinate Systems*).

Each reader returns spectra, or mappings of arms, by name; None if the file is of another kind.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

from stellarfit.naming import stem_of
from stellarfit.readers.content import FRAMES, bad_pixels, read_bytes
from stellarfit.readers.fits import load
from stellarfit.resolution_matrix import PixelMatrix
from stellarfit.spectrum import Spectrum

logger = logging.getLogger(__name__)
Stars = dict[str, Any]


def _each(arms: Mapping[str, Callable[[], Spectrum]], where: str) -> dict[str, Spectrum]:
    """Return the arms that can be read; why the others cannot is logged, once where it is the same.
    """
    seen, unreadable = {}, defaultdict(list)
    for name, read in arms.items():
        try:
            seen[name] = read()
        except (ValueError, LookupError) as error:
            unreadable[str(error)].append(name)
    for why, names in unreadable.items():
        logger.warning("%s, arm %s: %s", where, ", ".join(names), why)
    return seen


def desi(hdus: Any, path: Path, medium: str | None) -> Stars | None:
    """Return the arms of every target of a DESI coadd; of a dead fibre there are none."""
    names = {h.name for h in hdus}
    arms = sorted(n.removesuffix("_WAVELENGTH") for n in names if n.endswith("_WAVELENGTH"))
    if not arms:
        return None
    if missing := {"FIBERMAP", *(f"{a}_{k}" for a in arms for k in ("FLUX", "IVAR"))} - names:
        raise ValueError(f"a DESI coadd without {', '.join(sorted(missing))}; fetch it again")

    def arm(key: str, row: int, name: str) -> Spectrum:
        ivar = hdus[f"{key}_IVAR"].data[row]
        if not (ivar > 0).any():
            raise ValueError("no good pixel")
        mask, matrix = (hdus[f"{key}_{k}"].data[row] if f"{key}_{k}" in names else None
                        for k in ("MASK", "RESOLUTION"))
        return Spectrum(
            hdus[f"{key}_WAVELENGTH"].data, hdus[f"{key}_FLUX"].data[row],
            ivar=ivar, mask=mask, medium="vacuum", name=name,
            matrix=None if matrix is None else PixelMatrix.from_desi(matrix.astype(float)),
            meta={"file": path.name, "medium_from": "format", "frame": "barycentric",
                  "flux_unit": "1e-17 erg / (s cm2 Angstrom)"},
        )

    found: Stars = {}
    for row, target in enumerate(hdus["FIBERMAP"].data["TARGETID"]):
        name = str(target)
        seen = _each({a.lower(): partial(arm, a, row, name) for a in arms},
                     f"{path.name}, target {name}")
        # A target that was observed as two stars keeps both.
        found[name if name not in found else f"{name}_{row}"] = seen
    return found


def lamost(hdus: Any, path: Path, medium: str | None) -> Stars | None:
    """Return the two arms of a LAMOST star at medium resolution."""
    coadds = {h.name: h for h in hdus if h.name in ("COADD_B", "COADD_R")}
    if not coadds:
        return None
    name = str(hdus[0].header.get("DESIG", hdus[0].header.get("OBJNAME", stem_of(path)))).strip()

    def arm(extension: Any) -> Spectrum:
        columns = {n.upper(): np.ravel(extension.data[n]) for n in extension.data.names}
        wavelength = (columns["WAVELENGTH"] if "WAVELENGTH" in columns
                      else 10.0 ** columns["LOGLAM"].astype(float))
        flags = next((columns[k] for k in ("PIXMASK", "ANDMASK") if k in columns), None)
        return Spectrum(
            wavelength, columns["FLUX"], ivar=columns["IVAR"], name=name, medium="vacuum",
            mask=None if flags is None else bad_pixels(flags),
            meta={"file": path.name, "medium_from": "format", "frame": "heliocentric",
                  "instrument": "LAMOST"},
        )

    return {name: _each({k[-1].lower(): partial(arm, h) for k, h in coadds.items()}, path.name)}


def pypeit(hdus: Any, path: Path, medium: str | None) -> Stars | None:
    """Return the objects of a PypeIt spec1d file, those of an echelle with their orders as arms."""
    if "PYP_SPEC" not in hdus[0].header:
        return None
    objects = {h.name: partial(_pypeit_object, h, path) for h in hdus[1:]
               if hasattr(h, "columns") and {"OPT_WAVE", "BOX_WAVE"} & set(h.columns.names)}
    found: Stars = {}
    for name, spectrum in _each(objects, path.name).items():
        star, _, order = name.partition("-ORDER")
        if order:
            found.setdefault(star, {})[order] = spectrum
        else:
            found[name] = spectrum
    return found or None


def _pypeit_object(extension: Any, path: Path) -> Spectrum:
    """Return the optimal extraction of one object, fluxed if it is, or the boxcar's."""
    data, names = extension.data, set(extension.columns.names)
    kind = "OPT" if "OPT_WAVE" in names else "BOX"
    flux = f"{kind}_FLAM" if f"{kind}_FLAM" in names else f"{kind}_COUNTS"
    wavelength = np.asarray(data[f"{kind}_WAVE"], dtype=float)
    lit = wavelength > 0
    good = data[f"{kind}_MASK"][lit] if f"{kind}_MASK" in names else np.ones(lit.sum())
    frame = FRAMES.get(str(extension.header.get("VEL_TYPE", "")).strip().upper()[:5])
    return Spectrum(
        wavelength[lit], data[flux][lit], ivar=data[f"{flux}_IVAR"][lit], mask=good == 0,
        medium="vacuum", name=extension.name,
        meta={"file": path.name, "medium_from": "format", **({"frame": frame} if frame else {})},
    )


def multispec(hdus: Any, path: Path, medium: str | None) -> Stars | None:
    """Return the orders of an IRAF multispec image as arms, named by their apertures."""
    header, data = hdus[0].header, hdus[0].data
    if not str(header.get("CTYPE1", "")).upper().startswith("MULTISPE") or data is None:
        return None
    if medium is None:
        raise ValueError("the file does not say whether its wavelengths are in air or vacuum; "
                         "give medium='air' or medium='vacuum' (--medium)")
    # Bands: the first is the spectrum; apall keeps its sigma in another.
    bands = data if data.ndim > 2 else np.atleast_2d(data)[None]
    bands = bands.reshape(len(bands), -1, bands.shape[-1])
    sigma = next((bands[i] for i in range(1, len(bands))
                  if "sigma" in str(header.get(f"BANDID{i + 1}", "")).lower()), None)
    name = str(header.get("OBJECT", stem_of(path))).strip()

    def order(row: int, fields: list[str]) -> Spectrum:
        wavelength = dispersion([float(f) for f in fields], bands.shape[-1])
        valid = slice(0, len(wavelength))
        return Spectrum(
            wavelength, bands[0, row, valid], medium=medium, name=name,
            uncertainty=None if sigma is None else sigma[row, valid],
            meta={"file": path.name, "medium_from": "argument"},
        )

    words = _attributes(header)
    orders = {}
    for row in range(bands.shape[1]):
        if (fields := words.get(f"spec{row + 1}", "").split()):
            orders[fields[0]] = partial(order, row, fields)
    if not orders:
        raise ValueError("an IRAF multispec image whose header has no dispersion (WAT2_001, ...)")
    return {name: _each(orders, path.name)}


def _attributes(header: Any) -> dict[str, str]:
    """Return the attributes of the second axis: WAT2_001, WAT2_002, ... are one long text."""
    cards = sorted(k for k in header if re.fullmatch(r"WAT2_\d{3}", k))
    # Cards are 68 characters; astropy drops the blanks at their ends.
    text = "".join(str(header[k]).ljust(68) for k in cards)
    return {k.lower(): v for k, v in re.findall(r'(\w+)\s*=\s*"([^"]*)"', text)}


def dispersion(fields: list[float], n_pix: int) -> NDArray[np.float64]:
    """Return the wavelengths of one row of a multispec image, Angstrom.

    Parameters
    ----------
    fields : list of float
        ap beam dtype w1 dw nw z aplow aphigh [functions].
    n_pix : int
        Of the image; the row has nw of them.

    Raises
    ------
    ValueError
        For a dispersion that is neither linear nor logarithmic, nor a Chebyshev or Legendre
        polynomial.
    """
    kind, start, step, count, z = int(fields[2]), fields[3], fields[4], int(fields[5]), fields[6]
    pixel = np.arange(1, min(n_pix, count) + 1, dtype=float)
    if kind in (0, 1):
        value = (start + step * (pixel - 1.0)) / (1.0 + z)
        return np.asarray(value if kind == 0 else 10.0**value)
    if kind != 2:
        raise ValueError(f"this order has no dispersion (dtype {kind})")
    total, rest = np.zeros(len(pixel)), fields[9:]
    while rest:
        weight, shift, function, order, low, high = rest[:6]
        if int(function) not in (1, 2):
            raise ValueError(f"dispersion function {int(function)} of IRAF is not known here, only "
                             "Chebyshev (1) and Legendre (2) polynomials; export the order as text")
        coefficients = rest[6:6 + int(order)]
        x = (2.0 * pixel - (high + low)) / (high - low)
        evaluate = chebyshev.chebval if int(function) == 1 else legendre.legval
        total += weight * (shift + evaluate(x, coefficients))
        rest = rest[6 + int(order):]
    return total / (1.0 + z)


MANY: tuple[Callable[[Any, Path, str | None], Stars | None], ...] = (
    desi, lamost, pypeit, multispec)


def count_stars(path: Path) -> int:
    """Return how many stars a file holds; 1 for one that cannot be read, which is one failure.

    Only the head of a file is looked at, where that is enough.
    """
    from stellarfit.readers.tables import count_rows, is_table

    if not path.is_file():
        return 1
    try:
        if is_table(path):
            return max(1, count_rows(path))
        if not read_bytes(path, 80).startswith(b"SIMPLE"):
            return 1
        from astropy.io import fits

        with fits.open(path) as hdus:
            if "FIBERMAP" in hdus and any(h.name.endswith("_WAVELENGTH") for h in hdus):
                return int(hdus["FIBERMAP"].header["NAXIS2"])
            if "PYP_SPEC" not in hdus[0].header:
                return 1
    except ModuleNotFoundError:
        raise
    except Exception:  # whoever reads it will say what is wrong with it
        return 1
    return len(pypeit(load(path), path, None) or {1: None})
