"""Files per second, ours against the libraries beneath: ``python -m benchmarks.reading``.

Ten thousand small spectra, a FITS table of wavelength, flux and ivar each, by ``stellarfit.read``,
by astropy's ``Table.read`` and by ``astropy.io.fits`` with the three columns copied; and a grid of
10^5 synthetic spectra in random batches by ``emulators.Grid``, from memory and from the file,
against plain h5py, which sorts the rows as HDF5 wants them and scales them.  All is written to a
temporary folder first, and read from the system's cache.  Files are read in turn, some at a time,
batches in turn.  Writes ``benchmarks/results/reading.json``; ``--quick`` writes nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table

import emulators
import stellarfit
from benchmarks.forward_speed import quartiles

RESULT = Path(__file__).parent / "results" / "reading.json"
PIXELS, GRID_PIXELS, BATCH = 1500, 400, 64
COLUMNS = ("wavelength", "flux", "ivar")
OURS, TABLE, FITS, H5PY = "stellarfit.read", "Table.read", "astropy.io.fits", "h5py"
FROM_FILE, IN_MEMORY = "emulators.Grid", "emulators.Grid, kept"


def write_spectra(folder: Path, count: int) -> list[Path]:
    """Write spectra, each with its own flux."""
    rng = np.random.default_rng(0)
    wavelength = np.linspace(5152.0, 5298.0, PIXELS)
    paths = [folder / f"{i:05d}.fits" for i in range(count)]
    for path in paths:
        values = (wavelength, 1.0 + 0.01 * rng.standard_normal(PIXELS), np.full(PIXELS, 1e4))
        table = fits.BinTableHDU.from_columns(
            [fits.Column(n, "D", array=v) for n, v in zip(COLUMNS, values, strict=True)])
        table.header["MEDIUM"] = "air"
        table.writeto(path)
    return paths


def write_grid(path: Path, count: int) -> None:
    """Write a grid of flat spectra with noise, a thousand at a time."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["wavelength"] = 5150.0 * np.exp(1e-5 * np.arange(GRID_PIXELS))
        file["wavelength"].attrs["medium"] = "air"
        file["labels"] = rng.random((count, 3), dtype=np.float32)
        file["labels"].attrs["names"] = ["teff", "logg", "fe_h"]
        flux = file.create_dataset("flux", (count, GRID_PIXELS), dtype=np.uint16)
        flux.attrs.update({"scale": 2e-5, "offset": 0.0})
        for first in range(0, count, 1000):
            rows = min(1000, count - first)
            flux[first:first + rows] = rng.integers(4e4, 5e4, (rows, GRID_PIXELS), dtype=np.uint16)


def plain_fits(path: Path) -> Any:
    """Return the three columns by astropy.io.fits alone."""
    with fits.open(path) as hdus:
        return [np.array(hdus[1].data[n], dtype=float) for n in COLUMNS]


def plain_h5py(flux: h5py.Dataset, rows: np.ndarray) -> Any:
    """Return some rows of a grid as the manual of h5py would have it."""
    order = np.argsort(rows)
    found = np.empty((len(rows), flux.shape[1]), dtype=np.float32)
    found[order] = flux[rows[order]] * np.float32(flux.attrs["scale"])
    return found


def race(readers: dict[str, Callable[[Any], Any]], work: list[list[Any]]) -> dict[str, Any]:
    """Let all read every part of the work in turn; return things per second and ratios."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for part in work:
        for name, reader in readers.items():
            clock = time.perf_counter()
            for thing in part:
                reader(thing)
            rates[name].append(len(part) / (time.perf_counter() - clock))
    first = next(iter(readers))
    return {name: {"per_second": quartiles(found[1:]), f"as_fast_as_{first}": quartiles(
        (np.array(found[1:]) / rates[first][1:]).tolist())} for name, found in rates.items()}


def table(case: str, rows: dict[str, Any]) -> str:
    """Return a race as text."""
    lines = [f"{case:24s} per second (quartiles)      of the first"]
    for name, row in rows.items():
        rate, ratio = row.values()
        lines.append(f"{name:24s} {rate['median']:8.0f} ({rate['low']:.0f}-{rate['high']:.0f})  "
                     f"{ratio['median']:12.2f}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--files", default=10_000, show_default=True)
@click.option("--spectra", default=100_000, show_default=True, help="Of the grid.")
@click.option("--quick", is_flag=True, help="Few and small, to try it.")
def main(files: int, spectra: int, quick: bool) -> None:
    """Write, read, compare."""
    files, spectra, together = (200, 2_000, 20) if quick else (files, spectra, 250)
    report: dict[str, Any] = {"files": files, "pixels": PIXELS, "grid_spectra": spectra,
                              "grid_pixels": GRID_PIXELS, "batch": BATCH}
    with tempfile.TemporaryDirectory() as temporary:
        paths = write_spectra(Path(temporary), files)
        parts = [paths[i:i + together] for i in range(0, files, together)]
        report["reading"] = race(
            {FITS: plain_fits, TABLE: lambda p: Table.read(p, 1), OURS: stellarfit.read}, parts)
        print(table("files", report["reading"]))
        path = Path(temporary) / "grid.h5"
        write_grid(path, spectra)
        rng = np.random.default_rng(1)
        batches = [[rng.choice(spectra, BATCH, replace=False) for _ in range(10)]
                   for _ in range(len(parts))]
        with (emulators.Grid(path) as grid, emulators.Grid(path) as kept,
              h5py.File(path) as file):
            kept.keep(np.arange(spectra))
            flux = file["flux"]
            report["batches"] = race({
                H5PY: lambda rows: plain_h5py(flux, rows), FROM_FILE: grid.flux,
                IN_MEMORY: kept.flux}, batches)
        print(table("batches of 64 spectra", report["batches"]))
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
