"""Tables with a spectrum in every row, FITS or Parquet: how surveys hand over many at once.

Columns have the usual names (`content`): wavelengths, fluxes and perhaps errors, masks and a
resolution are vectors, a name is text or a number.  In FITS one set of wavelengths may stand for
all rows, as an image ``WAVELENGTH`` or ``LOGLAM``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stellarfit.readers.content import (
    FLUX,
    LOG_WAVELENGTH,
    MASK,
    PIXELS,
    WAVELENGTH,
    Column,
    exponential,
    find,
    from_columns,
    in_angstrom,
    read_bytes,
    stated_medium,
)
from stellarfit.readers.fits import frame_of, header_medium
from stellarfit.spectrum import Spectrum

NAME = ("name", "object", "target", "targetid", "target_id", "source_id", "sobject_id",
        "apogee_id", "sdss_id", "id", "star")


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
    flux = find([Column(n, None) for n in columns.names], FLUX)
    return flux is not None and len(columns[flux.name].dtype.shape or ()) == 1


def count_rows(path: Path) -> int:
    """Return how many spectra a table holds."""
    return int((_Parquet if is_parquet(path) else _Fits)(path).count)


class TableOfSpectra(Sequence[Spectrum]):
    """The spectra of a table, read as they are asked for.

    Parameters
    ----------
    path : Path
    medium : {'air', 'vacuum'}, optional
        Overrules what the file says.

    Raises
    ------
    ValueError
        When columns are missing or the medium is not known; where a row is asked for, when
        :class:`Spectrum` refuses it.
    """

    def __init__(self, path: Path, medium: str | None = None) -> None:
        self.path = path
        self._read: Any = _Parquet(path) if is_parquet(path) else _Fits(path)
        columns = [Column(n, None) for n in self._read.names]
        axis = find(columns, WAVELENGTH) or find(columns, LOG_WAVELENGTH)
        named, said = axis.words[2] if axis else "", self._read.said.get("medium")
        if named and medium not in (None, named):
            raise ValueError(f"'{path}': the wavelengths are in {named} by the name of their "
                             f"column, but medium={medium!r} was given; leave it out")
        known = named or medium or said
        if known is None:
            raise ValueError(f"'{path}' does not say whether its wavelengths are in air or "
                             "vacuum; give medium='air' or medium='vacuum' (--medium)")
        self.medium: str = known
        said_by = "header" if named else self._read.said.get("medium_from", "header")
        source = "argument" if medium else said_by
        self._meta = {"file": path.name, "medium_from": source}
        if self._read.frame:
            self._meta["frame"] = self._read.frame
        if medium and said not in (None, medium):
            self._meta["medium_overruled"] = said
        self._columns = [c.name for c in columns if c.words[0] in PIXELS]
        self._name = find(columns, NAME)
        if find(columns, FLUX) is None:
            raise ValueError(f"'{path}' has no column of fluxes; its columns are "
                             f"{', '.join(self._read.names)}")

    def __len__(self) -> int:
        return int(self._read.count)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        if not -len(self) <= row < len(self):
            raise IndexError(f"'{self.path}' has {len(self)} rows")
        row = int(row) % len(self)
        name = None if self._name is None else self._read.cell(self._name.name, row)
        cells = [Column(n, self._read.cell(n, row), self._read.units.get(n, ""))
                 for n in self._columns]
        # one number about flags is the star's, not its pixels'
        cells = [c for c in cells if np.ndim(c.values)
                 or not (c.values is None or c.words[0] in MASK)]
        if self._read.shared is not None and find(cells, (*WAVELENGTH, *LOG_WAVELENGTH)) is None:
            cells.append(Column("wavelength", self._read.shared))
        try:
            if (content := from_columns(cells)) is None:
                raise ValueError("neither a column nor an image of wavelengths")
            return Spectrum(
                content.wavelength, content.flux, ivar=content.ivar,
                uncertainty=content.uncertainty, mask=content.mask, resolution=content.resolution,
                medium=self.medium, meta={**self._meta, **content.meta},
                name=str(row if name is None else name).strip())
        except ValueError as error:
            raise ValueError(f"'{self.path}', row {row}: {error}") from error

    def __iter__(self) -> Iterator[Spectrum]:
        return (self[i] for i in range(len(self)))


class _Fits:
    """Rows of a FITS table, from disk as they are asked for."""

    def __init__(self, path: Path) -> None:
        from astropy.io import fits

        with fits.open(path, memmap=True) as hdus:
            table = next(h for h in hdus if _holds_spectra(h))
            self.data, self.names = table.data, list(table.columns.names)
            self.units = {c.name: c.unit or "" for c in table.columns}
            headers = (table.header, hdus[0].header)
            self.said, self.frame = header_medium(headers, None), frame_of(headers)
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

    shared = frame = None

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
        found = {k.decode().lower(): v.decode(errors="replace") for k, v in said.items()
                 if k.lower() == b"medium"}
        self.units: dict[str, str] = {}
        if (own := said.get(b"table_meta_yaml")) is not None:  # of a table that astropy wrote
            from astropy.table.meta import get_header_from_yaml

            header = get_header_from_yaml(own.decode().split("\n"))
            found |= {k.lower(): v for k, v in header.get("meta", {}).items()}
            self.units = {c["name"]: str(c.get("unit", "")) for c in header["datatype"]}
        self.said = {"medium": stated_medium(found.get("medium", ""))}
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
