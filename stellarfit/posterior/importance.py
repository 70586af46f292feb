"""The Gaussian around the fit, made exact by weights: the posterior at the price of some draws.

Draws from around the fit (`proposal`) with weights posterior / proposal are samples of the
posterior; where weights differ much, few of the draws count: (sum w)^2 / sum w^2 of them.  They are
drawn again in proportion to their weights (sampling importance resampling; Rubin 1988, *Bayesian
Statistics* 3, 395).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stellarfit.posterior.density import Density
from stellarfit.posterior.diagnostics import Diagnosis
from stellarfit.posterior.proposal import Around

Array = NDArray[np.float64]
#: draws that must count
LEAST_ESS = 100.0
#: and as a share of all: less, and the proposal may miss where the posterior is
LEAST_SHARE = 0.05


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
        self._around = Around(density.best.values, density.covariance)
        self._random = np.random.RandomState(seed)
        self._draws = np.empty((0, len(density)))
        self._logs, self._log_weights = np.empty(0), np.empty(0)

    def advance(self, steps: int, tick: Callable[[], object]) -> None:
        """Draw and weigh."""
        drawn = self._around.draw(steps, self._random)
        logs = self.density(drawn)
        self._draws = np.concatenate([self._draws, drawn])
        self._logs = np.concatenate([self._logs, logs])
        self._log_weights = np.concatenate(
            [self._log_weights, logs - self._around.log_density(drawn)])
        for _ in range(steps):
            tick()

    @property
    def weights(self) -> Array:
        """Of the draws, their sum 1."""
        best = self._log_weights.max(initial=-np.inf)
        if not np.isfinite(best):
            return np.zeros(len(self._log_weights))
        w = np.exp(self._log_weights - best)
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
            rhat=np.ones(n_free), acceptance=ess / max(1, count), divergences=0, stuck=0,
            burn_in=0, reasons=tuple(reasons))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return draws, weights and the generator of random numbers."""
        key: Any = self._random.get_state()
        return {"draws": self._draws, "logs": self._logs, "log_weights": self._log_weights,
                "keys": np.asarray(key[1]), "place": np.array([key[2], key[3]]),
                "cached": np.array([key[4]])}

    def restore(
        self, chain: Array, log_probability: Array, state: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Go on from there."""
        self._draws, self._logs, self._log_weights = (
            np.array(state[n]) for n in ("draws", "logs", "log_weights"))
        place, has_normal = (int(x) for x in state["place"])
        self._random.set_state(("MT19937", np.array(state["keys"]), place, has_normal,
                                float(state["cached"][0])))
