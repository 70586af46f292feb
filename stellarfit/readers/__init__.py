"""Files to spectra: FITS images and tables, ECSV, columns of text.

:func:`read` looks at the first bytes of a file, not at its name, and hands it to one of
three readers: FITS, ECSV or text.  What a FITS file holds is tried HDU by HDU:

- *tables* with columns of the usual names, one pixel per row or (ESO phase 3) all pixels
  in one row.  SDSS ``spec-*.fits`` are such tables: ``loglam`` in vacuum, ``ivar``, and
  ``and_mask``, whose bits are set where *every* exposure had the problem: any bit masks.
- files of APOGEE, GALAH, LAMOST and PypeIt (`surveys`), which break a rule of the others.
- *images* with a linear or logarithmic scale in the header, flux in the first row, and
  perhaps an extension ERR, SIGMA, IVAR, ... of the same length.

A mask column (``mask``, ``qual``, ``flags``, ...) is taken as 0 = good, anything else bad.

The medium is that of the argument; else of the header (the name of the wavelength column,
AIRORVAC, MEDIUM, VACUUM, CTYPE1 or UCD); else that of the instrument, where its pipeline
always delivers the same.  ``meta["medium_from"]`` says which.  Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stellarfit.naming import stem_of
from stellarfit.readers.content import Content, read_bytes
from stellarfit.readers.fits import READ_ALL, content_of, load, read_fits
from stellarfit.readers.many import MANY
from stellarfit.readers.tables import TableOfSpectra, is_table
from stellarfit.readers.text import read_ecsv, read_text
from stellarfit.spectrum import Spectrum

READERS: dict[str, Callable[[Path, int | str | None], Content]] = {
    "fits": read_fits, "ecsv": read_ecsv, "text": read_text,
}


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
        Of the wavelengths; overrules the file, whose own word is then kept as
        ``meta["medium_overruled"]`` and flagged by fits.  Needed where the file does not say.
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
    path = _file(path)
    if format is not None and format not in READERS:
        raise ValueError(f"unknown format {format!r}; valid: {', '.join(READERS)}")
    try:
        content = READERS[format or recognise(path)](path, hdu)
        return _spectrum(content, path, medium)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error
    except LookupError as error:
        raise _lacking(path, error) from error


def _file(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"'{path}' is a folder: give its files, or all of it to fit_many "
                                "(stellarfit survey run)")
    if not path.is_file():
        raise FileNotFoundError(f"no spectrum at '{path}'")
    return path


def _lacking(path: Path, error: Exception) -> ValueError:
    return ValueError(f"'{path}' lacks what files of its kind have: {error}")


def read_all(
    path: str | Path, *, medium: str | None = None, format: str | None = None,
    hdu: int | str | None = None,
) -> dict[str, Spectrum | dict[str, Spectrum]]:
    """Read every star in a file, by name.

    Parameters
    ----------
    path : str or Path
        A table, FITS or Parquet, with a spectrum in every row; a DESI coadd, whose targets
        have an arm each in b, r and z with its resolution matrix; a LAMOST
        star at medium resolution, with arms b and r; a PypeIt spec1d file; an IRAF multispec
        image, whose orders are arms; or anything that :func:`read` takes, which is one star.
    medium, format, hdu
        As of :func:`read`; the latter two are of files of one star.

    Returns
    -------
    dict
        Spectra, or mappings of arms, as :func:`stellarfit.fit` takes them; a target of which
        no arm has a good pixel is an empty mapping.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`read`.
    ModuleNotFoundError
        For Parquet without pyarrow.

    Examples
    --------
    >>> for name, arms in read_all("coadd.fits").items():           # doctest: +SKIP
    ...     result = stellarfit.fit(arms)
    """
    path = _file(path)
    if hdu is None and format is None and is_table(path):
        found: dict[str, Spectrum | dict[str, Spectrum]] = {}
        for row, star in enumerate(TableOfSpectra(path, medium)):
            found[star.name if star.name not in found else f"{star.name}_{row}"] = star
        return found
    return stars_of(path, medium=medium, format=format, hdu=hdu)


def stars_of(
    path: Path, *, medium: str | None = None, format: str | None = None,
    hdu: int | str | None = None,
) -> dict[str, Spectrum | dict[str, Spectrum]]:
    """Return what :func:`read_all` does of a file that is no table of spectra."""
    path = _file(path)
    # A certain HDU is one star's.
    if hdu is None and format in (None, "fits") and read_bytes(path, 6) == b"SIMPLE":
        try:
            hdus = load(path)
            for reader in MANY:
                if (stars := reader(hdus, path, medium)) is not None:
                    return stars
            spectrum = _spectrum(content_of(hdus), path, medium)
            return {spectrum.name: spectrum}
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error
        except LookupError as error:
            raise _lacking(path, error) from error
    spectrum = read(path, medium=medium, format=format, hdu=hdu)
    return {spectrum.name: spectrum}


def recognise(path: Path) -> str:
    """Return the format of a file, 'fits', 'ecsv' or 'text', from its first bytes."""
    head = read_bytes(path, 2880)
    if not head.strip():
        raise ValueError("the file is empty")
    if head.startswith(b"SIMPLE"):
        return "fits"
    if head.startswith(b"# %ECSV"):
        return "ecsv"
    if head.startswith(b"PAR1"):
        raise ValueError(f"a Parquet table holds several spectra; {READ_ALL}")
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
        raise ValueError(f"{content.doubt}; give medium='air' or medium='vacuum' (--medium)")
    meta = {**content.meta, "file": path.name,
            "medium_from": "argument" if medium else content.medium_from}
    if medium and content.medium not in (None, medium):
        meta["medium_overruled"] = content.medium  # 80 km/s: whoever fits it will flag it
    return Spectrum(
        content.wavelength, content.flux, ivar=content.ivar, uncertainty=content.uncertainty,
        mask=content.mask, resolution=content.resolution, medium=known,
        name=content.name or stem_of(path), meta=meta,
    )
