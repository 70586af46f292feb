"""Tables of text: ECSV, and columns of numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellarfit.readers.content import (
    FRAMES,
    Column,
    Content,
    from_columns,
    named_columns,
    read_bytes,
    stated_medium,
)

#: entries of a spectrum's meta that are ours to make
RESERVED = ("noise", "medium_from", "medium_overruled", "counts")


def read_ecsv(path: Path, hdu: int | str | None = None) -> Content:
    """Read an ECSV table; its medium is the entry ``medium`` of its meta."""
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning

    _refuse_hdu(hdu)
    text = read_bytes(path).decode("utf-8", errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            table = Table.read(text.splitlines(), format="ascii.ecsv")
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("the ECSV table is corrupted or cut short; write it again") from error
    columns = [Column(c.name, getattr(c, "value", c), str(c.unit or "")) for c in
               table.itercols()]
    content = named_columns(columns)
    medium = content.medium or stated_medium(table.meta.get("medium"))
    meta = {k: v for k, v in table.meta.items() if k not in RESERVED}
    if meta.get("frame") not in FRAMES.values():
        meta.pop("frame", None)
    return replace(content, medium=medium, name=str(table.meta.get("name", "")),
                   meta={**meta, **content.meta})


def read_text(path: Path, hdu: int | str | None = None) -> Content:
    """Read columns of text, separated by blanks, commas or semicolons.

    Two columns are wavelength and flux, a third is the uncertainty.  A line of names, bare
    or as a comment, may say otherwise; a comment ``medium: air`` gives the medium.
    """
    _refuse_hdu(hdu)
    text = read_bytes(path).decode("utf-8-sig", errors="replace")
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    comments = [line.lstrip("#!% ") for line in lines if line[0] in "#!%"]
    rows = [line for line in lines if line[0] not in "#!%"]
    if not rows:
        raise ValueError("the file has no data, only comments" if lines else "the file is empty")
    names = [] if _is_number(_split(rows[0])[0]) else _split(rows.pop(0))
    columns = _label(_numbers(rows), names, comments)
    content = named_columns(columns)
    stated = re.search(r"\bmedium\s*[:=]\s*(air|vac)", "\n".join(comments), re.IGNORECASE)
    medium = content.medium or stated_medium(stated.group(1) if stated else None)
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
