"""Labels under our names, from the columns of a table, an array or the names of files.

Every code and every survey spells them in its own way: ``Teff``, ``log g``, ``[Fe/H]``,
``xi``.  Where the meaning is beyond doubt, they are renamed; a ratio to iron, ``[Mg/Fe]``,
becomes ``mg_h = fe_h + mg_fe``, since labels are relative to hydrogen.  Any other column is
a label only when it is asked for by name, so that a running number is not taken for one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.labels import unknown_names
from emulators.synthesis.elements import ELEMENTS

logger = logging.getLogger(__name__)

#: what is left of a name without case, blanks and signs -> label
KNOWN = {
    **dict.fromkeys(("teff", "temperature", "effectivetemperature"), "teff"),
    **dict.fromkeys(("logg", "surfacegravity"), "logg"),
    **dict.fromkeys(("vmic", "vmicro", "vturb", "xi", "microturbulence"), "vmic"),
    **dict.fromkeys(("vmac", "vmacro", "macroturbulence"), "vmac"),
    "vsini": "vsini", "hefrac": "he_frac",
    **dict.fromkeys(("alphafe", "afe"), "alpha_fe"),
    **{f"{e.lower()}h": f"{e.lower()}_h" for e in ELEMENTS if e != "H"},
    **{f"{e.lower()}fe": f"{e.lower()}_fe" for e in ELEMENTS if e not in ("H", "Fe")},
}
UNITS = {"teff": "K", "logg": "dex", "vmic": "km/s", "vmac": "km/s", "vsini": "km/s"}
FILE_COLUMNS = ("file", "filename", "spectrum", "path")
TABLES = (".csv", ".ecsv", ".fits", ".fit", ".txt", ".dat", ".tsv")


@dataclass(frozen=True)
class LabelTable:
    """Labels of all spectra, and where each spectrum is.

    Parameters
    ----------
    names, units : tuple of str
    values : (n_spec, n_label) float64
    renamed : dict of str to str
        Label by the column that it came from.
    files : tuple of str
        File of each spectrum; empty where all are in one.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: NDArray[np.float64]
    renamed: dict[str, str]
    files: tuple[str, ...] = ()


def known_label(column: str) -> str | None:
    """Return the label (or ratio to iron) that a column obviously holds, or None.

    Examples
    --------
    >>> known_label("[Fe/H]"), known_label("log g (cgs)"), known_label("number")
    ('fe_h', 'logg', None)
    """
    bare = re.sub(r"[\[(]\s*(k|km\s*/?\s*s(-1|\^-1)?|dex|cgs)\s*[\])]\s*$", "", column.lower())
    return KNOWN.get(re.sub(r"[\W_]", "", bare))


def from_columns(
    columns: Mapping[str, NDArray[np.float64]], names: Sequence[str] | None = None,
    files: Sequence[str] = (),
) -> LabelTable:
    """Return the labels in some columns.

    Parameters
    ----------
    columns : mapping of str to (n_spec,) array
    names : sequence of str, optional
        Which columns are labels, by their own name or by ours, or as ``ours=column``.  By
        default all, and each must then be known.
    files : sequence of str
        As in :class:`LabelTable`.

    Raises
    ------
    ValueError
        When a column is unknown, two are the same label, a ratio to iron has no ``fe_h``
        beside it, or a value is not a finite number.
    """
    chosen = _chosen(list(columns), names)
    values = {label: np.asarray(columns[c], dtype=np.float64) for label, c in chosen.items()}
    for label, column in chosen.items():
        if not np.isfinite(values[label]).all():
            row = int(np.flatnonzero(~np.isfinite(values[label]))[0])
            where = f"'{files[row]}'" if len(files) else f"spectrum {row}"
            raise ValueError(f"column {column!r} has no number for {where}: a label must be known "
                             "for every spectrum; give it or leave the spectrum out")
    values, renamed = _relative_to_hydrogen(values, chosen)
    changed = [f"{c} -> {n}" for c, n in renamed.items() if c != n]
    if changed:
        logger.info("labels renamed: %s", ", ".join(changed))
    return LabelTable(
        tuple(values), tuple(unit_of(n) for n in values),
        np.stack(list(values.values()), axis=1), renamed, tuple(files),
    )


def _chosen(columns: list[str], names: Sequence[str] | None) -> dict[str, str]:
    """Return column by label, in the order asked for."""
    if names is None:
        if unknown := [c for c in columns if known_label(c) is None]:
            raise ValueError(
                f"cannot tell what {', '.join(map(repr, unknown))} of the columns "
                f"{', '.join(columns)} are: say which columns are labels with names=, such as "
                "names=['teff', 'logg', 'fe_h=[M/H]'] (--names teff,logg,fe_h=[M/H])"
            )
        pairs = [(str(known_label(c)), c) for c in columns]
    else:
        pairs = [_find(name, columns) for name in names]
    if not pairs:
        raise ValueError("no labels: a grid needs at least one column of them")
    labels = [label for label, _ in pairs]
    if twice := sorted({n for n in labels if labels.count(n) > 1}):
        raise ValueError(f"several columns hold the label {twice[0]!r}: "
                         f"{', '.join(c for n, c in pairs if n == twice[0])}; choose with names=")
    return dict(pairs)


def _find(name: str, columns: list[str]) -> tuple[str, str]:
    """Return label and column of a name that may be either, or ``label=column``."""
    ours, equals, theirs = (part.strip() for part in name.partition("="))
    bare = name.strip()
    for label, column in ((ours, theirs), (name, name), (bare, bare)):
        if column and column in columns:
            # A name that we do not know becomes one that a command line can carry.
            return known_label(label) or re.sub(r"\W+", "_", label.lower()).strip("_"), column
    same = [c for c in columns if known_label(c) == (known_label(name) or name)]
    if len(same) != 1:
        raise unknown_names([theirs if equals else name], columns, "column")
    return str(known_label(same[0])), same[0]


def _relative_to_hydrogen(
    values: dict[str, NDArray[np.float64]], chosen: Mapping[str, str]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Replace each ratio to iron by the sum with ``fe_h``; return also label by column."""
    found: dict[str, NDArray[np.float64]] = {}
    renamed = {}
    for label, value in values.items():
        name = label
        if label.endswith("_fe"):
            name = label.removesuffix("fe") + "h"
            if "fe_h" not in values:
                raise ValueError(f"{chosen[label]!r} is relative to iron, but a label is relative "
                                 f"to hydrogen: {name} needs fe_h beside it, so give both")
            if name in values:
                raise ValueError(f"{chosen[label]!r} and {chosen[name]!r} are the same label "
                                 f"{name!r}; choose with names=")
            value = values["fe_h"] + value
        found[name], renamed[chosen[label]] = value, name
    return found, renamed


def unit_of(name: str) -> str:
    """Return the unit of a label of ours; empty for one that we do not know."""
    return UNITS.get(name, "dex" if name.endswith("_h") else "")


def from_array(
    values: NDArray[Any], n_spec: int, names: Sequence[str] | None
) -> NDArray[np.float64]:
    """Return an array of labels as (n_spec, n_label), whichever way round it is.

    The Payne's own training set has its labels transposed.
    """
    if names is None:
        raise ValueError(
            f"the file does not name its labels, an array of {values.shape}: say names=, such "
            "as names=['teff', 'logg', 'fe_h'] (--names teff,logg,fe_h)"
        )
    shape = (n_spec, len(names))
    if shape[0] == shape[1] and values.shape == shape:
        raise ValueError(f"as many spectra as labels, {n_spec}: the array of labels could be "
                         "either way round; leave a spectrum out")
    if values.shape not in (shape, shape[::-1]):
        raise ValueError(f"labels have shape {values.shape}, but {n_spec} spectra with "
                         f"{len(names)} names ({', '.join(names)}) need {shape}")
    return np.asarray(values if values.shape == shape else values.T, dtype=np.float64)


def read_table(path: Path, names: Sequence[str] | None = None) -> LabelTable:
    """Read a table of labels, one row per spectrum, a column naming its file.

    Parameters
    ----------
    path : Path
        CSV, ECSV, FITS or columns of text with a line of names, as astropy reads them.
    names : sequence of str, optional
        As in :func:`from_columns`.
    """
    from astropy.table import Table

    if not path.is_file():
        raise FileNotFoundError(f"no table of labels at '{path}'")
    guessed = {"format": "ascii"} if path.suffix.lower() in (".txt", ".dat", ".tsv") else {}
    try:
        table = Table.read(path, **guessed)
    except Exception as error:  # astropy's readers raise what they like
        raise ValueError(f"'{path}' is not a table that astropy reads: "
                         f"{str(error).splitlines()[0] if str(error) else error!r}") from error
    files = [c for c in table.colnames if c.lower() in FILE_COLUMNS]
    if len(files) != 1:
        raise ValueError(f"'{path}' has the columns {', '.join(table.colnames)}: it needs one "
                         f"that names the file of each spectrum ({', '.join(FILE_COLUMNS)})")
    columns = {c: _numbers(table[c], path) for c in table.colnames if c != files[0]
               and (names is not None or table[c].dtype.kind in "biuf")}
    return from_columns(
        {c: v for c, v in columns.items() if v is not None}, names,
        [str(f).strip() for f in table[files[0]]],
    )


def _numbers(column: Any, path: Path) -> NDArray[np.float64] | None:
    """Return a column as numbers in our unit, NaN where it has none; None if it is text."""
    if column.dtype.kind not in "biuf" or column.ndim != 1:
        return None
    values = np.ma.filled(np.ma.asarray(column.data, dtype=np.float64), np.nan)
    wanted = UNITS.get(known_label(column.name) or "", "dex")
    if column.unit is None or wanted == "dex":
        return np.asarray(values)
    from astropy import units

    try:
        return np.asarray((values * column.unit).to_value(wanted))
    except units.UnitConversionError as error:
        raise ValueError(f"'{path}': {column.name!r} is in {column.unit}, expected {wanted}"
                         ) from error


def from_file_names(
    files: Sequence[str], pattern: str, names: Sequence[str] | None = None
) -> LabelTable:
    """Read labels out of the names of files; those that do not match are left out.

    Parameters
    ----------
    files : sequence of str
    pattern : str
        A regular expression whose named groups are labels, searched for in each name:
        ``p(?P<teff>\\d+)_g(?P<logg>[+-][\\d.]+)_.*_z(?P<fe_h>[+-][\\d.]+)``.
    names : sequence of str, optional
        As in :func:`from_columns`.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern={pattern!r} is not a regular expression: {error}") from error
    if not compiled.groupindex:
        raise ValueError(f"pattern={pattern!r} names no label: write (?P<teff>...)")
    matches = {f: m for f in files if (m := compiled.search(f))}
    if not matches:
        raise ValueError(f"no file name matches pattern={pattern!r}; the first of {len(files)} is "
                         f"'{files[0] if files else ''}'")
    if others := [f for f in files if f not in matches]:
        logger.info("%d files that the pattern does not match are left out, the first: '%s'",
                    len(others), others[0])
    columns = {g: np.array([_number(m, g, f) for f, m in matches.items()])
               for g in compiled.groupindex}
    return from_columns(columns, names, tuple(matches))


def _number(match: re.Match[str], group: str, file: str) -> float:
    try:
        return float(match.group(group))
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{file}': {group} is {match.group(group)!r} by the pattern, "
                         "expected a number") from error
