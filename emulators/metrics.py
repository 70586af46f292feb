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
    error = np.abs(np.asarray(emulated, dtype=np.float64) - true)
    if error.ndim != 2 or error.size == 0:
        raise ValueError(f"fluxes must have shape (n_spec, n_pix), got {error.shape}")
    quantile = np.quantile(error, 0.95)
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(error)),
        "maxae": float(np.mean(error.max(axis=1))),
        "mare": float(np.mean(error / np.maximum(true, 0.01))),
        "qae95": float(quantile),
        "qmae95": float(np.mean(error[error >= quantile])),
    }


def emulate(
    emulator: Emulator, grid: Grid, rows: NDArray[np.int64], *, batch: int = 16
) -> NDArray[np.float32]:
    """Return the emulator's fluxes for rows of a grid, (len(rows), n_pix)."""
    wavelength = torch.as_tensor(grid.wavelength, device=emulator.device)
    order = [grid.label_set.index(n) for n in emulator.labels.names]
    parts = []
    with torch.inference_mode():
        for some in np.array_split(rows, max(1, -(-len(rows) // batch))):
            labels = torch.as_tensor(grid.labels[np.ix_(some, order)], device=emulator.device)
            parts.append(emulator.flux(labels, wavelength).float().cpu().numpy())
    return np.concatenate(parts)


def evaluate(
    emulator: Emulator, grid: Grid, *, split: str = "validation"
) -> dict[str, float]:
    """Return the six measures of an emulator on a split of a grid.

    Raises
    ------
    ValueError
        When the grid is in the other medium, reaches beyond the emulator's wavelengths,
        lacks one of its labels, or has no spectrum in that split.
    """
    rows = grid.rows(split)
    if len(rows) == 0:
        raise ValueError(f"{grid!r} has no {split} spectra")
    if grid.medium != emulator.medium:
        raise ValueError(f"{grid!r} is not in {emulator.medium}, as '{emulator.name}' is")
    low, high = emulator.wavelength_range
    if grid.wavelength[0] < low - 1e-6 or grid.wavelength[-1] > high + 1e-6:
        raise ValueError(f"{grid!r} reaches beyond {low:.2f}-{high:.2f} Å of '{emulator.name}'")
    return flux_metrics(emulate(emulator, grid, rows), grid.flux(rows))
