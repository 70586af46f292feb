"""The Gaussian around the fit, made exact by weights: the posterior at the price of some draws.

Draws from around the fit (`proposal`) with weights posterior / proposal are samples of the
posterior; where weights differ much, few of the draws count: (sum w)^2 / sum w^2 of them.  Then the
next are drawn from around those so far, and all are weighted by the mixture of all proposals, each
by its share of the draws (Cornuet et al. 2012, Scand. J. Stat. 39, 798).  In the end they are drawn
again in proportion to their weights (sampling importance resampling; Rubin 1988, *Bayesian
Statistics* 3, 395).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stellarfit.posterior.density import Density
from stellarfit.posterior.diagnostics import Diagnosis
from stellarfit.posterior.proposal import Around, around_samples

Array = NDArray[np.float64]
#: draws that must count
LEAST_ESS = 100.0
#: and as a share of all: less, and the proposals may miss where the posterior is
LEAST_SHARE = 0.05
#: draws that share fewer are left for a proposal around those that count
GOOD_SHARE = 0.5
#: and at least so many per parameter must count for one
PER_PARAMETER = 2.0


class Importance:
    """Weighted draws from around the fit.

    Parameters
    ----------
    density : Density
    chains : int
        Makes no difference.
    walkers : None
        There are none.
    seed : int
    """

    name: ClassVar[str] = "importance"
    block: ClassVar[int] = 128

    def __init__(
        self, density: Density, *, chains: int = 1, walkers: int | None = None, seed: int = 0
    ) -> None:
        if walkers is not None:
            raise ValueError("sampler='importance' has no walkers; max_steps= is its number of "
                             "draws")
        self.density = density
        self._arounds = [Around(density.values, density.covariance)]
        self._counts = [0]
        self._random = np.random.RandomState(seed)
        self._draws, self._logs = np.empty((0, len(density))), np.empty(0)

    def advance(self, steps: int, tick: Callable[[], object]) -> None:
        """Draw and weigh."""
        if len(self._draws) % self.block == 0:  # wherever an earlier run was interrupted
            self._learn()
        drawn = self._arounds[-1].draw(steps, self._random)
        self._counts[-1] += steps
        self._logs = np.concatenate([self._logs, self.density(drawn)])
        self._draws = np.concatenate([self._draws, drawn])
        self.__dict__.pop("weights", None)
        for _ in range(steps):
            tick()

    def _learn(self) -> None:
        """Propose from around the draws that count, if that is better and enough of them do."""
        count, w = len(self._draws), self.weights
        ess = 1.0 / (w**2).sum() if w.any() else 0.0
        if PER_PARAMETER * len(self.density) < ess < GOOD_SHARE * count:
            around = around_samples(self._draws, w)
            if around is not None:
                self._arounds.append(around)
                self._counts.append(0)

    @cached_property
    def weights(self) -> Array:
        """Of the draws, their sum 1."""
        best = self._logs.max(initial=-np.inf)
        if not np.isfinite(best):
            return np.zeros(len(self._logs))
        shares = np.array(self._counts) / len(self._draws)
        used = [(n, a) for n, a in zip(shares, self._arounds, strict=True) if n]
        proposed = logsumexp([np.log(n) + a.log_density(self._draws) for n, a in used], axis=0)
        log = self._logs - proposed
        w = np.exp(log - log.max())
        return np.asarray(w / w.sum())

    @property
    def _again(self) -> NDArray[np.int64]:
        """Which draws are drawn again: as evenly as weights allow (systematic resampling)."""
        places = (np.arange(len(self._draws)) + 0.5) / max(1, len(self._draws))
        chosen = np.searchsorted(np.cumsum(self.weights), places).clip(max=len(self._draws) - 1)
        return np.random.RandomState(0).permutation(chosen)

    @property
    def chain(self) -> Array:
        """The posterior's samples, (1, n_draw, 1, n_free)."""
        return self._draws[self._again][None, :, None]

    @property
    def log_probability(self) -> Array:
        """Of the samples, (1, n_draw, 1)."""
        return self._logs[self._again][None, :, None]

    def diagnose(self) -> Diagnosis:
        """Judge the draws so far."""
        w, n_free = self.weights, len(self.density)
        count = len(w)
        ess = 1.0 / (w**2).sum() if w.any() else 0.0
        reasons = []
        if ess < LEAST_ESS:
            reasons.append(f"only {ess:.0f} of {count} draws count; {LEAST_ESS:.0f} are needed")
        if ess < LEAST_SHARE * count:
            reasons.append("the posterior is not near the Gaussian around the fit: "
                           f"{100 * ess / max(1, count):.1f} % of the draws count")
        return Diagnosis(
            tau=np.full(n_free, count / max(ess, 1e-300)), ess=np.full(n_free, ess),
            rhat=np.full(n_free, np.nan), acceptance=ess / max(1, count), divergences=0, stuck=0,
            burn_in=0, reasons=tuple(reasons))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return draws, weights and the generator of random numbers."""
        key: Any = self._random.get_state()
        return {"draws": self._draws, "logs": self._logs, "counts": np.array(self._counts),
                "centres": np.array([a.centre for a in self._arounds]),
                "covariances": np.array([a.covariance for a in self._arounds]),
                "keys": np.asarray(key[1]), "place": np.array([key[2], key[3]]),
                "cached": np.array([key[4]])}

    def restore(
        self, chain: Array, log_probability: Array, state: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Go on from there."""
        self._draws, self._logs = (np.array(state[n]) for n in ("draws", "logs"))
        self._counts = [int(n) for n in state["counts"]]
        self._arounds = [Around(*each) for each in zip(
            np.asarray(state["centres"]), np.asarray(state["covariances"]), strict=True)]
        self.__dict__.pop("weights", None)
        place, has_normal = (int(x) for x in state["place"])
        self._random.set_state(("MT19937", np.array(state["keys"]), place, has_normal,
                                float(state["cached"][0])))
