"""What a sampler is to :func:`stellarfit.sample`: chains that grow and can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from stellarfit.posterior.density import Density
from stellarfit.posterior.diagnostics import Diagnosis

Array = NDArray[np.float64]


class Sampler(Protocol):
    """Chains that grow.

    Attributes
    ----------
    name : str
    block : int
        Steps between two looks at how good the samples are.
    """

    name: ClassVar[str]
    block: ClassVar[int]

    @property
    def chain(self) -> Array:
        """Samples from the first step on, (n_chain, n_step, n_walker, n_free)."""

    @property
    def log_probability(self) -> Array:
        """Of the samples, (n_chain, n_step, n_walker)."""

    def __init__(self, density: Density, *, chains: int, walkers: int | None, seed: int) -> None:
        """Begin around the fit."""

    def advance(self, steps: int, tick: Callable[[], object]) -> None:
        """Take steps with every chain; `tick` is called after each."""

    def diagnose(self) -> Diagnosis:
        """Judge the samples so far."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what, with the chain, is needed to go on exactly here."""

    def restore(
        self, chain: Array, log_probability: Array, state: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Go on from there."""
