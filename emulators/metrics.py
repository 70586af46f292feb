"""How well an emulator reproduces spectra it has not seen.

The six measures of Różański et al. 2023 (arXiv:2306.15703, section 3), of the error
e = emulated - true flux over all spectra and pixels:

==========  ======================================================================
``mse``     mean of e^2
``mae``     mean of |e|
``maxae``   largest |e| of each spectrum, averaged over the spectra
``mare``    mean of |e| / flux, the flux no less than 0.01 (saturated line cores)
``qae95``   95th percentile of |e|
``qmae95``  mean of the largest 5 % of |e|
==========  ======================================================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emulators.emulator import Emulator
from emulators.grid import Grid

DESCRIPTIONS = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "maxae": "largest absolute error of a spectrum, mean over spectra",
    "mare": "mean absolute relative error",
    "qae95": "95th percentile of the absolute error",
    "qmae95": "mean of the largest 5 % of absolute errors",
}


def flux_metrics(emulated: NDArray[np.floating], true: NDArray[np.floating]) -> dict[str, float]:
    """Return the six measures of fluxes, each (n_spec, n_pix).

    Examples
    --------
    >>> m = flux_metrics(np.array([[1.0, 0.5]]), np.array([[1.0, 0.6]]))
    >>> round(m["mae"], 3), round(m["maxae"], 3)
    (0.05, 0.1)
    """
    if emulated.shape != true.shape or true.ndim != 2:
        raise ValueError(
            f"fluxes must both have shape (n_spec, n_pix), got {emulated.shape} and {true.shape}"
        )
    if (size := int(np.isfinite(true).sum())) == 0:
        raise ValueError("there is no finite flux to compare with: give some")
    tally = _Tally(size)
    tally.add(emulated, true)
    return tally.metrics()


class _Tally:
    """The six measures of a stream of spectra, exact and without keeping the spectra.

    Sums make four of them; the other two need only the largest 5 % of the errors.

    Parameters
    ----------
    size : int
        Number of finite fluxes that will come.
    """

    def __init__(self, size: int) -> None:
        # np.quantile interpolates between the order statistics on both sides of this place
        place = 0.95 * (size - 1)
        self.fraction = place % 1.0
        self.count = size - int(place)
        self.size, self.spectra = size, 0
        self.sums = dict.fromkeys(("mse", "mae", "maxae", "mare"), 0.0)
        self.largest: NDArray[np.float64] = np.empty(0)
        self.parts: list[NDArray[np.float64]] = []

    def add(self, emulated: NDArray[np.floating], true: NDArray[np.floating]) -> None:
        """Count some spectra, each (n, n_pix), where the true flux is finite."""
        error = np.abs(np.asarray(emulated, dtype=np.float64) - true)
        known = np.isfinite(true)
        error, true = np.where(known, error, 0.0), np.where(known, true, 1.0)
        self.spectra += int(known.any(axis=1).sum())
        self.sums["mse"] += float(np.sum(error**2))
        self.sums["mae"] += float(np.sum(error))
        self.sums["maxae"] += float(np.sum(error.max(axis=1)))
        self.sums["mare"] += float(np.sum(error / np.maximum(true, 0.01)))
        full = len(self.largest) == self.count
        self.parts.append(error[known & (error > self.largest[0])] if full else error[known])
        if sum(map(len, self.parts)) > self.count:
            self._prune()

    def _prune(self) -> None:
        """Keep the largest errors, the least of them first."""
        together = np.concatenate([self.largest, *self.parts])
        start = max(len(together) - self.count, 0)
        self.largest, self.parts = np.partition(together, start)[start:].copy(), []

    def metrics(self) -> dict[str, float]:
        """Return the measures of all that was counted."""
        if not np.isfinite(self.sums["mse"]):  # the emulator gave something that is no number
            return dict.fromkeys(DESCRIPTIONS, np.nan)
        self._prune()
        largest = np.sort(self.largest)
        quantile = largest[0] + self.fraction * (largest[min(1, self.count - 1)] - largest[0])
        means = {
            k: v / (self.spectra if k == "maxae" else self.size) for k, v in self.sums.items()
        }
        return {**means, "qae95": float(quantile),
                "qmae95": float(np.mean(largest[largest >= quantile]))}


def emulate(
    emulator: Emulator, grid: Grid, rows: NDArray[np.int64], *, batch: int = 16
) -> NDArray[np.float32]:
    """Return the emulator's fluxes for rows of a grid, (len(rows), n_pix)."""
    wavelength = torch.as_tensor(grid.wavelength, device=emulator.device)
    order = np.array([grid.label_set.index(n) for n in emulator.labels.names])
    parts = []
    with torch.inference_mode():
        for some in np.array_split(rows, max(1, -(-len(rows) // batch))):
            labels = torch.as_tensor(grid.labels[np.ix_(some, order)], device=emulator.device)
            parts.append(emulator.flux(labels, wavelength).float().cpu().numpy())
    return np.concatenate(parts)


def evaluate(
    emulator: Emulator, grid: Grid | str | Path, *, split: str = "validation"
) -> dict[str, float]:
    """Return the six measures of an emulator on a split of a grid.

    Unknown fluxes (NaN) and pixels of weight 0 are left out.

    Parameters
    ----------
    emulator : Emulator
    grid : Grid or path
    split : {"train", "validation", "test"}

    Returns
    -------
    dict
        ``mse``, ``mae``, ``maxae`` (the mean over spectra of each one's largest error),
        ``mare``, ``qae95`` and ``qmae95``.

    Raises
    ------
    ValueError
        When the grid is in the other medium, reaches beyond the emulator's wavelengths,
        lacks one of its labels, or has no spectrum, or no finite flux, in that split.
    """
    grid, rows = comparable(emulator, grid, split)
    low, high = emulator.wavelength_range
    if grid.wavelength[0] < low - 1e-6 or grid.wavelength[-1] > high + 1e-6:
        raise ValueError(f"{grid!r} reaches beyond {low:.2f}-{high:.2f} Å of '{emulator.name}'")
    groups = np.array_split(rows, -(-len(rows) // 16))
    size = sum(int(np.isfinite(judged_flux(grid, some)).sum()) for some in groups)
    if size == 0:
        raise ValueError(f"{grid!r} has no finite flux in its {split} spectra")
    tally = _Tally(size)
    for some in groups:
        tally.add(emulate(emulator, grid, some), judged_flux(grid, some))
    return tally.metrics()


def comparable(
    emulator: Emulator, grid: Grid | str | Path, split: str
) -> tuple[Grid, NDArray[np.int64]]:
    """Return the grid and the rows of a split, if it has some and is in the emulator's medium."""
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    rows = grid.rows(split)
    if len(rows) == 0:
        raise ValueError(f"{grid!r} has no {split} spectra: choose others with split= (--split)")
    if grid.medium != emulator.medium:
        raise ValueError(f"{grid!r} is not in {emulator.medium}, as '{emulator.name}' is")
    return grid, rows


def judged_flux(grid: Grid, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the fluxes that an emulator is judged by, NaN at pixels of weight 0."""
    return np.where(grid.weight > 0.0, grid.flux(rows), np.float32(np.nan))
