"""Grids from spectra that were made elsewhere.

What is read, by `format`:

=================  ==========================================================================
``payne``          an ``.npz`` file of The Payne's; its labels need `names`
``fits``           a folder of FITS spectra: images with CRVAL1 and CDELT1, or tables
``text``           a folder of text, CSV or ECSV: wavelength and flux by name, or the first two
``turbospectrum``  a folder of ``.spec`` files: wavelength, normalised flux, flux
``moog``           a folder of MOOG's smoothed spectra
``ispec``          a folder of iSpec's text: ``waveobs`` in nm, ``flux``, ``err``
``korg``           a folder of columns that Korg.jl returned: wavelength, flux, continuum
=================  ==========================================================================

A folder needs labels: a table (`labels`, or ``labels.csv`` in the folder) with a row per
spectrum and a column ``file``, ``filename``, ``spectrum`` or ``path``, or a `pattern` that finds
them in the names of the files.  One file is read at a time, so that a folder may hold more than
the memory.  All spectra must be on the same wavelengths and normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content
from emulators.conversion.folder import FORMATS as FOLDER_FORMATS
from emulators.conversion.folder import read_folder
from emulators.conversion.payne import read_payne
from emulators.conversion.writing import Source, spread, write_grid

if TYPE_CHECKING:
    from emulators.grid import Grid
    from emulators.labels import Domain

FORMATS = ("payne", *FOLDER_FORMATS)


def convert(
    source: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    names: Sequence[str] | None = None,
    medium: str | None = None,
    unit: str | None = None,
    resolution: float | None = None,
    labels: str | Path | None = None,
    pattern: str | None = None,
    wavelength: str | Path | None = None,
    domain: Domain | None = None,
    validation: float = 0.1,
) -> Grid:
    """Write a grid from spectra that were made elsewhere.

    Parameters
    ----------
    source : str or Path
        An ``.npz`` file or a folder.
    out : str or Path
        The HDF5 file to write, whole or not at all.
    format : str, optional
        See above; recognised when not given, except ``korg``.
    names : sequence of str, optional
        Which columns are labels, by their name in the source or by ours, or as
        ``ours=theirs``; for ``payne`` the names of the labels in their order.  By default all
        numeric columns of the table, which must then be known ones.
    medium : {'air', 'vacuum'}, optional
        Of the wavelengths; needed unless the source says so.
    unit : str, optional
        Of the wavelengths, as astropy writes it; by default what the source says, else Å
        (nm for ``ispec``).
    resolution : float, optional
        R = wavelength / FWHM of the Gaussian that the spectra have been convolved with; fits
        then broaden by what the instrument adds to it.  Left out, they are taken as sharp.
    labels : str or Path, optional
        Table of the labels, as astropy reads it: CSV, ECSV, FITS, text.
    pattern : str, optional
        Regular expression whose named groups are labels in the names of files.
    wavelength : str or Path, optional
        For ``payne``: the file of the wavelengths, where `source` has none.
    domain : Domain, optional
        Where the labels were drawn from; by default the box around them.
    validation : float
        Fraction of the spectra that chooses among the states of a training, spread evenly
        over the file.  Where the source tells its own, those are taken.

    Returns
    -------
    Grid
        The new file, flux in float32, NaN where it is unknown.

    Raises
    ------
    ValueError
        When something is missing, inconsistent or not a normalised spectrum, and when
        :func:`emulators.grid_check.check` finds an error.
    FileNotFoundError
        When the source, or a file that it names, is not there.
    FileExistsError
        When `out` is there already.

    Examples
    --------
    >>> convert("spectra", "mine.h5", medium="air")                       # doctest: +SKIP
    >>> convert("marcs", "marcs.h5", medium="air",                        # doctest: +SKIP
    ...         pattern=r"p(?P<teff>\\d+)_g(?P<logg>[+-][\\d.]+)_.*_z(?P<fe_h>[+-][\\d.]+)")
    """
    from emulators.grid import Grid

    source, out = Path(source), Path(out)
    _check_arguments(source, out, format, medium, validation)
    spectra: Source
    if source.is_dir():
        _refuse("an .npz file; in a folder every spectrum has its own", wavelength=wavelength)
        spectra = read_folder(source, format=format, names=names, pattern=pattern,
                              labels=None if labels is None else Path(labels))
    else:
        _refuse("a folder; an .npz file has its own labels, which names= names",
                labels=labels, pattern=pattern)
        spectra = read_payne(source, names=names,
                             wavelength=None if wavelength is None else Path(wavelength))
    split = spectra.split
    write_grid(
        out, spectra, wavelength=_in_angstrom(spectra.first, unit, source), source=source.name,
        resolution=resolution,
        medium=_medium(spectra.first, medium, source), domain=domain,
        split=spread(len(spectra.labels.values), validation) if split is None else split,
    )
    return Grid(out)


def _refuse(where: str, **arguments: object) -> None:
    """Refuse arguments that go with another kind of source."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}= (--{name}) goes with {where}")


def _check_arguments(
    source: Path, out: Path, format: str | None, medium: str | None, validation: float
) -> None:
    if not source.exists():
        raise FileNotFoundError(f"no spectra at '{source}'")
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; valid: {', '.join(FORMATS)}")
    if not source.is_dir() and source.suffix != ".npz" and format != "payne":
        raise ValueError(f"'{source}' is one file, but of the formats only payne (.npz) is: give a "
                         "folder of spectra")
    if format is not None and (format == "payne") == source.is_dir():
        expected, got = ("an .npz file", "a folder") if source.is_dir() else ("a folder", "a file")
        raise ValueError(f"format {format!r} needs {expected}, but '{source}' is {got}")
    if medium not in (None, "air", "vacuum"):
        raise ValueError(f"medium is {medium!r}; valid: air, vacuum")
    if not 0.0 <= validation < 1.0:
        raise ValueError(f"validation is {validation}, expected a fraction from 0 to below 1")
    if out.exists():
        raise FileExistsError(f"'{out}' exists: remove it, or give another name")


def _medium(first: Content, medium: str | None, source: Path) -> str:
    if medium and first.medium and medium != first.medium:
        raise ValueError(f"'{source}' says that its wavelengths are in {first.medium}, but "
                         f"medium={medium!r} was given; leave it out, or mend the files")
    if not (medium or first.medium):
        raise ValueError(f"'{source}' does not say whether its wavelengths are in air or vacuum: "
                         "give medium='air' or medium='vacuum' (--medium)")
    return medium or first.medium


def _in_angstrom(first: Content, unit: str | None, source: Path) -> NDArray[np.float64]:
    """Return the wavelengths in Å, which must increase."""
    from astropy import units

    name = unit or first.unit or "Angstrom"
    try:
        # FITS headers and iSpec write NM, ANGSTROMS, ...
        parsed = units.Unit({"nm": "nm", "a": "Angstrom", "aa": "Angstrom"}.get(
            name.lower(), "Angstrom" if name.lower().startswith("ang") else name))
        wavelength = first.wavelength * parsed.to(units.AA)
    except (ValueError, units.UnitConversionError) as error:
        raise ValueError(f"the wavelengths of '{source}' are in {name!r}, which is not a length "
                         "that astropy knows; give unit= (--unit), such as nm") from error
    if not (np.diff(wavelength) > 0).all():
        bad = int(np.flatnonzero(~(np.diff(wavelength) > 0))[0])
        raise ValueError(f"the wavelengths of '{source}' do not increase: pixel {bad} is at "
                         f"{wavelength[bad]:.8g} Å, the next at {wavelength[bad + 1]:.8g} Å; "
                         "remove what is there twice")
    return np.asarray(wavelength, dtype=np.float64)
