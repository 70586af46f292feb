"""Posterior samples by emcee, on the batched model.

The likelihood is Gaussian in the noise as it is at the fit, with the continuum marginalised
under a flat prior (`continuum`).  The prior is uniform inside the polytope of the emulator's
domain and the limits of the stages, times the Gaussian ones that were given.  The ensemble
starts around the fit, with the fit's covariance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from emulators.files import atomic_write
from stellarfit.fitting import best_of, conclude
from stellarfit.problem import Problem, prepare
from stellarfit.result import FitResult, describe_parameter
from stellarfit.weighting import Weighting

Array = NDArray[np.float64]
#: a chain is long enough when it holds this many autocorrelation times (emcee's advice)
TIMES_TAU = 50.0
ACCEPTANCE = (0.1, 0.9)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of a star's parameters, and whether to believe them.

    Attributes
    ----------
    fit : FitResult
        Where the ensemble started.
    chain : (n_step, n_walker, n_free) float64
    log_probability : (n_step, n_walker) float64
    tau : (n_free,) float64
        Integrated autocorrelation time in steps.
    acceptance : float
        Mean fraction of accepted proposals.
    burn_in : int
        Steps at the beginning that :attr:`samples` leaves out.
    converged : bool
    verdict : str
        Why, in words.
    """

    fit: FitResult
    chain: Array
    log_probability: Array
    tau: Array
    acceptance: float
    burn_in: int
    converged: bool
    verdict: str

    @property
    def names(self) -> tuple[str, ...]:
        """Free parameters."""
        return self.fit.names

    @property
    def samples(self) -> Array:
        """Samples after burn-in, (n_sample, n_free)."""
        return self.chain[self.burn_in:].reshape(-1, self.chain.shape[-1])

    def summary(self) -> str:
        """Return medians, 68 % intervals and the verdict as a text to read."""
        low, median, high = np.percentile(self.samples, [15.87, 50.0, 84.13], axis=0)
        lines = [
            f"{self.fit.name or 'spectrum'}: "
            f"{'converged' if self.converged else 'NOT converged'}: {self.verdict}",
            f"acceptance {self.acceptance:.2f}, {len(self.samples)} samples, "
            f"emulator {self.fit.provenance['emulator']}", "",
            f"{'parameter':<10s} {'median':>10s} {'-':>9s} {'+':>9s} {'fit':>10s} {'tau':>6s}",
        ]
        for i, name in enumerate(self.names):
            lines.append(
                f"{name:<10s} {median[i]:10.3f} {median[i] - low[i]:9.3f} "
                f"{high[i] - median[i]:9.3f} {self.fit.values[i]:10.3f} {self.tau[i]:6.0f}"
            )
        return "\n".join(lines)

    def corner(self, path: str | Path | None = None) -> Any:
        """Draw all pairs of parameters; return the figure, or write it to `path`."""
        from stellarfit.plot import plot_corner

        return plot_corner(self, path)

    def to_table(self) -> Any:
        """Return an astropy Table of the samples, a column per parameter."""
        from astropy.table import Column, Table

        table = Table(meta={
            **self.fit.provenance, "converged": self.converged, "verdict": self.verdict,
            "acceptance": self.acceptance, "burn_in": self.burn_in, "tau": self.tau.tolist(),
        })
        for i, (name, unit) in enumerate(zip(self.names, self.fit.units, strict=True)):
            table[name] = Column(self.samples[:, i], unit=unit or None,
                                 description=describe_parameter(name))
        return table

    def save(self, path: str | Path) -> Path:
        """Write samples and provenance as a table (ECSV, FITS, ... by the suffix), atomically."""
        with atomic_write(path) as temporary:
            self.to_table().write(temporary)
        return Path(path)


def sample(
    spectrum: Any, flux: Any = None, *, sampler: str = "emcee", start: FitResult | None = None,
    max_steps: int = 3000, walkers: int | None = None, emulator_error: bool = True,
    seed: int = 0, progress: bool = True, **fit_options: Any,
) -> Posterior:
    """Sample the posterior of a star's parameters.

    Parameters
    ----------
    spectrum, flux
        As in :func:`stellarfit.fit`.
    sampler : {"emcee"}
    start : FitResult, optional
        Begin the fit that the ensemble starts from here, instead of searching.
    max_steps : int
        The ensemble stops earlier when it has converged.
    walkers : int, optional
        At least twice the number of free parameters; a good number by default.
    emulator_error : bool
        Add the emulator's own error, as it is at the fit, to the noise.
    seed : int
    progress : bool
        Show a progress bar.
    **fit_options
        ``instrument``, ``resolution``, ``free``, ... of :func:`stellarfit.fit`, all but
        its ``method``.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        As :func:`stellarfit.fit`, and for an unknown sampler or too few walkers.
    """
    if sampler != "emcee":
        raise ValueError(f"unknown sampler {sampler!r}; valid: emcee")
    if max_steps < 2:
        raise ValueError(f"max_steps must be at least 2, got {max_steps}")
    weighting = Weighting(emulator_error, **{
        n: fit_options.pop(n) for n in ("jitter", "robust", "correlation") if n in fit_options})
    problems = prepare([spectrum], flux, start=start, seed=seed, weighting=weighting,
                       **fit_options)
    n_free = len(problems[0].model.parameters)
    count = max(32, 2 * n_free + 2) if walkers is None else walkers
    if count < 2 * n_free:
        raise ValueError(
            f"{count} walkers are too few for {n_free} parameters; give at least {2 * n_free}"
        )
    with threadpool_limits(1, user_api="blas"):  # as in `fit`
        problem, solution, runner_up = best_of(problems)
        best = conclude(problem, solution, runner_up)[0]
    ensemble = emcee.EnsembleSampler(
        count, n_free, lambda theta: log_posterior(problem, theta), vectorize=True,
        moves=[(emcee.moves.DEMove(), 0.8), (emcee.moves.DESnookerMove(), 0.2)],
    )
    rng = np.random.default_rng(seed)
    ensemble.random_state = np.random.RandomState(seed).get_state()
    with threadpool_limits(1, user_api="blas"):
        _run(ensemble, _first_walkers(problem, best, count, rng), max_steps, progress)
    return _posterior(best, ensemble)


def log_posterior(problem: Problem, theta: Array) -> Array:
    """Return ln(posterior) up to a constant of theta, (n, n_free); -inf outside the prior."""
    data = problem.data
    inside = (theta @ data.G.T <= data.h[0]).all(axis=1)
    result = np.full(len(theta), -np.inf)
    if not inside.any():
        return result
    with torch.no_grad():
        model = problem.model(torch.as_tensor(theta[inside], device=problem.data.flux.device))
        same = torch.zeros(len(model), dtype=torch.long, device=model.device)
        solved = data.project(model, same)
    prior = (data.prior_residual(theta[inside], np.zeros(len(model), dtype=int)) ** 2).sum(-1)
    value = -0.5 * ((solved.chi2 + solved.log_determinant).cpu().numpy() + prior)
    result[inside] = np.where(np.isfinite(value), value, -np.inf)
    return result


def _first_walkers(
    problem: Problem, best: FitResult, count: int, rng: np.random.Generator
) -> Array:
    """Draw walkers from the fit's covariance, pulled into the prior where they leave it."""
    parameters = problem.model.parameters
    spread = np.where(np.isfinite(best.covariance), best.covariance, 0.0)
    loose = ~np.isfinite(np.diag(best.covariance))
    spread[loose, loose] = parameters.scale[loose] ** 2
    # Errors cannot be larger than the domain, whose size is some tens of typical sizes.
    shrink = np.minimum(1.0, 10.0 * parameters.scale / np.sqrt(np.diag(spread)))
    drawn = rng.multivariate_normal(np.zeros(len(spread)), spread, size=count) * shrink
    centre = best.values
    walkers = np.array([
        problem.data.nearest(centre + d, parameters.scale, 0) for d in drawn
    ])
    # Walkers on a face would span no volume there; towards their mean it is always inside.
    inner = walkers.mean(axis=0)
    outside = np.linalg.norm(walkers - centre - drawn, axis=1) > 0
    pull = rng.uniform(0.05, 0.95, size=(count, 1))
    walkers[outside] = (inner + pull * (walkers - inner))[outside]
    return walkers


def _run(ensemble: Any, walkers: Array, max_steps: int, progress: bool) -> None:
    """Take steps until the chain holds enough autocorrelation times, or `max_steps`."""
    quiet = None if progress else True
    with tqdm(total=max_steps, desc="emcee", unit="step", disable=quiet) as bar:
        for _ in ensemble.sample(walkers, iterations=max_steps):
            bar.update()
            if ensemble.iteration % 100 == 0:
                tau = _tau(ensemble)
                bar.set_postfix(tau=f"{np.nanmax(tau):.0f}")
                if np.isfinite(tau).all() and ensemble.iteration > 1.2 * TIMES_TAU * tau.max():
                    break


def _tau(ensemble: Any) -> Array:
    """Return the autocorrelation times (n_free,); NaN while a walker has not moved at all."""
    with np.errstate(invalid="ignore"):
        return np.asarray(ensemble.get_autocorr_time(tol=0))


def _posterior(best: FitResult, ensemble: Any) -> Posterior:
    tau = _tau(ensemble)
    steps, acceptance = ensemble.iteration, float(np.mean(ensemble.acceptance_fraction))
    longest = float(np.nanmax(tau)) if np.isfinite(tau).any() else np.inf
    problems = []
    if not np.isfinite(tau).all() or steps < TIMES_TAU * longest:
        problems.append(f"{steps} steps hold only {steps / longest:.0f} autocorrelation times "
                        f"(tau = {longest:.0f}); {TIMES_TAU:.0f} are needed")
    if not ACCEPTANCE[0] <= acceptance <= ACCEPTANCE[1]:
        problems.append(f"the acceptance of {acceptance:.2f} lies outside "
                        f"{ACCEPTANCE[0]}-{ACCEPTANCE[1]}")
    good = f"{steps} steps are {steps / longest:.0f} autocorrelation times"
    verdict = "; ".join(problems) or good
    burn_in = int(min(2.0 * longest, steps // 2)) if np.isfinite(longest) else steps // 2
    finished = replace(best, provenance={**best.provenance, "sampler": "emcee", "steps": steps})
    return Posterior(finished, ensemble.get_chain(), ensemble.get_log_prob(), tau, acceptance,
                     burn_in, not problems, verdict)
