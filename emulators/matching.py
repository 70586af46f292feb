"""Starting on a grid from an emulator of another: labels matched by name.

A label that both know keeps the scale of the older emulator.  One that only the grid has, or
that never varied before, enters with zero weights: at first it changes nothing.  An element
that the grid gives as a ratio to iron is the sum of both.  One that the grid lacks is held
where a user's silence would put it (an element follows iron, helium is solar) or else at the
middle of its scale.  All of this is one affine map of scaled labels, s_old = M s_new + c,
which the network takes in (``relabel``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emulators.emulator import Emulator
from emulators.grid import Grid
from emulators.labels import LabelSet, is_abundance
from emulators.networks import build, kind_of

logger = logging.getLogger(__name__)

#: scaled labels farther than this from the middle are far from what the networks were made for
FAR = 3.0


@dataclass(frozen=True)
class Matching:
    """How the labels of an emulator meet those of a grid.

    Attributes
    ----------
    matched, new : tuple of str
        Labels of the grid that the emulator knows, and those it does not.
    ratios : tuple of str
        Labels of the grid that are ratios to iron of elements that the emulator knows.
    following : tuple of str
        Elements that the grid lacks and that follow iron.
    held : dict of str to float
        Other labels that the grid lacks, and the values they are held at.
    """

    matched: tuple[str, ...]
    new: tuple[str, ...]
    ratios: tuple[str, ...]
    following: tuple[str, ...]
    held: dict[str, float]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} labels matched by name"]
        if self.new:
            parts.append(f"new, without effect at first: {', '.join(self.new)}")
        if self.ratios:
            parts.append(f"added to iron: {', '.join(self.ratios)}")
        if self.following:
            parts.append(f"not in the grid, following iron: {', '.join(self.following)}")
        if self.held:
            held = ", ".join(f"{n} = {v:g}" for n, v in self.held.items())
            parts.append(f"not in the grid, held at: {held}")
        return "; ".join(parts)

    @property
    def trivial(self) -> bool:
        """Whether both know the same labels."""
        return not (self.new or self.ratios or self.following or self.held)


def match(old: LabelSet, grid: LabelSet) -> Matching:
    """Return how the labels of an emulator meet those of a grid.

    Raises
    ------
    ValueError
        When they have no label in common, or one in different units.
    """
    matched = tuple(n for n in grid.names if _known(n, old, grid))
    shared = [(n, old.units[old.index(n)], grid.units[grid.index(n)]) for n in matched]
    if wrong := [f"{n} in {b} ({a} in init)" for n, a, b in shared if a and b and a != b]:
        raise ValueError(f"the grid has other units than init: {', '.join(wrong)}")
    if not matched:
        raise ValueError(
            f"the grid and init have no label in common: {', '.join(grid.names[:5])}, ... "
            f"against {', '.join(old.names[:5])}, ..."
        )
    ratios = tuple(n for n in grid.names if n.endswith("_fe") and n not in old.names
                   and "fe_h" in matched and (x := n[:-3] + "_h") in old.names
                   and x not in grid.names)
    lacking = [n for n in old.names if n not in grid.names and n[:-2] + "_fe" not in ratios]
    following = tuple(n for n in lacking if is_abundance(n) and "fe_h" in matched)
    middle = {n: 0.5 * (a + b) for n, a, b in zip(old.names, old.low, old.high, strict=True)}
    solar = old.solar()
    held = {n: solar.get(n, middle[n]) for n in lacking if n not in following}
    new = tuple(n for n in grid.names if n not in (*matched, *ratios))
    return Matching(matched, new, ratios, following, held)


def _known(name: str, old: LabelSet, grid: LabelSet) -> bool:
    """Whether an emulator has learnt what a label of the grid does, as far as it varies."""
    return name in old.names and (_varies(name, old) or not _varies(name, grid))


def _varies(name: str, labels: LabelSet) -> bool:
    i = labels.index(name)
    return labels.high[i] > labels.low[i]


def changed(source: nn.Module, network: nn.Module) -> tuple[str, ...]:
    """Return the parameters of a copy of a network that are not those of the original."""
    before = dict(source.named_parameters())
    return tuple(n for n, p in network.named_parameters()
                 if n not in before or p.shape != before[n].shape
                 or not torch.equal(p.cpu(), before[n].cpu()))


def started_from(source: Emulator, grid: Grid) -> tuple[nn.Module, LabelSet, Matching]:
    """Return a copy of an emulator's network for a grid, its labels, and how they matched.

    Raises
    ------
    ValueError
        When the grid is in the other medium, has no label in common with the emulator or
        one in other units, or has pixels that the network cannot start on; or when the
        emulator has a closed form.
    """
    if source.medium != grid.medium:
        raise ValueError(
            f"{grid!r} is in {grid.medium}, but init '{source.name}' is in {source.medium}"
        )
    matching = match(source.labels, grid.label_set)
    labels = _scale(source.labels, grid.label_set)
    _warn(source, grid, labels, matching)
    if source.network.closed_form:
        raise ValueError(f"init '{source.name}' was solved in closed form: nothing to fine-tune")
    if source.network.all_pixels and not np.array_equal(source.pixels, grid.wavelength):
        raise ValueError(
            f"init '{source.name}' knows its own {len(source.pixels)} pixels alone and cannot "
            f"start on the {grid.n_pix} pixels of {grid!r}"
        )
    options: Any = source.network.config
    network = build(kind_of(source.network), len(source.labels),
                    torch.as_tensor(grid.wavelength), **options)
    network.load_state_dict(source.network.state_dict())
    if labels != source.labels:
        M, c = _map(source.labels, labels, matching)
        network.relabel(torch.as_tensor(M), torch.as_tensor(c))  # type: ignore[operator]
    return network, labels, matching


def _warn(source: Emulator, grid: Grid, labels: LabelSet, matching: Matching) -> None:
    """Say before hours of training what may not be what was meant."""
    logger.log(logging.INFO if matching.trivial else logging.WARNING,
               "init '%s': %s", source.name, matching)
    reach = np.abs(labels.scale(grid.labels)).max(axis=0)
    if far := [f"{n} ({r:.1f})" for n, r in zip(labels.names, reach, strict=True) if r > FAR]:
        logger.warning("on the scale of init '%s', on which its own labels ran from -1 to 1, "
                       "those of the grid reach far: %s", source.name, ", ".join(far))
    low, high = source.wavelength_range
    step = source.log_step * low
    if grid.wavelength[0] < low - step or grid.wavelength[-1] > high + step:
        logger.warning("%r reaches beyond %.1f-%.1f Å, all that init '%s' has seen",
                       grid, low, high, source.name)


def _scale(old: LabelSet, grid: LabelSet) -> LabelSet:
    """Return the labels of the grid, on the scale of the emulator where it has one."""
    where = {n: old.index(n) for n in grid.names if _known(n, old, grid)}
    low, high = zip(*(
        (old.low[where[n]], old.high[where[n]]) if n in where else (grid.low[i], grid.high[i])
        for i, n in enumerate(grid.names)
    ), strict=True)
    return LabelSet(grid.names, grid.units, low, high)


def _map(
    old: LabelSet, new: LabelSet, matching: Matching
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return M (n_old, n_new), c (n_old,) of scaled labels: s_old = M s_new + c."""
    M, c = np.zeros((len(old), len(new))), np.zeros(len(old))
    middle = [0.5 * (np.array(s.low) + np.array(s.high)) for s in (old, new)]
    half = [0.5 * (np.array(s.high) - np.array(s.low)) for s in (old, new)]
    for row, name in enumerate(old.names):
        if half[0][row] == 0.0:
            continue  # it never varied: 0 whatever happens
        if name in matching.held:
            c[row] = (matching.held[name] - middle[0][row]) / half[0][row]
            continue
        ratio = name[:-2] + "_fe"
        parts = (["fe_h", ratio] if ratio in matching.ratios
                 else ["fe_h"] if name in matching.following else [name])
        columns = [new.index(n) for n in parts]
        M[row, columns] = half[1][columns] / half[0][row]
        c[row] = (middle[1][columns].sum() - middle[0][row]) / half[0][row]
    return M, c
