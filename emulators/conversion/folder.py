"""A folder of spectra, one file each, and the table or the names that label them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content, normalised
from emulators.conversion.fits import read_fits
from emulators.conversion.ispec import read_ispec
from emulators.conversion.korg import read_korg
from emulators.conversion.labels import TABLES, LabelTable, from_file_names, read_table
from emulators.conversion.moog import COUNT, read_moog
from emulators.conversion.text import read_head, read_text
from emulators.conversion.turbospectrum import read_turbospectrum

logger = logging.getLogger(__name__)

FORMATS: dict[str, Callable[[Path], Content]] = {
    "fits": read_fits, "ispec": read_ispec, "korg": read_korg, "moog": read_moog,
    "text": read_text, "turbospectrum": read_turbospectrum,
}
#: Wavelengths that differ by less, 0.03 km/s, are the same.
SAME = 1e-7


@dataclass(frozen=True)
class Folder:
    """Spectra in files of one format, on one wavelength grid.

    Parameters
    ----------
    paths : tuple of Path
    labels : LabelTable
    format : str
    first : Content
        The first of them, whose wavelengths are those of all.
    """

    paths: tuple[Path, ...]
    labels: LabelTable
    format: str
    first: Content
    split = None

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield one normalised flux after the other, shape (n_pix,)."""
        for number, path in enumerate(self.paths):
            content = read_spectrum(path, self.format) if number else self.first
            _same_wavelengths(content, path, self.first, self.paths[0])
            try:
                yield normalised(content)
            except ValueError as error:
                raise ValueError(f"'{path}': {error}") from error
            if (number + 1) % 1000 == 0:
                logger.info("%d of %d spectra", number + 1, len(self.paths))


def read_folder(
    source: Path, *, format: str | None = None, names: Sequence[str] | None = None,
    labels: Path | None = None, pattern: str | None = None,
) -> Folder:
    """Find the spectra in a folder, their labels and their format."""
    if labels is not None and pattern is not None:
        raise ValueError("labels come from a table (labels=) or from the names of the files "
                         "(pattern=), not from both")
    if pattern is not None:
        inside = sorted(p.relative_to(source).as_posix() for p in source.rglob("*")
                        if p.is_file() and not p.name.startswith("."))
        table = from_file_names(inside, pattern, names)
    else:
        where = labels or _table_in(source)
        table = read_table(where, names)
    paths = tuple(_locate(source, file) for file in table.files)
    if not paths:
        raise ValueError(f"the table of labels of '{source}' has no rows")
    if pattern is None:
        _log_unlabelled(source, {where, *paths})
    format = format or recognise(paths[0])
    return Folder(paths, table, format, read_spectrum(paths[0], format))


def read_spectrum(path: Path, format: str) -> Content:
    """Read one file, its wavelengths turned to increase."""
    try:
        content = FORMATS[format](path)
    except ValueError as error:
        raise ValueError(f"'{path}' as {format}: {error}") from error
    if len(content.wavelength) != len(content.flux) or len(content.flux) < 2:
        raise ValueError(f"'{path}' as {format}: {len(content.wavelength)} wavelengths and "
                         f"{len(content.flux)} fluxes")
    if content.wavelength[0] <= content.wavelength[-1]:
        return content
    continuum = None if content.continuum is None else content.continuum[::-1]
    return Content(content.wavelength[::-1], content.flux[::-1], continuum, content.unit,
                   content.medium)


def recognise(path: Path) -> str:
    """Return the format of a file of one spectrum, by what stands in it.

    Korg's columns cannot be told from others: they are read when they are asked for.
    """
    with open(path, "rb") as stream:
        start = stream.read(6)
    if start == b"SIMPLE" or path.name.lower().endswith((".fits.gz", ".fit.gz")):
        return "fits"
    try:
        head = read_head(path)
    except ValueError as error:
        raise ValueError(f"'{path}' is not a spectrum we know ({error}); valid formats: "
                         f"{', '.join(FORMATS)}") from error
    if any(COUNT in line for line in head.lines):
        return "moog"
    if head.names and head.names[0].lower() == "waveobs":
        return "ispec"
    return "turbospectrum" if path.suffix == ".spec" and head.width > 2 else "text"


def _same_wavelengths(content: Content, path: Path, first: Content, first_path: Path) -> None:
    a, b = content.wavelength, first.wavelength
    if content.medium != first.medium or content.unit != first.unit:
        raise ValueError(f"'{path}' says {content.medium or 'no medium'} and "
                         f"{content.unit or 'no unit'} of its wavelengths, but '{first_path.name}' "
                         f"{first.medium or 'no medium'} and {first.unit or 'no unit'}")
    if len(a) == len(b) and np.allclose(a, b, rtol=SAME, atol=0.0):
        return
    raise ValueError(
        f"'{path}' has {len(a)} wavelengths, {a[0]:.8g} to {a[-1]:.8g}, but '{first_path.name}' "
        f"has {len(b)}, {b[0]:.8g} to {b[-1]:.8g}: a grid has one set of wavelengths; synthesise "
        "or resample the spectra on the same ones"
    )


def _table_in(source: Path) -> Path:
    found = sorted(p for p in source.iterdir()
                   if p.stem.lower() == "labels" and p.suffix.lower() in TABLES)
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"no labels for the spectra in '{source}': give a table of them with labels= (--labels) "
        f"or as {source.name}/labels.csv, or a pattern= (--pattern) that finds them in the names"
        if not found else
        f"'{source}' has several tables of labels, {', '.join(p.name for p in found)}: choose with "
        "labels= (--labels)"
    )


def _locate(source: Path, file: str) -> Path:
    """Return the path of a spectrum, whose name in the table may lack its suffix."""
    path = source / file
    if path.is_file():
        return path
    without = [p for p in path.parent.glob(f"{path.name}.*") if p.is_file()]
    if len(without) == 1:
        return without[0]
    if without:
        raise ValueError(f"'{file}' is the name of {len(without)} spectra in '{source}': give the "
                         "suffix too")
    raise FileNotFoundError(f"no spectrum '{file}' in '{source}', which the labels name")


def _log_unlabelled(source: Path, known: set[Path]) -> None:
    resolved = {p.resolve() for p in known}
    others = [p.name for p in sorted(source.iterdir()) if p.is_file()
              and p.resolve() not in resolved and not p.name.startswith(".")]
    if others:
        logger.warning("%d files in '%s' have no row among the labels and are left out, the "
                       "first: '%s'", len(others), source, others[0])
