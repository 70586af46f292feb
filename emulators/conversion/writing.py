"""The file of a converted grid: written as it is read, checked, and only then named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content
from emulators.conversion.labels import LabelTable
from emulators.files import atomic_write
from emulators.grid_check import refuse_errors
from emulators.labels import Domain

ROWS = 256


class Source(Protocol):
    """Spectra to be converted: iterating yields normalised fluxes, (n_pix,) each."""

    @property
    def format(self) -> str:
        """Its name among the formats."""

    @property
    def labels(self) -> LabelTable:
        """Of all spectra, in the order in which they come."""

    @property
    def first(self) -> Content:
        """The first spectrum, whose wavelengths, unit and medium are those of all."""

    @property
    def split(self) -> NDArray[np.uint8] | None:
        """0 for training and 1 for validation, where the source tells them apart."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


def spread(n_spec: int, fraction: float) -> NDArray[np.uint8]:
    """Return a split, 1 for a fraction of the rows that is spread evenly, 0 for the others.

    One row is drawn from each stretch of equal length, the same at every call.  Every tenth
    row would not do: in a table that runs through ten metallicities all have the same.
    """
    if fraction > 0.5:
        return np.asarray(1 - spread(n_spec, 1.0 - fraction), dtype=np.uint8)
    count = round(fraction * n_spec)
    edges = np.arange(count + 1) * n_spec // max(count, 1)
    split = np.zeros(n_spec, dtype=np.uint8)
    split[np.random.default_rng(0).integers(edges[:-1], edges[1:])] = 1
    return split


def write_grid(
    out: Path, spectra: Source, *, wavelength: NDArray[np.float64], medium: str,
    split: NDArray[np.uint8], domain: Domain | None, source: str,
    resolution: float | None = None,
) -> None:
    """Write spectra to the file `out`, unless the check finds an error.

    Parameters
    ----------
    out : Path
    spectra : Source
    wavelength : (n_pix,) float64
        In Å, increasing.
    medium : {'air', 'vacuum'}
    split : (n_spec,) uint8
    domain : Domain, optional
    source : str
        Name of where they come from.
    resolution : float, optional
        Of the Gaussian that they have been convolved with.
    """
    table = spectra.labels
    if domain is not None and domain.A.shape[1] != len(table.names):
        raise ValueError(f"the domain limits {domain.A.shape[1]} labels, but there are "
                         f"{len(table.names)}: {', '.join(table.names)}")
    with atomic_write(out) as temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs["kind"] = "converted"
            file.attrs["provenance"] = json.dumps({
                "converted_from": source, "format": spectra.format, "labels": table.renamed,
                "code": f"stellarfit {_version()}",
            }, sort_keys=True)
            file["wavelength"] = wavelength
            file["wavelength"].attrs.update(unit="Angstrom", medium=medium)
            if resolution is not None:
                file["wavelength"].attrs["resolution"] = resolution
            file["labels"] = table.values.astype(np.float32)
            file["labels"].attrs.update(names=list(table.names), units=list(table.units))
            file["split"] = split
            if domain is not None:
                file["domain/A"], file["domain/b"] = domain.A, domain.b
            _write_flux(file, spectra, (len(table.values), len(wavelength)))
        refuse_errors(temporary, out)


def _write_flux(file: h5py.File, spectra: Iterable[NDArray[Any]], shape: tuple[int, int]) -> None:
    # float32 keeps the digits of the source and NaN; a few rows a chunk, as training reads them.
    flux = file.create_dataset("flux", shape, "f4", chunks=(min(4, shape[0]), shape[1]),
                               compression="gzip", shuffle=True)
    for first, block in _in_blocks(spectra):
        flux[first:first + len(block)] = block


def _in_blocks(
    spectra: Iterable[NDArray[Any]]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first row and the spectra of one block after the other."""
    rows: list[NDArray[Any]] = []
    first = 0
    for flux in spectra:
        rows.append(flux)
        if len(rows) == ROWS:
            yield first, np.stack(rows)
            first, rows = first + ROWS, []
    if rows:
        yield first, np.stack(rows)


def _version() -> str:
    try:
        return version("stellarfit")
    except PackageNotFoundError:
        return "unknown"
