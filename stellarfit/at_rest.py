"""What an emulator has said of stars at rest, remembered.

A fit asks for a step's chi-square, then for its derivatives, then how to weigh it: the same
spectrum thrice.  And derivatives, nearly all of the cost, change slowly: on the way they are
those of a star close by, mended after every step by what the step has shown (Broyden 1965,
Math. Comp. 19, 577, eq. 4.5): with d the step in typical sizes, f the flux and T the
derivatives per typical size,

    T <- T + d (f_new - f_old - T d) / |d|^2.

All stars begin at one of a few templates (`search`), so derivatives there are kept for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from emulators import Emulator
from emulators.networks.pixels import FixedPixels

#: spectra that are kept
REMEMBERED = 256
#: emulators, or grids or free labels of one, whose derivatives at first guesses are kept, and
#: how many of those, a megabyte each at most
KEPT, LASTING = 4, 64
_first: dict[tuple[str, str, bytes, bytes], dict[bytes, Tensor]] = {}
#: steps shorter than this, in typical sizes, show nothing about derivatives above rounding
SHORTEST = 0.02


class Derivatives(NamedTuple):
    """Derivatives T (n_way, n_grid) as known at a place (n_way,), in typical sizes.

    They were computed at `origin`, and mended since; `flux` (n_grid,) is that of `place`.
    """

    origin: Tensor
    place: Tensor
    flux: Tensor
    T: Tensor

    def at(self, place: Tensor, flux: Tensor) -> Derivatives:
        """Return them mended by the step to another place."""
        d = place - self.place
        length = float(d @ d)
        if length < SHORTEST**2:
            return self
        d = d.to(flux.dtype)
        missed = flux - self.flux - d @ self.T
        return Derivatives(self.origin, place, flux, self.T + torch.outer(d, missed) / length)


class AtRest:
    """Spectra of an emulator on a grid of wavelengths, and their derivatives.

    Parameters
    ----------
    emulator : Emulator
    grid : (n_grid,) float64 tensor
        Rest-frame wavelengths, Angstrom.
    ways : (n_way, n_label) float64 tensor
        Directions in which labels may move, each a typical size long.
    """

    def __init__(self, emulator: Emulator, grid: Tensor, ways: Tensor) -> None:
        self.emulator, self.grid, self.ways = emulator, grid, ways
        self._fluxes: dict[bytes, Tensor] = {}
        #: by the number of a star
        self._derivatives: dict[int, Derivatives] = {}

    @property
    def cheap(self) -> bool:
        """Whether derivatives cost so little that they are taken anew wherever they are needed."""
        return isinstance(self.emulator.network, FixedPixels)

    @cached_property
    def _lasting(self) -> dict[bytes, Tensor]:
        """First derivatives, by labels, that all fits with this emulator and grid share."""
        # An emulator has a hash that was loaded, and does not change.
        if not self.emulator.sha256:
            return {}
        key = (self.emulator.sha256, str(self.emulator.dtype), self.grid.cpu().numpy().tobytes(),
               self.ways.cpu().numpy().tobytes())
        if key not in _first:
            for old in list(_first)[:max(0, len(_first) - KEPT + 1)]:
                _first.pop(old, None)
        return _first.setdefault(key, {})

    def flux(self, labels: Tensor) -> Tensor:
        """Return flux (n_spec, n_grid) of labels (n_spec, n_label), without gradients."""
        keys = keys_of(labels)
        found = {k: self._fluxes[k] for k in keys if k in self._fluxes}
        new = [i for i, k in enumerate(keys) if k not in found]
        if new:
            with torch.no_grad():
                fluxes = self.emulator.flux(labels[new], self.grid)
            found.update(zip([keys[i] for i in new], fluxes, strict=True))
            remember(self._fluxes, found)
        return torch.stack([found[k] for k in keys])

    def derivatives(
        self, labels: Tensor, places: Tensor, stars: Sequence[int] = (),
        reach: Sequence[float] = (),
    ) -> Tensor:
        """Return derivatives (n_way, n_spec, n_grid), per typical size, at labels.

        Parameters
        ----------
        labels : (n_spec, n_label)
        places : (n_spec, n_way)
            The same stars, in typical sizes along the ways.
        stars, reach
            As in `stellarfit.forward.ForwardModel.jacobian`.
        """
        if not len(self.ways):
            return labels.new_zeros(0, len(labels), len(self.grid), dtype=self.emulator.dtype)
        if self.cheap:
            return self.emulator.flux_and_tangents(labels, self.ways, self.grid)[1]
        known = {i: self._derivatives[n] for i, n in enumerate(stars) if n in self._derivatives}
        far = [i for i, place in enumerate(places) if i not in known
               or not float((known[i].origin - place).abs().max()) <= reach[i]]
        tangents = self._tangents(labels[far], [i not in known and bool(stars) for i in far])
        fluxes = self.flux(labels)
        now = {i: d.at(places[i], fluxes[i]) for i, d in known.items()}
        now.update({i: Derivatives(places[i], places[i], fluxes[i], T)
                    for i, T in zip(far, tangents, strict=True)})
        self._derivatives.update({n: now[i] for i, n in enumerate(stars)})
        return torch.stack([now[i].T for i in range(len(places))], 1)

    def _tangents(self, labels: Tensor, lasts: Sequence[bool]) -> list[Tensor]:
        """Return derivatives (n_way, n_grid) of each star, and keep those that last."""
        keys = keys_of(labels)
        found = {k: self._lasting[k] for k in keys if k in self._lasting}
        new = [i for i, k in enumerate(keys) if k not in found]
        # What lasts is computed alone: whose batch it was must not show, not even by rounding.
        alone = {keys[i]: [i] for i in new if lasts[i]}
        together = [i for i in new if keys[i] not in alone]
        for some in [*alone.values(), together] if together else alone.values():
            flux, tangents = self.emulator.flux_and_tangents(labels[some], self.ways, self.grid)
            remember(self._fluxes, {keys[i]: f for i, f in zip(some, flux, strict=True)})
            found.update({keys[i]: t.clone() for i, t in zip(some, tangents.unbind(1),
                                                             strict=True)})
        self._lasting.update({k: found[k] for k in list(alone)[:LASTING - len(self._lasting)]})
        return [found[k] for k in keys]

    def tell(self, labels: Tensor, fluxes: Tensor) -> None:
        """Learn the flux (n_spec, n_grid) of labels from who knows it already."""
        remember(self._fluxes, dict(zip(keys_of(labels), fluxes, strict=True)))


def keys_of(rows: Tensor) -> list[bytes]:
    """Return a key for each row of labels or parameters."""
    return [row.tobytes() for row in rows.detach().cpu().numpy()]


def remember(
    memory: dict[bytes, Tensor], found: dict[bytes, Tensor], most: int = REMEMBERED
) -> None:
    """Keep what was found for stars, each by itself, and forget the oldest of too many."""
    memory.update({k: f.clone() for k, f in found.items() if k not in memory})
    for key in list(memory)[:max(0, len(memory) - most)]:
        del memory[key]
