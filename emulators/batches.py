"""What each training step sees.

A batch has a fixed number of slots, and each slot draws from its own part of the training
rows: epoch after epoch a new permutation of that part.  So a batch is a function of (seed,
step) alone, whatever the number of processes and however often the run was killed, and a
process that serves some of the slots reads only the rows of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emulators.emulator import Emulator
from emulators.grid import Grid
from emulators.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """Some spectra at some of their pixels.

    Attributes
    ----------
    labels : (n_spec, n_label) float32
        Scaled.
    wavelength : (n_pix,) or (n_spec, n_pix) float64
        Angstrom.
    flux : (n_spec, n_pix) float32
        NaN where it is unknown.
    weight : (n_pix,) or (n_spec, n_pix) float32
        Of the pixels in the loss.
    """

    labels: Tensor
    wavelength: Tensor
    flux: Tensor
    weight: Tensor

    def parts(self, count: int) -> Iterator[Batch]:
        """Split the spectra into `count` batches of equal size."""
        def split(x: Tensor) -> Sequence[Tensor]:
            return [x] * count if x.ndim == 1 else x.chunk(count)

        for labels, *rest in zip(self.labels.chunk(count), split(self.wavelength),
                                 self.flux.chunk(count), split(self.weight), strict=True):
            yield Batch(labels, *rest)


class Batches:
    """The batches of a run, by step.

    Parameters
    ----------
    grid : Grid
    emulator : Emulator
        It scales the labels and says whether it needs whole spectra.
    recipe : Recipe
    rank, world : int
        Which of how many processes this is; it gets every `world`-th slot.

    Attributes
    ----------
    rows : (n,) int64
        The training rows that this process may be asked for.
    """

    def __init__(
        self, grid: Grid, emulator: Emulator, recipe: Recipe, *, rank: int = 0, world: int = 1
    ) -> None:
        rows = np.random.default_rng(recipe.seed).permutation(grid.rows("train"))
        self.size = min(recipe.batch, len(rows))
        if self.size % (world * recipe.accumulate):
            few, parts = self.size < recipe.batch, world * recipe.accumulate
            what = (f"the {self.size} training spectra, fewer than batch = {recipe.batch}," if few
                    else f"a batch of {self.size} spectra")
            cure = ("accumulate less, or take fewer processes" if few and parts > self.size else
                    f"make batch a multiple of {parts}" + (f", at most {self.size}" if few else ""))
            raise ValueError(f"{what} cannot be shared by {world} processes in "
                             f"{recipe.accumulate} parts each: {cure}")
        self.slots = range(rank, self.size, world)
        self._strata = {slot: np.sort(rows[slot::self.size]) for slot in self.slots}
        self.rows: NDArray[np.int64] = np.sort(np.concatenate(list(self._strata.values())))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._grid, self._recipe, self._device = grid, recipe, emulator.device
        self._scaled = emulator.labels.scale(grid.labels).astype(np.float32)
        self._wavelength = torch.as_tensor(grid.wavelength, device=self._device)
        self._weight = torch.as_tensor(grid.weight.astype(np.float32), device=self._device)
        self._n_drawn = recipe.pixels
        if emulator.network.all_pixels or recipe.pixels >= grid.n_pix:
            self._n_drawn = 0
        grid.keep(self.rows)

    def __call__(self, step: int) -> Batch:
        """Return this process's share of the batch of a step."""
        rows = np.array([self._row(slot, step) for slot in self.slots])
        flux = self._grid.flux(rows)
        labels = torch.as_tensor(self._scaled[rows], device=self._device)
        at, weight = self._wavelength, self._weight
        if self._n_drawn:
            # Drawn for all slots, so that the number of processes changes nothing.
            draw = np.random.default_rng([self._recipe.seed, 1, step])
            pixels = draw.integers(self._grid.n_pix, size=(self.size, self._n_drawn))
            pixels = pixels[self.slots.start::self.slots.step]
            flux = np.take_along_axis(flux, pixels, axis=1)
            chosen = torch.as_tensor(pixels, device=self._device)
            at, weight = at[chosen], weight[chosen]
        return Batch(labels, at, torch.as_tensor(flux, device=self._device), weight)

    def _row(self, slot: int, step: int) -> int:
        stratum = self._strata[slot]
        epoch, place = divmod(step, len(stratum))
        if self._orders.get(slot, (-1,))[0] != epoch:
            shuffle = np.random.default_rng([self._recipe.seed, 0, slot, epoch])
            self._orders[slot] = epoch, shuffle.permutation(stratum)
        return int(self._orders[slot][1][place])
