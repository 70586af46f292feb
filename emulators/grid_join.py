"""More spectra for a grid: those of others, added to its training spectra.

The validation and test spectra of the first grid stay what emulators are measured on, so that
one trained before and one trained after are measured on the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.files import atomic_write
from emulators.grid import SPLITS, Grid
from emulators.grid_check import refuse_errors

ROWS = 256
#: Relative to the wavelength: 0.3 m/s, far below what a pixel can tell.
SAME_WAVELENGTH = 1e-9


def join(paths: Sequence[str | Path], out: str | Path) -> Grid:
    """Write a grid of the spectra of several, the first of which says what is measured on.

    Parameters
    ----------
    paths : sequence of str or Path
        Grids of the same wavelengths and labels, the labels in any order.  The first gives the
        domain, in which all spectra must lie, and the spectra for validation and tests; all
        spectra of the others are for training.
    out : str or Path
        The HDF5 file to write, whole or not at all: wavelength, flux, labels, domain, split, and
        the weights of the first grid's pixels.  What else the grids hold (continuum, structure
        of the atmospheres) stays with them.

    Returns
    -------
    Grid
        The new file, flux in float32.

    Raises
    ------
    ValueError
        When the wavelengths, the medium or the labels are others, when a spectrum lies outside
        the domain or has the labels of one held out, and when
        :func:`emulators.grid_check.check` finds an error.
    FileNotFoundError
        When a grid is not there.
    FileExistsError
        When `out` is there already, be it one of the grids.

    Examples
    --------
    >>> join(["mgb-fgk.h5", "more.h5"], "both.h5")                       # doctest: +SKIP
    """
    out = Path(out)
    if len(paths) < 2:
        raise ValueError("one grid alone cannot be joined: give two or more")
    grids = [Grid(path) for path in paths]
    if out.exists():
        raise FileExistsError(f"'{out}' exists: remove it, or give another name")
    for grid in grids[1:]:
        _refuse_strangers(grids[0], grid)
    with atomic_write(out) as temporary:
        _write(temporary, grids)
        refuse_errors(temporary, out)
    return Grid(out)


def _refuse_strangers(first: Grid, other: Grid) -> None:
    """Refuse a grid of other wavelengths or labels, or outside the domain of the first."""
    names = f"'{first.path}' and '{other.path}'"
    if first.medium != other.medium:
        raise ValueError(f"{names}: one is in {first.medium}, the other in {other.medium}")
    if first.resolution != other.resolution:
        raise ValueError(f"{names} have other resolutions: {first.resolution} and "
                         f"{other.resolution}")
    if (first.n_pix != other.n_pix
            or not np.allclose(first.wavelength, other.wavelength, rtol=SAME_WAVELENGTH, atol=0)):
        raise ValueError(
            f"{names} are not on the same wavelengths: {_pixels(first)} and {_pixels(other)}")
    if odd := set(first.label_set.names) ^ set(other.label_set.names):
        raise ValueError(f"{names} do not have the same labels: {', '.join(sorted(odd))} in one "
                         "alone")
    units = dict(zip(other.label_set.names, other.label_set.units, strict=True))
    for name, unit in zip(first.label_set.names, first.label_set.units, strict=True):
        if unit != units[name]:
            raise ValueError(f"{names}: {name} is in {unit!r} and in {units[name]!r}")
    labels = _labels(first, other)
    beyond = np.flatnonzero(~first.domain.contains(labels))
    if beyond.size:
        how = first.domain.describe_excess(labels[beyond[:1]], first.label_set.names)
        raise ValueError(f"{beyond.size} spectra of '{other.path}' lie outside the domain of "
                         f"'{first.path}', the first in row {beyond[0]} ({how}); put the wider "
                         "grid first")
    # Adding 0 turns -0, another row of bytes, into 0.
    held_out = {row.tobytes() for row in first.labels[first.split != SPLITS["train"]] + 0.0}
    again = np.array([row.tobytes() in held_out for row in labels + 0.0])
    if again.any():
        raise ValueError(f"{again.sum()} spectra of '{other.path}' have the labels of one that "
                         f"'{first.path}' holds out, the first in row {np.argmax(again)}: an "
                         "emulator would be measured on what it has learnt")


def _pixels(grid: Grid) -> str:
    low, high = grid.wavelength[[0, -1]]
    return f"{grid.n_pix} pixels, {low:.3f}-{high:.3f} Å"


def _labels(first: Grid, other: Grid) -> NDArray[np.float64]:
    """Return the labels of `other` in the order of `first`."""
    return other.labels[:, [other.label_set.index(n) for n in first.label_set.names]]


def _write(path: Path, grids: list[Grid]) -> None:
    first = grids[0]
    n_spec = sum(grid.n_spec for grid in grids)
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "joined"
        file.attrs["provenance"] = json.dumps(
            {"joined": [grid.provenance for grid in grids]}, sort_keys=True)
        file["wavelength"] = first.wavelength
        file["wavelength"].attrs.update(unit="Angstrom", medium=first.medium)
        if first.resolution is not None:
            file["wavelength"].attrs["resolution"] = first.resolution
        file["labels"] = np.concatenate([_labels(first, g) for g in grids]).astype(np.float32)
        file["labels"].attrs.update(
            names=list(first.label_set.names), units=list(first.label_set.units))
        file["domain/A"], file["domain/b"] = first.domain.A, first.domain.b
        split = np.full(n_spec, SPLITS["train"], dtype=np.uint8)
        split[:first.n_spec] = first.split
        file["split"] = split
        file["weight"] = first.weight
        flux = file.create_dataset("flux", (n_spec, first.n_pix), "f4", compression="gzip",
                                   chunks=(min(4, n_spec), first.n_pix), shuffle=True)
        start = 0
        for grid in grids:
            for at in range(0, grid.n_spec, ROWS):
                rows = np.arange(at, min(at + ROWS, grid.n_spec))
                flux[start + at:start + at + len(rows)] = grid.flux(rows)
            start += grid.n_spec
