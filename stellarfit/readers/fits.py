"""FITS: tables with the usual columns, and images with a wavelength scale."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellarfit.readers.content import (
    ANGSTROM,
    FRAMES,
    IVAR,
    MASK,
    PIXELS,
    UNCERTAINTY,
    Column,
    Content,
    bad_pixels,
    exponential,
    from_columns,
    in_angstrom,
    read_bytes,
    stated_medium,
)
from stellarfit.readers.surveys import SURVEYS

# Pipelines whose reduced spectra always come in one medium.
INSTRUMENT_MEDIUM = {
    "HARPS": "air", "HARPN": "air", "UVES": "air", "FEROS": "air", "SOPHIE": "air",
    "ELODIE": "air", "ESPADONS": "air", "NARVAL": "air", "SDSS": "vacuum", "LAMOST": "vacuum",
}
# First axes that are not wavelengths, by the beginning of CTYPE1.
OTHER_AXES = ("RA--", "DEC-", "GLON", "GLAT", "HPLN", "FREQ", "VELO", "VRAD", "VOPT", "ENER",
              "WAVN", "TIME", "PIXEL")
LAMOST_ARMS = ("COADD_B", "COADD_R")
READ_ALL = "stellarfit.read_all reads each of them, and so does the command line"
# A stack of so many rows is still one spectrum with its errors, sky, ...; more are many.
MOST_ROWS = 5


def read_fits(path: Path, hdu: int | str | None) -> Content:
    """Read the HDU `hdu` of a FITS file, or the first that holds a spectrum."""
    return content_of(load(path), hdu)


def content_of(hdus: Any, hdu: int | str | None = None) -> Content:
    """Return what :func:`read_fits` does, of a file that is loaded already."""
    from astropy.io.fits import VerifyError

    if arms := [h.name for h in hdus if h.name.endswith("_WAVELENGTH")]:
        raise ValueError(
            f"several spectra in one file (a DESI coadd: {', '.join(arms)}); {READ_ALL}"
        )
    if hdu is None and len(arms := [h.name for h in hdus if h.name in LAMOST_ARMS]) > 1:
        raise ValueError(
            f"several spectra in one file (LAMOST's arms {', '.join(arms)}); {READ_ALL}")
    chosen = hdus if hdu is None else [_select(hdus, hdu)]
    try:
        for survey in SURVEYS if hdu is None else ():
            if (content := survey(hdus)) is not None:
                return content
        for extension in chosen:
            for dialect in (fits_table, fits_image):
                if (content := dialect(extension, hdus)) is not None:
                    return content
    except VerifyError as error:  # only now: a bad card that nobody asks for does no harm
        raise ValueError("the FITS header is corrupted; fetch the file again") from error
    listed = ", ".join(f"{i} {h.name or 'unnamed'}" for i, h in enumerate(hdus))
    where = "the file" if hdu is None else f"HDU {hdu}"
    raise ValueError(
        f"no spectrum in {where} (HDUs: {listed}); expected a "
        "table with wavelength and flux columns, or an image with CRVAL1 and CDELT1"
    )


def load(path: Path) -> Any:
    """Return the HDUs of a FITS file with all data in memory and the file closed."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning

    content = read_bytes(path)
    try:
        with warnings.catch_warnings():
            # Odd header cards are common and harmless; a file cut short is neither.
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", ".*truncated.*", AstropyUserWarning)
            # From memory: astropy leaves a broken file open when it gives up on it.
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False) as hdus:
                for extension in hdus:
                    _ = extension.data
    except (OSError, ValueError, TypeError, LookupError, AttributeError, fits.VerifyError,
            AstropyUserWarning) as error:
        raise ValueError("the FITS file is corrupted or cut short; fetch it again") from error
    return hdus


def _select(hdus: Any, which: int | str) -> Any:
    try:
        return hdus[which]
    except LookupError as error:
        raise ValueError(f"there is no HDU {which!r}; valid: 0-{len(hdus) - 1}, "
                         f"{', '.join(h.name for h in hdus if h.name)}") from error


def header_medium(headers: Sequence[Mapping[str, Any]], hint: str | None) -> dict[str, Any]:
    """Return what the headers of a FITS file say of the medium, as fields of Content.

    Where the hint says vacuum but the instrument is known to deliver air, or the reverse,
    the medium stays unknown: CTYPE1 = 'WAVE' is often written without a thought of it, and
    80 km/s hang on it.

    Parameters
    ----------
    headers : sequence of headers
        That of the HDU first, then that of the file.
    hint : str or None
        The medium by CTYPE1 or UCD.
    """
    for header in headers:
        for key in ("AIRORVAC", "MEDIUM"):
            if stated := stated_medium(header.get(key)):
                return {"medium": stated}
        if (vacuum := header.get("VACUUM")) is not None:
            return {"medium": "vacuum" if str(vacuum).lower() in ("true", "t", "1") else "air"}
    names = [re.split(r"[\s-]", str(h.get(key, "")).upper())[0]
             for h in headers for key in ("INSTRUME", "TELESCOP")]
    instrument = next((name for name in names if name in INSTRUMENT_MEDIUM), None)
    usual = INSTRUMENT_MEDIUM[instrument] if instrument else None
    if hint and usual and hint != usual:
        return {"doubt": f"the wavelength axis says {hint}, but {instrument} delivers {usual}"}
    return {"medium": hint} if hint else {"medium": usual, "medium_from": "instrument"}


def _fits_content(content: Content, extension: Any, hdus: Any) -> Content:
    """Add to `content` what the headers say."""
    headers = [extension.header, hdus[0].header]
    medium = {} if content.named else header_medium(headers, content.hint)
    meta = {"hdu": hdus.index_of(extension), **content.meta}
    for key, card in (("instrument", "INSTRUME"), ("date", "DATE-OBS"), ("flux_unit", "BUNIT")):
        if value := next((str(h[card]).strip() for h in headers if h.get(card)), ""):
            meta.setdefault(key, value)
    if frame := frame_of(headers):
        meta.setdefault("frame", frame)
    name = next((str(h["OBJECT"]).strip() for h in headers if h.get("OBJECT")), "")
    return replace(content, name=name, meta=meta, **medium)


def frame_of(headers: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the frame of the wavelengths, by SPECSYS or by what a pipeline always does."""
    for header in headers:
        if frame := FRAMES.get(str(header.get("SPECSYS", "")).strip().upper()[:5]):
            return frame
        # The data reduction software of HARPS writes the velocity that it has taken out.
        if "ESO DRS BERV" in header:
            return "barycentric"
    words = {re.split(r"[\s-]", str(h.get(key, "")).upper())[0]
             for h in headers for key in ("INSTRUME", "TELESCOP")}
    return "heliocentric" if words & {"SDSS", "LAMOST", "BOSS"} else None


def fits_table(extension: Any, hdus: Any) -> Content | None:
    """Return the spectrum in a binary table, or None if it is not one."""
    if not hasattr(extension, "columns"):
        return None
    columns = [
        Column(c.name, _pixels(extension.data, c.name), c.unit or "",
               str(extension.header.get(f"TUCD{i}", "")))
        for i, c in enumerate(extension.columns, start=1) if Column(c.name, None).words[0] in PIXELS
    ]
    content = from_columns(columns)
    if content is None:
        return None
    if np.ndim(content.flux) != 1:
        raise ValueError(
            f"several spectra in one table (flux of shape {np.shape(content.flux)}); {READ_ALL}"
        )
    return _fits_content(content, extension, hdus)


def _pixels(data: Any, name: str) -> NDArray[Any]:
    """Return a column as pixels, whether they fill one row or have a row each."""
    try:
        values = data[name]
    except (ValueError, TypeError, LookupError) as error:  # astropy decodes only now
        raise ValueError(f"column {name!r} is corrupted; fetch the file again") from error
    in_one_row = len(values) == 1 and np.ndim(values[0]) == 1
    return np.asarray(values[0] if in_one_row else values)


def fits_image(extension: Any, hdus: Any) -> Content | None:
    """Return the spectrum in an image with a wavelength scale, or None if it is not one."""
    header = extension.header
    if hasattr(extension, "columns") or extension.data is None:
        return None
    kind = str(header.get("CTYPE1", "")).strip().upper()
    if kind.startswith("MULTISPE"):
        raise ValueError("this is an IRAF multispec image, whose orders are not one spectrum; "
                         + READ_ALL)
    wavelength = _axis(header, extension.data.shape[-1])
    if kind.startswith(OTHER_AXES) or wavelength is None:
        return None
    if (rows := extension.data.size // extension.data.shape[-1]) > MOST_ROWS:
        raise ValueError(f"several spectra in one image ({rows} rows); "
                         "pick one and give its arrays to Spectrum(...)")
    flux = extension.data.reshape(rows, -1)[0]
    # WAVELENGTH spelled out, unlike the WAVE of the standard, says nothing of the medium.
    axis = re.match(r"(AWAV|WAVE)(?:-|$)", kind)
    hint = None if axis is None else "air" if axis.group(1) == "AWAV" else "vacuum"
    content = Content(wavelength, flux, hint=hint, **_companions(extension, hdus))
    return _fits_content(content, extension, hdus)


def _axis(header: Mapping[str, Any], n_pix: int) -> Any | None:
    """Return the wavelengths of the first axis, (n_pix,), or None if the header has none."""
    start, pixel = header.get("CRVAL1"), header.get("CRPIX1", 1.0)
    step = header.get("CD1_1") or header.get("CDELT1")
    if start is None or not step:
        return None
    if not all(isinstance(card, int | float) for card in (start, pixel, step)):
        raise ValueError(f"header: CRVAL1 = {start!r}, CRPIX1 = {pixel!r}, CDELT1 = {step!r}; "
                         "expected numbers, so fetch the file again or mend it")
    offset = (np.arange(1, n_pix + 1) - pixel) * step
    kind, unit = str(header.get("CTYPE1", "")).strip().upper(), _axis_unit(header)
    iraf_log = header.get("DC-FLAG") == 1
    if kind.endswith("-LOG") and not iraf_log and start * ANGSTROM.get(unit.lower(), 1.0) > 50:
        # Greisen et al. 2006, A&A 446, 747, equation 5: the reference value is a
        # wavelength.  Many files with this CTYPE have its log10 there instead.
        return in_angstrom(start * np.exp(offset / start), unit)
    if iraf_log or "LOG" in kind:
        return exponential(start + offset)
    return in_angstrom(start + offset, unit)


def _axis_unit(header: Mapping[str, Any]) -> str:
    """Return the unit of the first axis: CUNIT1, else IRAF's WAT1_001, else CTYPE1."""
    if unit := str(header.get("CUNIT1", "")).strip():
        return unit
    attributes = dict(re.findall(r"(\w+)=(\S+)", str(header.get("WAT1_001", "")).lower()))
    for word in (attributes.get("units"), attributes.get("label"), header.get("CTYPE1")):
        if word and str(word).strip().lower().removesuffix("s") in ANGSTROM:
            return str(word).strip()
    return ""


def _companions(extension: Any, hdus: Any) -> dict[str, Any]:
    """Return the uncertainty or ivar and the mask that other extensions hold."""
    found: dict[str, Any] = {}
    roles = {**dict.fromkeys(UNCERTAINTY, "uncertainty"), **dict.fromkeys(IVAR, "ivar"),
             **dict.fromkeys(MASK, "mask")}
    for other in hdus:
        role = roles.get(other.name.lower())
        if role is None or other is extension or other.data is None or not other.is_image:
            continue
        row = other.data.reshape(-1, other.data.shape[-1])[0]
        found.setdefault(role, bad_pixels(row) if role == "mask" else row)
    if "ivar" in found:
        found.pop("uncertainty", None)
    return found
