"""Whether samples may be believed: what decides the word "converged".

- tau, the integrated autocorrelation time in steps, by Goodman & Weare's estimate as emcee
  computes it (Foreman-Mackey et al. 2013, PASP 125, 306): a chain holds `TIMES_TAU` of them.
- The effective sample size, samples / tau, is at least `LEAST_ESS` for every parameter.
- Split R-hat: the chains, each cut into halves, agree about the mean (Gelman et al. 2013,
  *Bayesian Data Analysis*, 3rd ed., eq. 11.4): at most `LARGEST_RHAT` (the limit of Vehtari et al.
  2021, Bayesian Anal. 16, 667).  So do single walkers, which stay apart where there are several
  modes that none leaves; each has fewer samples, hence `LARGEST_OF_WALKERS`.
- The mean acceptance is in `ACCEPTANCE`, no trajectory diverged, and no walker is stuck.
"""

from __future__ import annotations

from dataclasses import dataclass

import emcee
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TIMES_TAU = 50.0
LEAST_ESS = 400.0
LARGEST_RHAT = 1.01
LARGEST_OF_WALKERS = 1.1
ACCEPTANCE = (0.1, 0.97)
#: a walker whose moves are this fraction of the median's is stuck
STUCK = 0.1


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is known of the quality of samples.

    Attributes
    ----------
    tau, ess, rhat : (n_free,) float64
        NaN where nothing has moved yet; R-hat also where there are no chains to compare.
    acceptance : float
    divergences : int
    stuck : int
        Walkers.
    burn_in : int
        Steps at the beginning that are no samples.
    reasons : tuple of str
        Against believing them.
    """

    tau: Array
    ess: Array
    rhat: Array
    acceptance: float
    divergences: int
    stuck: int
    burn_in: int
    reasons: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """Why or why not, in words."""
        if self.reasons:
            return "; ".join(self.reasons)
        known = np.isfinite(self.rhat)
        return (f"at least {np.min(self.ess):.0f} independent samples of every parameter"
                + (f", split R-hat up to {np.max(self.rhat[known]):.4f}" if known.any() else ""))


def diagnose(
    chain: Array, *, names: tuple[str, ...], acceptance_limits: tuple[float, float] = ACCEPTANCE,
    divergences: int = 0, warmed_up: bool = False, acceptance: float | None = None,
) -> Diagnosis:
    """Judge samples.

    Parameters
    ----------
    chain : (n_chain, n_step, n_walker, n_free) array
        Independent chains or ensembles.
    names : tuple of str
        Of the parameters.
    divergences : int
    warmed_up : bool
        Whether the chain begins where its sampler had already found the posterior.
    acceptance : float, optional
        Of the sampler; otherwise how often walkers moved.
    """
    n_chain, n_step, n_walker = chain.shape[:3]
    tau = autocorrelation_time(chain)
    longest = float(np.max(tau)) if np.isfinite(tau).all() else np.inf
    burn_in = 0 if warmed_up else int(min(np.ceil(2.0 * longest), n_step // 2)) if np.isfinite(
        longest) else n_step // 2
    kept = chain[:, burn_in:]
    ess = n_chain * kept.shape[1] * n_walker / tau
    rhat = split_rhat(kept)
    moves = (np.diff(chain, axis=1) != 0).any(-1).mean(1) if n_step > 1 else np.zeros(
        (n_chain, n_walker))
    accepted = float(moves.mean()) if acceptance is None else acceptance
    stuck = int((moves <= STUCK * np.median(moves)).sum()) if n_walker > 1 else int(
        (moves == 0).sum())
    reasons = []
    if not np.isfinite(longest):
        reasons.append("nothing has moved yet")
    elif n_step - burn_in < TIMES_TAU * longest:
        worst = names[int(np.argmax(tau))]
        reasons.append(f"{n_step - burn_in} steps hold only {(n_step - burn_in) / longest:.0f} "
                       f"autocorrelation times of {worst} (tau = {longest:.1f}); "
                       f"{TIMES_TAU:.0f} are needed")
    if np.isfinite(longest) and (ess < LEAST_ESS).any():
        worst = names[int(np.argmin(ess))]
        reasons.append(f"only {np.min(ess):.0f} independent samples of {worst}; "
                       f"{LEAST_ESS:.0f} are needed")
    walkers = np.moveaxis(kept, 2, 1).reshape(-1, kept.shape[1], 1, kept.shape[3])
    for who, value, most in (("chains", rhat, LARGEST_RHAT),
                             ("walkers", split_rhat(walkers), LARGEST_OF_WALKERS)):
        if (value > most).any():
            k = int(np.nanargmax(value))
            reasons.append(f"{who} disagree about {names[k]} (split R-hat {value[k]:.3f}, "
                           f"at most {most:g} is allowed)")
            break
    if not acceptance_limits[0] <= accepted <= acceptance_limits[1]:
        reasons.append(f"the acceptance of {accepted:.2f} lies outside "
                       f"{acceptance_limits[0]:g}-{acceptance_limits[1]:g}")
    if stuck:
        reasons.append(f"{stuck} of {n_chain * n_walker} walkers are stuck")
    if divergences:
        reasons.append(f"{divergences} trajectories diverged")
    return Diagnosis(tau, ess, rhat, accepted, divergences, stuck, burn_in, tuple(reasons))


def autocorrelation_time(chain: Array) -> Array:
    """Return tau (n_free,), in steps, the mean over chains, of walkers that move; NaN without any.

    A chain whose neighbours avoid each other counts for no more than its steps: tau is at least 1.
    """
    if chain.shape[1] < 4:
        return np.full(chain.shape[-1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        moving = [c[:, (np.diff(c, axis=0) != 0).any((0, 2))] for c in chain]
        if any(c.shape[1] == 0 for c in moving):
            return np.full(chain.shape[-1], np.nan)
        each = [emcee.autocorr.integrated_time(c, tol=0) for c in moving]
    return np.asarray(np.maximum(np.mean(each, axis=0), 1.0))


def inside(chain: Array, log_probability: Array) -> Array:
    """Return a chain without the points that are no samples (-inf), as long as all have."""
    taken = np.asarray(np.isfinite(log_probability).all(-1))      # (n_chain, n_step)
    steps = int(taken.sum(1).min(initial=chain.shape[1]))
    return np.array([c[t][:steps] for c, t in zip(chain, taken, strict=True)])


def split_rhat(chain: Array) -> Array:
    """Return split R-hat (n_free,) of chains (n_chain, n_step, n_walker, n_free)."""
    half = chain.shape[1] // 2
    if half < 2:
        return np.full(chain.shape[-1], np.nan)
    parts = np.concatenate([chain[:, :half], chain[:, -half:]])
    flat = parts.reshape(len(parts), -1, chain.shape[-1])
    within = flat.var(axis=1, ddof=1).mean(axis=0)
    between = flat.mean(axis=1).var(axis=0, ddof=1)
    n = flat.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + between / within))
