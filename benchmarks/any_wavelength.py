"""Wavelengths a transformer never saw: ``python -m benchmarks.any_wavelength GRIDS``.

It is trained on every other pixel of 1000 spectra of ``mgb-target.h5`` (the others have no
weight in the loss) and judged, on the validation spectra, at the pixels it saw and at those
it did not.  Twice: on the spectra as they are, sampled at R = 100,000, where a line is as
narrow as a pixel; and on the same spectra at R = 20,000, where every other pixel still
resolves them.  Beside it, what band-limited interpolation of the *true* fluxes at the seen
pixels gets wrong at the unseen ones: what is in no seen pixel, no emulator can know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

import emulators
from benchmarks.paper import TEST, TRANSFORMER, chosen
from emulators.metrics import emulate

RESULT = Path(__file__).parent / "results" / "any-wavelength.json"
STEPS = 4_000


def smoothed(path: Path, resolution: float, out: Path) -> Path:
    """Write a grid at a lower resolution; its pixels stay."""
    if out.exists():
        return out
    with h5py.File(path) as source, h5py.File(out, "w") as file:
        for name in ("wavelength", "labels", "domain", "split"):
            source.copy(name, file)
        stored = source["flux"]
        flux = stored.attrs["offset"] + stored.attrs["scale"] * stored[:].astype(np.float32)
        step = np.median(np.diff(np.log(source["wavelength"][:])))
        sigma = 1.0 / (resolution * np.sqrt(8.0 * np.log(2.0)) * step)
        file["flux"] = gaussian_filter1d(flux, sigma, axis=1, mode="nearest").astype(np.float32)
    return out


def interpolated(flux: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Fourier series through the even pixels, at the odd ones."""
    even = flux[:, ::2]
    series = np.fft.rfft(np.concatenate([even, even[:, ::-1]], axis=1))
    fine = np.fft.irfft(2.0 * series, n=4 * even.shape[1])
    return np.asarray(fine[:, 1:flux.shape[1]:2])


def judge(path: Path, runs: Path, name: str) -> dict[str, Any]:
    """Train on the even pixels and compare the errors at even and odd ones."""
    grid = chosen(emulators.Grid(path), 1000, 0)
    grid.weight = (np.arange(grid.n_pix) % 2 == 0).astype(float)
    step = float(np.median(np.diff(np.log(grid.wavelength))))
    emulator = emulators.train(
        grid, out=runs / name, resume=True, name=name, steps=STEPS, **TRANSFORMER,
        options={"periods": [6.0 * step, 2.0 * step * grid.n_pix]},  # three *seen* pixels
    )
    rows = np.flatnonzero(grid.split == TEST)
    true = grid.flux(rows)
    error = np.abs(emulate(emulator, grid, rows) - true)
    seen, unseen = error[:, ::2], error[:, 1::2]
    floor = np.abs(interpolated(true) - true[:, 1::2])[:, 8:-8]
    return {
        "mae_seen": float(seen.mean()), "mae_unseen": float(unseen.mean()),
        "ratio": float(unseen.mean() / seen.mean()),
        "mae_of_interpolated_truth": float(floor.mean()),
    }


@click.command(help=__doc__)
@click.argument("grids", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/any-wavelength"))
def main(grids: Path, runs: Path) -> None:
    """Train and judge both."""
    runs.mkdir(parents=True, exist_ok=True)
    native = grids / "mgb-target.h5"
    result = {
        "sampling": {
            "R = 20,000": judge(smoothed(native, 20_000, runs / "target-20k.h5"), runs, "at-20k"),
            "R = 100,000": judge(native, runs, "native"),
        },
        "steps": STEPS, "n": 1000, "threads": torch.get_num_threads(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
