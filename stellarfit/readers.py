"""Files to spectra: FITS images and tables, ECSV, columns of text.

:func:`read` looks at the first bytes of a file, not at its name, and hands it to one of
three readers: FITS, ECSV or text.  What a FITS file holds is tried HDU by HDU:

- *tables* with columns of the usual names, one pixel per row or (ESO phase 3) all pixels
  in one row.  SDSS ``spec-*.fits`` are such tables: ``loglam`` in vacuum, ``ivar``, and
  ``and_mask``, whose bits are set where *every* exposure had the problem: any bit masks.
- *images* with a linear or logarithmic scale in the header, flux in the first row, and
  perhaps an extension ERR, SIGMA, IVAR, ... of the same length.

A mask column (``mask``, ``qual``, ``flags``, ...) is taken as 0 = good, anything else bad.

The medium is that of the argument; else of the header (the name of the wavelength column,
AIRORVAC, MEDIUM, VACUUM, CTYPE1 or UCD); else that of the instrument, where its pipeline
always delivers the same.  ``meta["medium_from"]`` says which.  Nothing is guessed.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellarfit.spectrum import Spectrum

# Names of columns and image extensions by what they hold, the preferred first.
WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "wl", "awav", "wavel", "wvl")
LOG_WAVELENGTH = ("loglam", "log_lam", "loglambda", "log_lambda", "log_wave", "log_wavelength")
FLUX = ("flux", "flux_reduced", "flx", "spec", "spectrum", "counts", "intensity", "flux_norm",
        "normalized_flux", "normalised_flux")
UNCERTAINTY = ("err", "error", "sigma", "uncertainty", "uncert", "flux_err", "flux_error",
               "err_flux", "e_flux", "err_reduced", "std", "stdev")
IVAR = ("ivar", "flux_ivar", "ivar_flux", "inverse_variance")
MASK = ("mask", "and_mask", "qual", "quality", "flags", "flag", "dq", "bad")

ANGSTROM = {
    "angstrom": 1.0, "ang": 1.0, "a": 1.0, "aa": 1.0, "å": 1.0, "0.1nm": 1.0,
    "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0,
    "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4, "micrometer": 1e4, "micrometre": 1e4,
    "m": 1e10, "meter": 1e10, "metre": 1e10,
}
UNITLESS = ("", "none", "unitless", "dimensionless")

# Pipelines whose reduced spectra always come in one medium.
INSTRUMENT_MEDIUM = {
    "HARPS": "air", "HARPN": "air", "UVES": "air", "FEROS": "air", "SOPHIE": "air",
    "ELODIE": "air", "ESPADONS": "air", "NARVAL": "air", "SDSS": "vacuum", "LAMOST": "vacuum",
}

# First axes that are not wavelengths, by the beginning of CTYPE1.
OTHER_AXES = ("RA--", "DEC-", "GLON", "GLAT", "HPLN", "FREQ", "VELO", "VRAD", "VOPT", "ENER",
              "WAVN", "TIME", "PIXEL")
# A stack of so many rows is still one spectrum with its errors, sky, ...; more are many.
MOST_ROWS = 5


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
        text = self.name.strip().strip("\"'").lower()
        unit = m.group(1).strip() if (m := re.search(r"[\[(](.*?)[\])]", text)) else ""
        name = re.sub(r"\W+", "_", re.sub(r"[\[(].*", "", text)).strip("_")
        if m := re.fullmatch(r"(.+?)_(nm|um|micron|angstroms?|aa)", name):
            name, unit = m.group(1), unit or m.group(2)
        medium = "air" if name == "awav" else ""
        if m := re.fullmatch(r"(.+?)_?(air|vac|vacuum)", name):
            name, medium = m.group(1), "air" if m.group(2) == "air" else "vacuum"
        return name, unit, medium


def read(
    path: str | Path,
    *,
    medium: str | None = None,
    format: str | None = None,
    hdu: int | str | None = None,
) -> Spectrum:
    """Read a spectrum from a file.

    Parameters
    ----------
    path : str or Path
        FITS (gzipped or not), ECSV, or text or CSV with columns wavelength, flux and
        perhaps uncertainty; other columns and another order need a line of names.
    medium : {'air', 'vacuum'}, optional
        Of the wavelengths; overrules the file.  Needed where the file does not say.
    format : {'fits', 'ecsv', 'text'}, optional
        Recognised by the content when not given.
    hdu : int or str, optional
        The HDU of a FITS file to read; the first that holds a spectrum when not given.

    Returns
    -------
    Spectrum
        With ``meta`` entries ``file``, ``medium_from`` and, from FITS, ``hdu`` and what
        the header says of instrument, date and flux unit.

    Raises
    ------
    ValueError
        When the file is empty, corrupted, not a spectrum or several, when its medium or
        units are unknown, or when :class:`Spectrum` refuses what it holds.
    FileNotFoundError
        When there is no such file.

    Examples
    --------
    >>> spectrum = read("star.fits")                                 # doctest: +SKIP
    >>> spectrum = read("star.txt", medium="air")                    # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no spectrum at '{path}'")
    if format is not None and format not in READERS:
        raise ValueError(f"unknown format {format!r}; valid: {', '.join(READERS)}")
    try:
        content = READERS[format or recognise(path)](path, hdu)
        return _spectrum(content, path, medium)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error


def recognise(path: Path) -> str:
    """Return the format of a file, 'fits', 'ecsv' or 'text', from its first bytes."""
    head = _bytes(path, 2880)
    if not head.strip():
        raise ValueError("the file is empty")
    if head.startswith(b"SIMPLE"):
        return "fits"
    if head.startswith(b"# %ECSV"):
        return "ecsv"
    if b"\0" in head:
        raise ValueError("this is not a spectrum we can read; give FITS, ECSV or columns of text")
    return "text"


def _spectrum(content: Content, path: Path, medium: str | None) -> Spectrum:
    """Take what a file says to the door of :class:`Spectrum`."""
    if content.named and medium not in (None, content.medium):
        raise ValueError(f"the wavelengths are in {content.medium} by the name of their column, "
                         f"but medium={medium!r} was given; leave it out and use to_medium")
    known = medium or content.medium
    if known is None:
        raise ValueError(f"{content.doubt}; give medium='air' or medium='vacuum'")
    meta = {**content.meta, "file": path.name,
            "medium_from": "argument" if medium else content.medium_from}
    return Spectrum(
        content.wavelength, content.flux, ivar=content.ivar, uncertainty=content.uncertainty,
        mask=content.mask, medium=known, name=content.name or path.name.split(".")[0], meta=meta,
    )


def _bytes(path: Path, size: int = -1) -> bytes:
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
        return _exponential(values)
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


def _exponential(logarithm: NDArray[Any]) -> NDArray[np.float64]:
    """Undo the logarithm of wavelengths in Å, common or (some model grids) natural."""
    # In float64 before the power: SDSS stores loglam in float32.
    exponent = np.asarray(logarithm, dtype=np.float64)
    # 10^7 Å is a millimetre, e^7 Å is in the far ultraviolet: no star is in doubt.
    natural = exponent.size > 0 and exponent.min() > 7
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(exponent) if natural else 10.0**exponent)


def _stated_medium(text: Any) -> str | None:
    """Return 'air' or 'vacuum' for a header value that says so in words."""
    word = str(text).strip().lower()
    return "air" if word == "air" else "vacuum" if word in ("vac", "vacuum") else None


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
            if stated := _stated_medium(header.get(key)):
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


def _find(columns: Iterable[Column], names: Sequence[str]) -> Column | None:
    """Return the column that goes by the first of `names` that any goes by."""
    found = [(names.index(bare), not medium, i, c) for i, c in enumerate(columns)
             for bare, _, medium in [c.words] if bare in names]
    # Among equals the one that names its medium is preferred: beside a 'wavelength_air',
    # 'wavelength' is in vacuum (ESPRESSO, and HARPS through its pipeline).
    return min(found, key=lambda f: f[:3])[3] if found else None


def from_columns(columns: Sequence[Column]) -> Content | None:
    """Return the spectrum in the columns of a table, or None if they hold none."""
    linear, logarithmic = _find(columns, WAVELENGTH), _find(columns, LOG_WAVELENGTH)
    flux = _find(columns, FLUX)
    axis = linear or logarithmic
    if axis is None or flux is None:
        return None
    _, unit, medium = axis.words
    wavelength = (in_angstrom(axis.values, axis.unit or unit) if linear
                  else _exponential(axis.values))
    # ESO phase 3: the errors of FLUX_REDUCED are ERR_REDUCED, not ERR.
    pair = ("err_reduced",) if flux.words[0] == "flux_reduced" else ()
    sigma, ivar, mask = (_find(columns, n) for n in ((*pair, *UNCERTAINTY), IVAR, MASK))
    return Content(
        wavelength=wavelength, flux=flux.values,
        ivar=ivar.values if ivar else None,
        uncertainty=sigma.values if sigma and not ivar else None,
        mask=_bad_pixels(mask.values) if mask else None,
        medium=medium or None, named=bool(medium), hint=_ucd_medium(axis.ucd),
        meta={"flux_unit": flux.unit} if flux.unit else {},
    )


def _ucd_medium(ucd: str) -> str | None:
    """Return the medium by the UCD of a wavelength column, as ESO phase 3 writes it."""
    return {"em.wl;obs.atmos": "air", "em.wl": "vacuum"}.get(ucd.strip().lower())


def _bad_pixels(values: Any) -> NDArray[np.bool_]:
    """Return True where a mask, of bools or bits, is set or has no value."""
    flags = np.ma.asarray(values)
    if flags.dtype.kind not in "biuf":
        raise ValueError(f"the mask column holds {flags.dtype}, but numbers or booleans are "
                         "expected; rename it to have it left out")
    return np.asarray(np.ma.filled(flags != 0, True))


def read_fits(path: Path, hdu: int | str | None) -> Content:
    """Read the HDU `hdu` of a FITS file, or the first that holds a spectrum."""
    from astropy.io.fits import VerifyError

    hdus = _load(path)
    chosen = hdus if hdu is None else [_select(hdus, hdu)]
    try:
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


def _load(path: Path) -> Any:
    """Return the HDUs of a FITS file with all data in memory and the file closed."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning

    content = _bytes(path)
    try:
        with warnings.catch_warnings():
            # Odd header cards are common and harmless; a file cut short is neither.
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", ".*truncated.*", AstropyUserWarning)
            # From memory: astropy leaves a broken file open when it gives up on it.
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=False) as hdus:
                several = {h.name for h in hdus if h.name.endswith("_WAVELENGTH")}
                if not several:
                    for extension in hdus:
                        _ = extension.data
    except (OSError, ValueError, TypeError, LookupError, AttributeError, fits.VerifyError,
            AstropyUserWarning) as error:
        raise ValueError("the FITS file is corrupted or cut short; fetch it again") from error
    if several:
        raise ValueError(
            f"several spectra in one file (a DESI coadd: {', '.join(sorted(several))}); "
            "pick one target and arm and give its arrays to Spectrum(...)"
        )
    return hdus


def _select(hdus: Any, which: int | str) -> Any:
    try:
        return hdus[which]
    except LookupError as error:
        raise ValueError(f"there is no HDU {which!r}; valid: 0-{len(hdus) - 1}, "
                         f"{', '.join(h.name for h in hdus if h.name)}") from error


def _fits_content(content: Content, extension: Any, hdus: Any) -> Content:
    """Add to `content` what the headers say."""
    headers = [extension.header, hdus[0].header]
    medium = {} if content.named else header_medium(headers, content.hint)
    meta = {"hdu": hdus.index_of(extension), **content.meta}
    for key, card in (("instrument", "INSTRUME"), ("date", "DATE-OBS"), ("flux_unit", "BUNIT")):
        if value := next((str(h[card]).strip() for h in headers if h.get(card)), ""):
            meta.setdefault(key, value)
    name = next((str(h["OBJECT"]).strip() for h in headers if h.get("OBJECT")), "")
    return replace(content, name=name, meta=meta, **medium)


def fits_table(extension: Any, hdus: Any) -> Content | None:
    """Return the spectrum in a binary table, or None if it is not one."""
    if not hasattr(extension, "columns"):
        return None
    known = {*WAVELENGTH, *LOG_WAVELENGTH, *FLUX, *UNCERTAINTY, *IVAR, *MASK}
    columns = [
        Column(c.name, _pixels(extension.data, c.name), c.unit or "",
               str(extension.header.get(f"TUCD{i}", "")))
        for i, c in enumerate(extension.columns, start=1) if Column(c.name, None).words[0] in known
    ]
    content = from_columns(columns)
    if content is None:
        return None
    if np.ndim(content.flux) != 1:
        raise ValueError(
            f"several spectra in one table (flux of shape {np.shape(content.flux)}); "
            "pick one and give its arrays to Spectrum(...)"
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
                         "merge them (scombine) or export a table")
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
        return _exponential(start + offset)
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
        found.setdefault(role, _bad_pixels(row) if role == "mask" else row)
    if "ivar" in found:
        found.pop("uncertainty", None)
    return found


def read_ecsv(path: Path, hdu: int | str | None = None) -> Content:
    """Read an ECSV table; its medium is the entry ``medium`` of its meta."""
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning

    _refuse_hdu(hdu)
    text = _bytes(path).decode("utf-8", errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            table = Table.read(text.splitlines(), format="ascii.ecsv")
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("the ECSV table is corrupted or cut short; write it again") from error
    columns = [Column(c.name, getattr(c, "value", c), str(c.unit or "")) for c in
               table.itercols()]
    content = _named(columns)
    medium = content.medium or _stated_medium(table.meta.get("medium"))
    return replace(content, medium=medium, name=str(table.meta.get("name", "")),
                   meta={**table.meta, **content.meta})


def read_text(path: Path, hdu: int | str | None = None) -> Content:
    """Read columns of text, separated by blanks, commas or semicolons.

    Two columns are wavelength and flux, a third is the uncertainty.  A line of names, bare
    or as a comment, may say otherwise; a comment ``medium: air`` gives the medium.
    """
    _refuse_hdu(hdu)
    text = _bytes(path).decode("utf-8-sig", errors="replace")
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    comments = [line.lstrip("#!% ") for line in lines if line[0] in "#!%"]
    rows = [line for line in lines if line[0] not in "#!%"]
    if not rows:
        raise ValueError("the file has no data, only comments" if lines else "the file is empty")
    names = [] if _is_number(_split(rows[0])[0]) else _split(rows.pop(0))
    columns = _label(_numbers(rows), names, comments)
    content = _named(columns)
    stated = re.search(r"\bmedium\s*[:=]\s*(air|vac)", "\n".join(comments), re.IGNORECASE)
    medium = content.medium or _stated_medium(stated.group(1) if stated else None)
    return replace(content, medium=medium)


def _refuse_hdu(hdu: int | str | None) -> None:
    if hdu is not None:
        raise ValueError(f"hdu={hdu!r} was asked for, but this is not a FITS file; leave it out")


def _split(line: str) -> list[str]:
    """Return the words of a line, keeping a unit in brackets with the name before it."""
    line = re.sub(r"\s+(?=[\[(])", "", line)
    return [w.strip() for w in (re.split(r"[,;]", line) if re.search("[,;]", line)
                                else line.split())]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(rows: Sequence[str]) -> NDArray[np.float64]:
    """Return the numbers of the rows, (n_column, n_row)."""
    if not rows:
        raise ValueError("the file has a line of names but no data")
    separator = next((s for s in ",;" if s in rows[0]), None)
    try:
        return np.loadtxt(rows, delimiter=separator, comments="#", ndmin=2).T
    except ValueError as error:
        raise ValueError(
            f"this is not a table of numbers (it begins {rows[0][:40]!r}); expected "
            "columns wavelength, flux and perhaps uncertainty"
        ) from error


def _label(
    numbers: NDArray[np.float64], names: Sequence[str], comments: Sequence[str]
) -> list[Column]:
    """Give the columns of a text their names."""
    # numpy.savetxt and many others put the names in a comment.
    for words in () if names else map(_split, reversed(comments)):
        if len(words) == len(numbers) and from_columns([Column(w, numbers[0]) for w in words]):
            names = words
            break
    names = names or ("wavelength", "flux", "uncertainty")[:len(numbers)]
    if len(names) != len(numbers) or len(numbers) < 2:
        raise ValueError(
            f"{len(numbers)} columns and {len(names)} names; expected wavelength, flux and perhaps "
            "uncertainty, or a first line that names every column"
        )
    return [Column(n, c) for n, c in zip(names, numbers, strict=True)]


def _named(columns: Sequence[Column]) -> Content:
    """Return the spectrum in named columns, which must be there."""
    content = from_columns(columns)
    if content is None:
        raise ValueError(
            f"no spectrum in columns {', '.join(c.name for c in columns)}; expected one called "
            f"{', '.join(WAVELENGTH[:3])}, ... and one called {', '.join(FLUX[:2])}, ..."
        )
    return content


READERS: dict[str, Callable[[Path, int | str | None], Content]] = {
    "fits": read_fits, "ecsv": read_ecsv, "text": read_text,
}
