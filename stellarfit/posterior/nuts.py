"""The no-U-turn sampler (Hoffman & Gelman 2014, JMLR 15, 1593), of Pyro, on its gradient.

A wall is hard for it, and what data do not constrain is walled in by the domain: a parameter that
has two limits walks on the whole line instead, u = ln((theta - low) / (high - theta)), with
d theta / du in the density.  And it walks in units of the fit: u = middle + L z, L L^T the
covariance, so that z is nearly of unit variance in all directions.  Each chain adapts its step in
a warm-up that is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from stellarfit.posterior.density import Density
from stellarfit.posterior.diagnostics import Diagnosis, diagnose, inside

Array = NDArray[np.float64]
WARM_UP = 60
#: a trajectory of more than 2^6 - 1 steps would be needed in no posterior this near a Gaussian
DEEPEST = 6
#: what the mean acceptance probability may be, when steps were adapted to 0.8
ACCEPTANCE = (0.6, 1.0)
#: a posterior of which less lies inside the prior is not what was sampled
LEAST_INSIDE = 0.2


#: a fit on a limit is taken to lie so many of its sigma, and of its range, away from it
AWAY, AWAY_AT_MOST = 0.5, 0.05
#: sigma of u where a parameter is uniform between its limits
UNIFORM = np.pi / np.sqrt(3.0)


class Unbounded:
    """z (n_free,), without limits and nearly of unit variance, in place of theta.

    Parameters
    ----------
    density : Density
        Limits on several parameters together stay limits.
    """

    def __init__(self, density: Density) -> None:
        self.low, self.high = _own_limits(density.G, density.h)
        self._bounded = np.isfinite(self.high - self.low)
        sigma, span = np.sqrt(np.diag(density.covariance)), self.high - self.low
        away = np.where(self._bounded, np.minimum(AWAY * sigma, AWAY_AT_MOST * span), 0.0)
        middle = density.values.clip(self.low + away, self.high - away)
        with np.errstate(invalid="ignore"):
            slope = np.where(self._bounded, span / ((middle - self.low) * (self.high - middle)),
                             1.0)
        # What a fit says of a parameter is true up to where its limits say more.
        known = np.append(np.isfinite(np.diag(density.best.covariance)), True)[:len(sigma)]
        units = slope / np.hypot(1.0, np.where(self._bounded, slope * sigma / UNIFORM, 0.0))
        units = np.where(known | ~self._bounded, units, UNIFORM / sigma)
        self._middle = torch.as_tensor(self._of(middle))
        self._root = torch.as_tensor(units[:, None] * density.root)
        self._limits = tuple(torch.as_tensor(x) for x in (self._bounded, self.low, span))

    def z(self, theta: Array) -> Tensor:
        """Return z (n, n_free) of theta (n, n_free) inside the limits."""
        u = torch.as_tensor(self._of(theta))
        return torch.as_tensor(torch.linalg.solve(self._root, (u - self._middle).T).T)

    def theta(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return theta (n_free,) of z (n_free,), and ln |d theta / dz| up to a constant."""
        u = self._middle + self._root @ z
        bounded, low, span = self._limits
        v = torch.where(bounded, u, 0.0)
        volume = (logsigmoid(v) + logsigmoid(-v))[bounded].sum()
        return torch.where(bounded, low + span * torch.sigmoid(v), u), volume

    def _of(self, theta: Array) -> Array:
        with np.errstate(invalid="ignore"):
            share = ((theta - self.low) / (self.high - self.low)).clip(1e-9, 1.0 - 1e-9)
        return np.where(self._bounded, np.log(share / (1.0 - share)), theta)


def _own_limits(G: Array, h: Array) -> tuple[Array, Array]:
    """Return the limits low, high (n_free,) that G theta <= h sets to single parameters."""
    low, high = np.full(G.shape[1], -np.inf), np.full(G.shape[1], np.inf)
    for row, limit in zip(G, h, strict=True):
        if len(where := np.flatnonzero(row)) == 1:
            k, value = where[0], limit / row[where[0]]
            if row[k] > 0:
                high[k] = min(high[k], value)
            else:
                low[k] = max(low[k], value)
    return low, high


class Nuts:
    """Chains of Pyro's NUTS.

    Parameters
    ----------
    density : Density
    chains : int
    walkers : None
        A chain has one.
    seed : int

    Raises
    ------
    ModuleNotFoundError
        When Pyro is not installed.
    """

    name: ClassVar[str] = "nuts"
    block: ClassVar[int] = 50

    def __init__(
        self, density: Density, *, chains: int = 2, walkers: int | None = None, seed: int = 0
    ) -> None:
        try:
            from pyro.infer import NUTS
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "sampler='nuts' needs Pyro: pip install 'stellarfit[bayes]'") from error
        if walkers not in (None, 1):
            raise ValueError("a chain of sampler='nuts' has no walkers; give chains=")
        self.density, self._nuts = density, NUTS
        self._line = Unbounded(density)
        generators = [np.random.default_rng([seed, k]) for k in range(chains)]
        first = np.array([density.scattered(1, rng)[0] for rng in generators])
        self._z = self._line.z(first)
        self._random = [torch.Generator().manual_seed(int(rng.integers(2**62))).get_state()
                        for rng in generators]
        self._step_size = np.zeros(chains)   # 0: not warmed up yet
        self._diverged = np.zeros(chains, dtype=int)
        self._accepted = np.zeros(chains)    # the sum over steps of their acceptance probability
        self.chain = np.empty((chains, 0, 1, len(density)))
        self.log_probability = np.empty((chains, 0, 1))

    def advance(self, steps: int, tick: Callable[[], object]) -> None:
        """Take steps with every chain, the first time after a warm-up."""
        grown, known = [], []
        for k in range(len(self._z)):
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._random[k])
                if not self._step_size[k]:
                    self._warm_up(k)
                kernel = self._kernel(k, step_size=float(self._step_size[k]),
                                      adapt_step_size=False)
                thetas, logs = [], []
                for _ in range(steps):
                    self._z[k] = kernel.sample({"z": self._z[k].clone()})["z"]
                    theta, volume = self._line.theta(self._z[k].detach())
                    thetas.append(theta.numpy())
                    logs.append(-float(kernel._potential_energy_last) - float(volume)
                                if self.density.inside(thetas[-1]) else -np.inf)
                    tick()
                self._diverged[k] += len(kernel.diagnostics()["divergences"])
                self._accepted[k] += steps * kernel._mean_accept_prob
                self._random[k] = torch.get_rng_state()
            grown.append(np.array(thetas)[:, None])
            known.append(np.array(logs)[:, None])
        self.chain = np.concatenate([self.chain, grown], axis=1)
        self.log_probability = np.concatenate([self.log_probability, known], axis=1)

    def _kernel(self, k: int, **options: Any) -> Any:
        """Return Pyro's kernel where a chain is."""
        kernel = self._nuts(potential_fn=self._potential, adapt_mass_matrix=False,
                            max_tree_depth=DEEPEST, **options)
        kernel.initial_params = {"z": self._z[k].clone()}
        kernel.setup(WARM_UP if options.get("adapt_step_size", True) else 0)
        return kernel

    def _warm_up(self, k: int) -> None:
        """Find the step of a chain, and where it is by then."""
        kernel = self._kernel(k)
        for _ in range(WARM_UP):
            self._z[k] = kernel.sample({"z": self._z[k].clone()})["z"]
        self._step_size[k] = kernel.step_size

    def _potential(self, z: Mapping[str, Tensor]) -> Tensor:
        theta, volume = self._line.theta(z["z"])
        return -self.density.smooth(theta.to(self.density.problem.data.flux.device)).cpu() - volume

    def diagnose(self) -> Diagnosis:
        """Judge the samples so far, those beyond the prior left out."""
        taken = np.isfinite(self.log_probability)
        found = diagnose(inside(self.chain, self.log_probability), names=self.density.names,
                         warmed_up=True, acceptance_limits=ACCEPTANCE,
                         acceptance=float(self._accepted.sum() / max(1, taken.size)),
                         divergences=int(self._diverged.sum()))
        if taken.size and taken.mean() < LEAST_INSIDE:
            found = replace(found, reasons=(
                f"only {100 * taken.mean():.0f} % of the chain lies inside the prior",
                *found.reasons))
        return found

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return places, steps and generators of random numbers."""
        return {"z": self._z.detach().numpy().copy(), "step_size": self._step_size,
                "diverged": self._diverged, "accepted": self._accepted,
                "random": torch.stack(self._random).numpy()}

    def restore(
        self, chain: Array, log_probability: Array, state: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Go on from there."""
        self.chain, self.log_probability = chain, log_probability
        self._z = torch.as_tensor(np.array(state["z"]))
        self._step_size, self._diverged, self._accepted = (
            np.array(state[n]) for n in ("step_size", "diverged", "accepted"))
        self._random = [torch.as_tensor(np.array(r)) for r in state["random"]]
