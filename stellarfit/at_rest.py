"""What an emulator has said of stars at rest, remembered.

A fit asks for a step's chi-square, then for its derivatives, then how to weigh it: the same
spectrum thrice.  And derivatives, nearly all of the cost, change slowly: on the way they are
those of a star close by, mended after every step by what the step has shown (Broyden 1965,
Math. Comp. 19, 577, eq. 4.5): with d the step in typical sizes, f the flux and T the
derivatives per typical size,

    T <- T + d (f_new - f_old - T d) / |d|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from emulators import Emulator

#: spectra that are kept
REMEMBERED = 256
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

    def flux(self, labels: Tensor) -> Tensor:
        """Return flux (n_spec, n_grid) of labels (n_spec, n_label), without gradients."""
        keys = _keys(labels)
        found = {k: self._fluxes[k] for k in keys if k in self._fluxes}
        new = [i for i, k in enumerate(keys) if k not in found]
        if new:
            with torch.no_grad():
                fluxes = self.emulator.flux(labels[new], self.grid)
            found.update(zip([keys[i] for i in new], fluxes, strict=True))
            self._remember(found)
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
            return labels.new_zeros(0, len(labels), len(self.grid))
        known = {i: self._derivatives[n] for i, n in enumerate(stars) if n in self._derivatives}
        far = [i for i, place in enumerate(places) if i not in known
               or not float((known[i].origin - place).abs().max()) <= reach[i]]
        if far:
            flux, tangents = self.emulator.flux_and_tangents(labels[far], self.ways, self.grid)
            self._remember(dict(zip(_keys(labels[far]), flux, strict=True)))
        fluxes = self.flux(labels)
        now = {i: d.at(places[i], fluxes[i]) for i, d in known.items()}
        now.update({i: Derivatives(places[i], places[i], fluxes[i], tangents[:, k].clone())
                    for k, i in enumerate(far)})
        self._derivatives.update({n: now[i] for i, n in enumerate(stars)})
        return torch.stack([now[i].T for i in range(len(places))], 1)

    def _remember(self, fluxes: dict[bytes, Tensor]) -> None:
        """Keep fluxes (n_grid,) by labels, and forget the oldest of too many."""
        self._fluxes.update({k: f.clone() for k, f in fluxes.items() if k not in self._fluxes})
        for key in list(self._fluxes)[:max(0, len(self._fluxes) - REMEMBERED)]:
            del self._fluxes[key]


def _keys(labels: Tensor) -> list[bytes]:
    return [row.tobytes() for row in labels.detach().cpu().numpy()]
