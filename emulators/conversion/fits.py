"""FITS: a table of wavelengths and fluxes, or an image with a scale in its header.

The scale is that of the FITS standard (Greisen et al. 2006, A&A 446, 747): CRVAL1, CRPIX1 and
CDELT1 or CD1_1, linear, or logarithmic as CTYPE1 (``WAVE-LOG``) or IRAF's DC-FLAG tell.
CTYPE1 ``AWAV`` is air and ``WAVE`` vacuum; iSpec writes both this and CUNIT1.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content
from emulators.conversion.text import from_table


def read_fits(path: Path) -> Content:
    """Read the first HDU that holds a spectrum."""
    from astropy.io import fits
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning

    try:
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("ignore", AstropyWarning)
            for hdu in hdus:
                if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
                    table = from_table(Table.read(hdu))
                    return replace(table, medium=table.medium or _medium(hdu.header))
                if hdu.data is not None:
                    return _read_image(hdu)
    except (OSError, TypeError, KeyError, fits.VerifyError) as error:
        raise ValueError(f"astropy cannot read it: {error}") from error
    raise ValueError("the FITS file holds neither a table nor an image")


def _read_image(hdu: Any) -> Content:
    header = hdu.header
    flux = np.asarray(hdu.data, dtype=np.float64)
    flux = flux.reshape(-1, flux.shape[-1])[0]  # further rows are errors, sky, ...
    return Content(_scale(header, len(flux)), flux, unit=str(header.get("CUNIT1", "")).strip(),
                   medium=_medium(header))


def _scale(header: Any, n_pix: int) -> NDArray[np.float64]:
    step = header.get("CDELT1", header.get("CD1_1"))
    if "CRVAL1" not in header or not step:
        raise ValueError("the image has no wavelength scale: CRVAL1 and CDELT1 are expected")
    start, ctype = float(header["CRVAL1"]), str(header.get("CTYPE1", "")).strip()
    distance = float(step) * (np.arange(n_pix) + 1.0 - float(header.get("CRPIX1", 1.0)))
    if ctype.endswith("-LOG"):  # equation 5 of Greisen et al.
        return np.asarray(start * np.exp(distance / start))
    logarithmic = header.get("DC-FLAG") == 1 or header.get("WFITTYPE") == "LOG-LINEAR"
    return np.asarray(10.0 ** (start + distance) if logarithmic else start + distance)


def _medium(header: Any) -> str:
    word = str(header.get("AIRORVAC", header.get("MEDIUM", ""))).strip().lower()
    stated = {"air": "air", "vac": "vacuum", "vacuum": "vacuum"}.get(word, "")
    axis = str(header.get("CTYPE1", "")).strip()[:4]
    return stated or {"AWAV": "air", "WAVE": "vacuum"}.get(axis, "")
