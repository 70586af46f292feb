"""FITS dialects that break a rule of the others: each a function of the HDUs.

- *APOGEE* ``apStar`` and ``aspcapStar`` (Holtzman et al. 2015, AJ 150, 148): flux, error and mask
  in extensions without names, several visits as rows; the first row is the combined spectrum,
  shifted to the rest frame of the star.
- *GALAH* (Kos et al. 2017, MNRAS 464, 1259): flux in the first extension, its *relative* error in
  the second.
- *LAMOST* before its eighth release: flux, ivar, wavelength, and-mask and or-mask as rows of one
  image.
- *PypeIt* coadds (Prochaska et al. 2020, JOSS 5, 2308): a mask that is 1 where a pixel is good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stellarfit.readers.content import Content, bad_pixels

#: of APOGEE's pixel masks: bad, cosmic, saturated, unfixable, dark, flat, error, no sky, PSF
APOGEE_BAD = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 14))
APOGEE_START, APOGEE_STEP, APOGEE_PIXELS = 4.179, 6e-6, 8575


def apogee(hdus: Any) -> Content | None:
    """Return the combined spectrum of APOGEE's files on its common grid."""
    if len(hdus) < 3 or not all(_is_image(h) for h in hdus[1:3]):
        return None
    header, flux = hdus[1].header, np.atleast_2d(hdus[1].data)
    start, step = header.get("CRVAL1", 0.0), header.get("CDELT1", 0.0)
    if not (flux.shape[-1] == APOGEE_PIXELS and np.isclose(start, APOGEE_START, atol=1e-3)
            and np.isclose(step, APOGEE_STEP, rtol=1e-3)):
        return None
    flags = np.atleast_2d(hdus[3].data)[0] if len(hdus) > 3 and _is_image(hdus[3]) else None
    # aspcapStar has its model where apStar has the mask.
    mask = None if flags is None or flags.dtype.kind not in "iu" else (flags & APOGEE_BAD) != 0
    wavelength = 10.0 ** (start + step * np.arange(APOGEE_PIXELS))
    return Content(
        wavelength, flux[0], uncertainty=np.atleast_2d(hdus[2].data)[0], mask=mask,
        medium="vacuum", medium_from="format", name=str(hdus[0].header.get("OBJID", "")).strip(),
        meta={"instrument": "APOGEE", "frame": "stellar rest"},
    )


def galah(hdus: Any) -> Content | None:
    """Return the reduced, not normalised, spectrum of one of the four arms of HERMES."""
    header = hdus[0].header
    if not str(header.get("INSTRUME", "")).upper().startswith("HERMES") or len(hdus) < 2:
        return None
    if not all(_is_image(h) and h.data.ndim == 1 for h in hdus[:2]):
        return None
    flux, relative = hdus[0].data, hdus[1].data
    # Its headers count pixels from 0 or 1 and mean the same.
    first = max(1.0, float(header.get("CRPIX1", 1.0)))
    wavelength = header["CRVAL1"] + header["CDELT1"] * (np.arange(1, len(flux) + 1) - first)
    return Content(
        wavelength, flux, uncertainty=np.abs(flux * relative), medium="air", medium_from="format",
        name=str(header.get("OBJECT", "")).strip(),
        meta={"instrument": "HERMES", "frame": "barycentric"},
    )


def lamost(hdus: Any) -> Content | None:
    """Return a low-resolution spectrum of LAMOST's first seven releases."""
    first = hdus[0]
    if not str(first.header.get("TELESCOP", "")).upper().startswith("LAMOST"):
        return None
    if not _is_image(first) or first.data.ndim != 2 or len(first.data) < 5:
        return None
    flux, ivar, third, bad = first.data[:4]
    start, step = first.header.get("COEFF0"), first.header.get("COEFF1")
    # The pilot survey kept a continuum-subtracted flux in the third row.
    wavelength = (third if (np.diff(third) > 0).all() or start is None
                  else 10.0 ** (start + step * np.arange(len(flux))))
    return Content(
        wavelength, flux, ivar=ivar, mask=bad_pixels(bad), medium="vacuum", medium_from="format",
        name=str(first.header.get("DESIG", first.header.get("OBJNAME", ""))).strip(),
        meta={"instrument": "LAMOST", "frame": "heliocentric"},
    )


def pypeit(hdus: Any) -> Content | None:
    """Return a coadded spectrum of PypeIt's."""
    if "PYP_SPEC" not in hdus[0].header or "SPECTRUM" not in hdus:
        return None
    table = hdus["SPECTRUM"].data
    names = {n.lower(): n for n in table.names}
    if not {"wave", "flux"} <= set(names):
        return None
    mask = np.asarray(table[names["mask"]]) == 0 if "mask" in names else None
    return Content(
        np.asarray(table[names["wave"]]), np.asarray(table[names["flux"]]),
        ivar=np.asarray(table[names["ivar"]]) if "ivar" in names else None, mask=mask,
        medium="vacuum", medium_from="format",
        name=str(hdus[0].header.get("TARGET", "")).strip(),
        meta={"instrument": str(hdus[0].header["PYP_SPEC"])},
    )


def _is_image(extension: Any) -> bool:
    return bool(extension.is_image and extension.data is not None)


SURVEYS: tuple[Callable[[Any], Content | None], ...] = (apogee, galah, lamost, pypeit)
