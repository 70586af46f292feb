"""Columns of numbers in text, CSV or ECSV: wavelength, flux, perhaps more.

A line of names may stand above them, commented out or not; without one the first column is
the wavelength and the second the normalised flux.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content, from_columns

#: lines that a header may have
HEADER = 200


@dataclass(frozen=True)
class Head:
    """The lines above the numbers, how the numbers are separated, and how many there are."""

    lines: tuple[str, ...]
    delimiter: str | None
    width: int

    @property
    def names(self) -> list[str]:
        """The names of the columns, where the last line above them has as many words."""
        if not self.lines:
            return []
        words = _split(self.lines[-1].strip().lstrip("#"), self.delimiter)
        return words if len(words) == self.width else []


def read_text(path: Path) -> Content:
    """Read a spectrum from named columns, or from the first two."""
    head = read_head(path)
    if head.lines and head.lines[0].startswith("# %ECSV"):
        return _read_ecsv(path)
    numbers = read_numbers(path, head)
    if not head.names:
        return Content(numbers[0], numbers[1])
    return from_columns(dict(zip(head.names, numbers, strict=True)))


def read_head(path: Path) -> Head:
    """Return what stands above the first line of numbers."""
    lines: list[str] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
        try:
            for line in islice(stream, HEADER):
                delimiter = "," if "," in line else None
                if _are_numbers(words := _split(line, delimiter)):
                    return Head(tuple(lines), delimiter, len(words))
                lines.append(line.rstrip())
        except UnicodeDecodeError as error:
            raise ValueError("this is not text") from error
    raise ValueError(f"no two columns of numbers within the first {HEADER} lines")


def read_numbers(path: Path, head: Head) -> NDArray[np.float64]:
    """Return the columns below the head, shape (n_column, n_pix)."""
    try:
        return np.loadtxt(path, skiprows=len(head.lines), delimiter=head.delimiter, unpack=True,
                          ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"not all below the header are numbers: {error}") from error


def _split(line: str, delimiter: str | None) -> list[str]:
    return [word.strip() for word in line.split(delimiter)]


def _are_numbers(words: list[str]) -> bool:
    number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)\w*", re.IGNORECASE)
    return len(words) > 1 and all(number.fullmatch(w) for w in words)


def _read_ecsv(path: Path) -> Content:
    from astropy.table import Table

    return from_table(Table.read(path, format="ascii.ecsv"))


def from_table(table: Any) -> Content:
    """Return the spectrum in a table of astropy."""
    return from_columns({c: table[c] for c in table.colnames},
                        {c: str(table[c].unit or "") for c in table.colnames})
