"""One shard of a grid: some samples of a recipe, made in one process.

A :class:`Maker` holds all that it takes, files read and lines selected, so that it can be
sent to any machine; what it returns depends on the numbers of the samples alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulators.air import vacuum_to_air
from emulators.files import atomic_write
from emulators.synthesis.abundances import abundances
from emulators.synthesis.atmosphere import Atmosphere, Models
from emulators.synthesis.engine import Engine
from emulators.synthesis.recipe import GridRecipe

#: fluxes are stored as whole multiples of this
FLUX_STEP = 2e-5
#: normalised LTE flux beyond these is a failure of the synthesis, not a star
FLUX_RANGE = (0.0, 1.01)
CONTINUUM_NODES = 16
#: log10 of the Rosseland optical depths at which temperature and pressure are stored
LOG_DEPTHS = np.round(np.arange(-5.0, 1.51, 0.125), 3)

# SME's library keeps one star per process, whatever the threads of a worker.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class Shard:
    """Spectra of some samples, and what became of the others.

    Attributes
    ----------
    index : (n_spec,) int64
        Numbers of the samples, rising.
    labels : (n_spec, n_label) float64
    structure : (n_spec, 2) float64
        [M/H] and [alpha/M] of the atmosphere.
    flux : (n_spec, n_pix) uint16
        In steps of `FLUX_STEP`.
    continuum : (n_spec, n_node) float64
        erg/s/cm²/Å at the surface.
    temperature, pressure : (n_spec, n_depth) float32
        K and dyn/cm² at `LOG_DEPTHS`.
    failed_index : (n_failed,) int64
    failed_labels : (n_failed, n_label) float64
    failed_reason : (n_failed,) str
    """

    index: NDArray[np.int64]
    labels: NDArray[np.float64]
    structure: NDArray[np.float64]
    flux: NDArray[np.uint16]
    continuum: NDArray[np.float64]
    temperature: NDArray[np.float32]
    pressure: NDArray[np.float32]
    failed_index: NDArray[np.int64]
    failed_labels: NDArray[np.float64]
    failed_reason: NDArray[np.str_]

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read what :meth:`write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{f.name: file[f.name] for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes samples of a recipe.

    Attributes
    ----------
    recipe : GridRecipe
    engine : Engine
        With the lines that matter.
    models : callable
        Gives the atmosphere for teff, logg, [M/H] and [alpha/M].
    citations : tuple of str
        Of the lines.
    """

    recipe: GridRecipe
    engine: Engine
    models: Models
    citations: tuple[str, ...] = ()

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """The pixels in the medium of the engine's lines, (n_pix,)."""
        at = self.recipe.wavelength
        return vacuum_to_air(at) if self.recipe.medium == "vacuum" else at

    def __call__(self, index: NDArray[np.int64]) -> Shard:
        """Return the spectra of some samples."""
        with _ONE_AT_A_TIME:
            return self._make(np.asarray(index, dtype=np.int64))

    def _make(self, index: NDArray[np.int64]) -> Shard:
        samples = self.recipe.samples(index)
        names = self.recipe.distribution.names
        labels = np.stack([samples[n] for n in names], axis=1)
        at, nodes = self.wavelength, self._nodes()
        rows, failed = [], []
        for place in range(len(index)):
            values = {n: float(v[place]) for n, v in samples.items()}
            follow = (float(self.recipe.m_h(values)), float(self.recipe.alpha_m(values)))
            try:
                model = self.models(values["teff"], values["logg"], *follow)
                composition = abundances({n: values[n] for n in names}, self.recipe.solar_scale)
                made = self.engine(model, composition, values["vmic"], at)
                _check(made.flux, at)
            except Exception as error:  # one star must not cost the others; its reason is kept
                failed.append((place, f"{type(error).__name__}: {error}"))
                continue
            rows.append((place, follow, np.round(made.flux / FLUX_STEP).astype(np.uint16),
                         np.interp(nodes, at, made.continuum), *_layers(model)))
        columns = list(zip(*rows, strict=True)) or [()] * 6
        good = np.array(columns[0], dtype=int)
        bad = np.array([place for place, _ in failed], dtype=int)
        return Shard(
            index[good], labels[good], np.reshape(columns[1], (-1, 2)),
            np.reshape(columns[2], (-1, len(at))).astype(np.uint16),
            np.reshape(columns[3], (-1, CONTINUUM_NODES)),
            np.reshape(columns[4], (-1, len(LOG_DEPTHS))).astype(np.float32),
            np.reshape(columns[5], (-1, len(LOG_DEPTHS))).astype(np.float32),
            failed_index=index[bad], failed_labels=labels[bad],
            failed_reason=np.array([reason for _, reason in failed], dtype=str),
        )

    def _nodes(self) -> NDArray[np.float64]:
        return np.linspace(self.wavelength[0], self.wavelength[-1], CONTINUUM_NODES)

    def lost(self, index: NDArray[np.int64], reason: str) -> Shard:
        """Return a shard of failures alone, for samples whose process did not come back."""
        samples = self.recipe.samples(index)
        labels = np.stack([samples[n] for n in self.recipe.distribution.names], axis=1)
        none = np.empty((0, 0))
        return Shard(
            index[:0], labels[:0], none.reshape(0, 2),
            np.empty((0, len(self.wavelength)), np.uint16), np.empty((0, CONTINUUM_NODES)),
            np.empty((0, len(LOG_DEPTHS)), np.float32), np.empty((0, len(LOG_DEPTHS)), np.float32),
            failed_index=index, failed_labels=labels, failed_reason=np.array([reason] * len(index)),
        )


def _layers(model: Atmosphere) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return temperature and pressure at `LOG_DEPTHS`."""
    depth = np.log10(model.optical_depth)
    return (np.interp(LOG_DEPTHS, depth, model.temperature),
            10.0 ** np.interp(LOG_DEPTHS, depth, np.log10(model.pressure)))


def _check(flux: NDArray[np.float64], wavelength: NDArray[np.float64]) -> None:
    low, high = FLUX_RANGE
    worst = int(np.argmax(np.maximum(flux - high, low - flux)))
    if not low <= flux[worst] <= high:
        raise FloatingPointError(
            f"normalised flux {flux[worst]:.4f} at {wavelength[worst]:.2f} Å is outside "
            f"[{low:g}, {high:g}]"
        )


def reasons(failed: list[str]) -> str:
    """Return how many samples failed of what, without the numbers that differ."""
    kinds = Counter(reason.partition(" at ")[0].rstrip("0123456789. ") for reason in failed)
    return "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5))
