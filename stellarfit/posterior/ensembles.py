"""Ensembles of walkers: emcee on the batched posterior, several independent ones.

Most moves propose without regard of the present place: from around the fit, and from what an
ensemble has learnt of its posterior.  It learns after 50, 100, 200, ... steps from the later half
of them, so that what it knows changes ever less, as adaptation must (Roberts & Rosenthal 2007, J.
Appl. Probab. 44, 458), and depends on its chain alone: an interrupted run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import emcee
import numpy as np
from numpy.typing import NDArray

from stellarfit.posterior.density import Density
from stellarfit.posterior.diagnostics import Diagnosis, diagnose
from stellarfit.posterior.proposal import Around, Independence, around_samples

Array = NDArray[np.float64]
#: shares of the moves: draws from around the samples so far and from around the fit; differences
#: of walkers, which find what those know nothing of (ter Braak 2006, Stat. Comput. 16, 239)
LEARNT, FITTED, DIFFERENCE = 0.6, 0.15, 0.25
FEWEST_WALKERS = 24


class Ensembles:
    """emcee's ensemble sampler, with moves that suit ten and more parameters.

    Parameters
    ----------
    density : Density
    chains : int
        Independent ensembles.
    walkers : int, optional
        Of each: at least twice the number of parameters.
    seed : int

    Raises
    ------
    ValueError
        For too few walkers.
    """

    name: ClassVar[str] = "emcee"
    block: ClassVar[int] = 50

    def __init__(
        self, density: Density, *, chains: int = 2, walkers: int | None = None, seed: int = 0
    ) -> None:
        least = 2 * len(density)
        count = max(FEWEST_WALKERS, least + 2) if walkers is None else walkers
        if count < least:
            raise ValueError(f"{count} walkers are too few for {len(density)} parameters; "
                             f"give at least {least}")
        self.density = density
        around = Around(density.values, density.covariance)
        self._learnt = [Independence(around) for _ in range(chains)]
        self._samplers = [
            emcee.EnsembleSampler(count, len(density), density, vectorize=True, moves=[
                (learnt, LEARNT), (Independence(around), FITTED),
                (emcee.moves.DEMove(), DIFFERENCE)])
            for learnt in self._learnt]
        self._states: list[Any] = []
        for k in range(chains):
            rng = np.random.default_rng([seed, k])
            first = density.scattered(count, rng)
            self._states.append(emcee.State(
                first, log_prob=density(first),
                random_state=np.random.RandomState(rng.integers(2**31)).get_state()))
        self.chain = np.empty((chains, 0, count, len(density)))
        self.log_probability = np.empty((chains, 0, count))

    def advance(self, steps: int, tick: Callable[[], object]) -> None:
        """Take steps with every ensemble."""
        self._learn()
        grown: list[Array] = []
        known: list[Array] = []
        for k, sampler in enumerate(self._samplers):
            coords, logs = [], []
            for state in sampler.sample(self._states[k], iterations=steps, store=False,
                                        skip_initial_state_check=True):
                coords.append(state.coords.copy())
                logs.append(state.log_prob.copy())
                tick()
            self._states[k] = emcee.State(state, copy=True)
            grown.append(np.array(coords))
            known.append(np.array(logs))
        self.chain = np.concatenate([self.chain, grown], axis=1)
        self.log_probability = np.concatenate([self.log_probability, known], axis=1)

    def _learn(self) -> None:
        """Let every ensemble propose like its samples."""
        blocks = self.chain.shape[1] // self.block
        if blocks:
            steps = self.block * 2 ** (blocks.bit_length() - 1)
            for move, chain in zip(self._learnt, self.chain, strict=True):
                samples = chain[steps // 2:steps].reshape(-1, len(self.density))
                move.around = around_samples(samples) or move.around

    def diagnose(self) -> Diagnosis:
        """Judge the samples so far."""
        return diagnose(self.chain, names=self.density.names)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the generators of random numbers; walkers are where the chain ends."""
        each = [s.random_state for s in self._states]
        return {"keys": np.array([e[1] for e in each]),
                "places": np.array([[e[2], e[3]] for e in each]),
                "cached": np.array([e[4] for e in each])}

    def restore(
        self, chain: Array, log_probability: Array, state: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Go on where the chain ends."""
        self.chain, self.log_probability = chain, log_probability
        for k in range(len(self._states)):
            place, has_normal = (int(x) for x in state["places"][k])
            random_state = ("MT19937", state["keys"][k], place, has_normal,
                            float(state["cached"][k]))
            np.random.RandomState().set_state(random_state)  # a bad one emcee passes over
            self._states[k] = emcee.State(chain[k, -1], log_prob=log_probability[k, -1],
                                          random_state=random_state)
