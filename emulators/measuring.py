"""What an emulator gets wrong, measured on spectra it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from emulators.emulator import Emulator
from emulators.error_model import ErrorModel
from emulators.grid import Grid
from emulators.metrics import comparable, emulate


def measure_errors(
    emulator: Emulator, grid: Grid | str | Path, *, split: str = "validation"
) -> ErrorModel:
    """Return the errors of an emulator on a split of a grid, as a model of them.

    Set it as ``emulator.errors`` and save: the fitter then adds it to the noise.

    Parameters
    ----------
    emulator : Emulator
    grid : Grid or path
        At the training pixels of the emulator, in its medium.
    split : {"train", "validation", "test"}
        Spectra of the grid that the emulator was not trained on.

    Returns
    -------
    ErrorModel

    Raises
    ------
    ValueError
        When the grid is in the other medium, has other pixels than the emulator or lacks one of
        its labels; when the split has no spectra, or a flux of it is not finite.
    """
    grid, rows = comparable(emulator, grid, split)
    # To a thousandth of a pixel: a fit takes the errors to be at the training pixels.
    if len(emulator.pixels) != grid.n_pix or not np.allclose(
            grid.wavelength, emulator.pixels, rtol=1e-3 * emulator.log_step, atol=0.0):
        raise ValueError(f"{grid!r} is not on the {len(emulator.pixels)} pixels of "
                         f"'{emulator.name}': measure on a grid that is")
    error = emulate(emulator, grid, rows) - grid.flux(rows)
    if not np.isfinite(error).all():
        raise ValueError(f"an error model needs spectra without gaps; some of {grid!r} are not")
    order = np.array([grid.label_set.index(n) for n in emulator.labels.names])
    return ErrorModel(torch.as_tensor(error), torch.as_tensor(grid.labels[np.ix_(rows, order)]))
