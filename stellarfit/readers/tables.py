"""Tables with a spectrum in every row, FITS or Parquet: how surveys hand over many at once.

Columns have the usual names (`content`): wavelengths, fluxes and perhaps errors, masks and a
resolution are vectors, a name is text or a number.  In FITS one set of wavelengths may stand for
all rows, as an image ``WAVELENGTH`` or ``LOGLAM``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stellarfit.readers.content import (
    FLUX,
    IVAR,
    LOG_WAVELENGTH,
    MASK,
    RESOLUTION,
    UNCERTAINTY,
    WAVELENGTH,
    Column,
    bad_pixels,
    exponential,
    in_angstrom,
    read_bytes,
)
from stellarfit.spectrum import Spectrum

NAME = ("name", "object", "target", "targetid", "target_id", "source_id", "sobject_id",
        "apogee_id", "sdss_id", "id", "star")
HELD = {"wavelength": WAVELENGTH, "log_wavelength": LOG_WAVELENGTH, "flux": FLUX, "ivar": IVAR,
        "uncertainty": UNCERTAINTY, "mask": MASK, "resolution": RESOLUTION, "name": NAME}


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its first bytes."""
    return read_bytes(path, 4) == b"PAR1"


def is_table(path: Path) -> bool:
    """Return whether a file is a table with a spectrum in every row, more than one."""
    if is_parquet(path):
        return True
    if not read_bytes(path, 80).startswith(b"SIMPLE"):
        return False
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as hdus:
            return any(_holds_spectra(h) for h in hdus)
    except Exception:  # whatever is wrong with it, the reader of single spectra will say
        return False


def _holds_spectra(hdu: Any) -> bool:
    columns = getattr(hdu, "columns", None)
    if columns is None or hdu.header.get("NAXIS2", 0) < 2:
        return False
    flux = _which(columns.names, "flux")
    return flux is not None and len(columns[flux].dtype.shape or ()) == 1


def _which(names: Sequence[str], what: str) -> str | None:
    """Return the column that holds something, the preferred name first."""
    words: dict[str, str] = {}
    for name in names:
        words.setdefault(Column(name, None).words[0], name)
    return next((words[w] for w in HELD[what] if w in words), None)


def count_rows(path: Path) -> int:
    """Return how many spectra a table holds."""
    return int((_Parquet if is_parquet(path) else _Fits)(path).count)


class TableOfSpectra(Sequence[Spectrum]):
    """The spectra of a table, read as they are asked for.

    Parameters
    ----------
    path : Path
    medium : {'air', 'vacuum'}, optional
        Overrules a keyword ``MEDIUM`` of the file.

    Raises
    ------
    ValueError
        When columns are missing or the medium is not known; where a row is asked for, when
        :class:`Spectrum` refuses it.
    """

    def __init__(self, path: Path, medium: str | None = None) -> None:
        self.path = path
        self._read: Any = _Parquet(path) if is_parquet(path) else _Fits(path)
        said = str(self._read.meta.get("medium", "")).strip().lower() or None
        column = self._column("wavelength") or self._column("log_wavelength")
        named = Column(column, None).words[2] if column else ""
        if named and medium not in (None, named):
            raise ValueError(f"'{path}': the wavelengths are in {named} by the name of their "
                             f"column, but medium={medium!r} was given; leave it out")
        known = named or medium or said
        if known not in ("air", "vacuum"):
            raise ValueError(f"'{path}' does not say whether its wavelengths are in air or "
                             "vacuum; give medium='air' or medium='vacuum' (--medium)")
        self.medium: str = known
        self._meta = {"file": path.name, "medium_from": "argument" if medium else "header"}
        if medium and said not in (None, medium):
            self._meta["medium_overruled"] = str(said)
        if self._column("flux") is None:
            raise ValueError(f"'{path}' has no column of fluxes; its columns are "
                             f"{', '.join(self._read.names)}")

    def __len__(self) -> int:
        return int(self._read.count)

    def __getitem__(self, row: Any) -> Any:
        if not -len(self) <= row < len(self):
            raise IndexError(f"'{self.path}' has {len(self)} rows")
        held = {w: self._read.cell(c, row) for w in HELD if (c := self._column(w)) is not None}
        name = held.pop("name", None)
        wavelength = self._wavelength(held)
        mask = held.pop("mask", None)
        try:
            return Spectrum(
                wavelength, held["flux"], ivar=held.get("ivar"),
                uncertainty=None if "ivar" in held else held.get("uncertainty"),
                mask=None if mask is None else bad_pixels(np.asarray(mask)),
                resolution=held.get("resolution"), medium=self.medium, meta=dict(self._meta),
                name=str(row if name is None else name).strip())
        except ValueError as error:
            raise ValueError(f"'{self.path}', row {row}: {error}") from error

    def __iter__(self) -> Iterator[Spectrum]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def _columns(self) -> dict[str, str | None]:
        return {w: _which(self._read.names, w) for w in HELD}

    def _column(self, what: str) -> str | None:
        return self._columns[what]

    def _wavelength(self, held: dict[str, Any]) -> Any:
        log = held.pop("log_wavelength", None)
        if (given := held.pop("wavelength", None)) is not None:
            column = self._column("wavelength") or ""
            unit = self._read.units.get(column) or Column(column, None).words[1]
            return in_angstrom(np.asarray(given, dtype=float), unit)
        if log is None and (shared := self._read.shared) is not None:
            return shared
        if log is None:
            raise ValueError(f"'{self.path}' has neither a column nor an image of wavelengths")
        return exponential(log)


class _Fits:
    """Rows of a FITS table, from disk as they are asked for."""

    def __init__(self, path: Path) -> None:
        from astropy.io import fits

        with fits.open(path, memmap=True) as hdus:
            table = next(h for h in hdus if _holds_spectra(h))
            self.data, self.names = table.data, list(table.columns.names)
            self.units = {c.name: c.unit or "" for c in table.columns}
            headers = {**hdus[0].header, **table.header}
            self.meta = {k.lower(): v for k, v in headers.items() if k in ("MEDIUM",)}
            self.shared = None
            for name in ("WAVELENGTH", "LOGLAM"):
                if name in hdus and hdus[name].data is not None:
                    values = np.array(hdus[name].data, dtype=float).ravel()
                    self.shared = exponential(values) if name == "LOGLAM" else in_angstrom(
                        values, str(hdus[name].header.get("BUNIT", "")))
                    break
        self.count = len(self.data)

    def cell(self, column: str, row: int) -> Any:
        value = self.data[column][row]
        return np.array(value) if np.ndim(value) else value


class _Parquet:
    """Rows of a Parquet file, a group of them in memory at a time."""

    shared = None

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "pyarrow is not installed: pip install 'stellarfit[survey]'") from error
        self._file = parquet.ParquetFile(path)
        self.names: list[str] = self._file.schema_arrow.names
        self.count: int = self._file.metadata.num_rows
        said = self._file.schema_arrow.metadata or {}
        self.meta = {k.decode().lower(): v.decode(errors="replace") for k, v in said.items()
                     if k.lower() == b"medium"}
        if (own := said.get(b"table_meta_yaml")) is not None:  # of a table that astropy wrote
            from astropy.table.meta import get_header_from_yaml

            held = get_header_from_yaml(own.decode().split("\n")).get("meta", {})
            self.meta |= {k.lower(): v for k, v in held.items() if k.lower() == "medium"}
        self.units: dict[str, str] = {}
        ends = np.cumsum([self._file.metadata.row_group(i).num_rows
                          for i in range(self._file.num_row_groups)])
        self._ends, self._group, self._rows = ends, -1, None

    def cell(self, column: str, row: int) -> Any:
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group != self._group:
            self._rows, self._group = self._file.read_row_group(group), group
        first = int(self._ends[group - 1]) if group else 0
        assert self._rows is not None
        value = self._rows[column][row - first].as_py()
        return np.array(value) if isinstance(value, list) else value
