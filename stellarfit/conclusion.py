"""From where a fit ended to what it says: labels, errors, verdicts, flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emulators.labels import is_abundance
from stellarfit import optimize
from stellarfit.parameters import stage_of
from stellarfit.problem import Problem
from stellarfit.quality import Flag
from stellarfit.result import FitResult
from stellarfit.weighting import LARGEST_FRACTION

Array = NDArray[np.float64]


def conclude(
    problem: Problem, solution: optimize.Solution, runner_up: Array | None = None
) -> list[FitResult]:
    """Return a solution as results, one per star: labels, errors, model, flags."""
    normalised, solved = problem.solve(solution.theta)
    continuum = solved.continuum.cpu().numpy()
    chi2 = solved.chi2.cpu().numpy()
    coefficients, own = (x.cpu().numpy() for x in (solved.coefficients, solved.covariance))
    gaps = np.full(len(problem.stars), np.inf) if runner_up is None else runner_up
    problem.extra["emulator_share"] = problem.emulator_share(solution)
    errors = [optimize.covariance(information, problem.model.parameters.scale)
              for information in solution.information]
    said = verdicts(problem, solution.theta, [covariance for covariance, _ in errors])
    results = []
    for i, model in enumerate(normalised * continuum):
        results.append(_result(
            problem, solution, i, *errors[i], verdicts=said[i], model=model,
            continuum=continuum[i], coefficients=coefficients[i], own=own[i], gap=float(gaps[i]),
            chi2=problem.chi2_of(i, model, float(chi2[i]))))
    return results


def _result(
    problem: Problem, solution: optimize.Solution, i: int, covariance: Array,
    unconstrained: NDArray[np.bool_], *, verdicts: dict[str, str], model: Array, continuum: Array,
    coefficients: Array, own: Array, chi2: float, gap: float,
) -> FitResult:
    """Return the result of one star."""
    parameters, star, theta = problem.model.parameters, problem.stars[i], solution.theta[i]
    theta = np.where(np.abs(theta) < 1e-9 * parameters.scale, 0.0, theta)  # rounded at a limit
    information = solution.information[i]
    finite = np.where(np.isfinite(covariance), covariance, 0.0)
    label_variance = np.einsum("ij,jk,ik->i", parameters.A, finite, parameters.A)
    label_variance[(parameters.A[:, unconstrained] != 0).any(axis=1)] = np.inf
    used, rows = problem.used[i], len(coefficients)
    at_limit = parameters.at_limit(theta)
    rv_rows = [parameters.stages.index(n) for n in parameters.stages if stage_of(n) == "rv"]
    with np.errstate(divide="ignore", invalid="ignore"):
        conditional = 1.0 / np.sqrt(np.diag(information))
    observation = star.observation
    result = FitResult(
        names=parameters.names, values=theta, covariance=covariance,
        conditional_errors=conditional, units=parameters.units,
        label_names=parameters.labels.names, label_values=parameters.A @ theta + parameters.b,
        label_errors=np.sqrt(np.maximum(label_variance, 0.0)), coefficients=coefficients,
        full_covariance=_full_covariance(finite, solution.slope[i], own),
        verdicts=verdicts, chi2=chi2,
        dof=int(used.sum()) - len(theta) - rows, converged=bool(solution.converged[i]),
        iterations=int(solution.iterations[i]), flags=0, spectra=observation.spectra,
        arms=tuple(a.name for a in observation.arms),
        rvs=(parameters.stage_A @ theta + parameters.stage_b)[rv_rows],
        used=used, model=model, continuum=continuum,
        provenance={**problem.provenance, "at_limit": at_limit,
                    "frame": ", ".join(dict.fromkeys(s.frame for s in observation.spectra)),
                    "left_out": observation.left_out,
                    "runner_up": gap if np.isfinite(gap) else None,
                    **{k: float(v[i]) for k, v in problem.extra.items()}},
    )
    return replace(result, flags=int(_flags(problem, result, i, bool(unconstrained.any()), gap)))


def _full_covariance(covariance: Array, slope: Array, own: Array) -> Array:
    """Return the covariance of parameters and continuum coefficients together.

    The coefficients are best at every theta: to `own`, their covariance at fixed theta,
    comes what that of the parameters does through `slope` = da/dtheta.
    """
    cross = slope @ covariance
    return np.block([[covariance, cross.T], [cross, own + cross @ slope.T]])


#: an error of this fraction of what a uniform prior over the domain allows says nothing
NOTHING = 0.7
#: an abundance is measured when the lowest one in the domain is worse by this much
DETECTED = 9.0
#: an abundance this many of its errors above the lowest is measured
CLEARLY = 30.0


def verdicts(
    problem: Problem, theta: Array, covariances: Sequence[Array]
) -> list[dict[str, str]]:
    """Say of each free abundance of each star, at theta (n_star, n_free), whether it is measured.

    ``no information``: its error is nearly what a uniform distribution over the emulator's
    domain has.  ``upper limit``: with the element as low as the domain allows, and all other
    parameters following along their correlation, chi-square rises by less than ``DETECTED``.
    Nobody needs to ask where that lies `CLEARLY` away.
    """
    parameters = problem.model.parameters
    elements = [k for k, n in enumerate(parameters.names)
                if stage_of(n) is None and n != "fe_h"
                and (is_abundance(n) or n.endswith("_fe"))]
    low, high = parameters.box
    found: list[dict[str, str]] = [{} for _ in theta]
    doubtful, lowered = [], []
    for i, (place, covariance) in enumerate(zip(theta, covariances, strict=True)):
        variance = np.diag(covariance)
        for k in elements:
            name, prior = parameters.names[k], (high[k] - low[k]) ** 2 / 12.0
            found[i][name] = "measured"
            if not variance[k] < NOTHING**2 * prior:
                found[i][name] = "no information"
            elif place[k] - low[k] <= CLEARLY * np.sqrt(variance[k]):
                slope = np.where(np.isfinite(covariance[:, k]), covariance[:, k], 0.0) / variance[k]
                moved = place + slope * (low[k] - place[k])
                moved[k] = low[k]
                doubtful.append((i, name))
                lowered.append(problem.data.nearest(moved, parameters.scale, i))
    if doubtful:
        stars = np.array([i for i, _ in doubtful])
        own = list(dict.fromkeys(stars.tolist()))
        chi2 = optimize.chi_square(problem.model, problem.data, np.array([*theta[own], *lowered]),
                                   np.array([*own, *stars]))
        at_minimum = dict(zip(own, chi2, strict=False))
        for (i, name), value in zip(doubtful, chi2[len(own):], strict=True):
            if not value - at_minimum[i] > DETECTED:
                found[i][name] = "upper limit"
    return found


def _flags(
    problem: Problem, result: FitResult, i: int, unconstrained: bool, gap: float
) -> Flag:
    """Judge a result; the limits are those documented in `quality`."""
    emulator, used, spectra = problem.model.emulator, result.used, result.spectra
    low, high = np.log(emulator.wavelength_range)
    span = sum(np.gradient(np.log(a.wavelength))[a.used].sum() for a in result.by_arm())
    at_limit = result.provenance["at_limit"]
    scatter = result.residual_rms
    chi2_scatter = np.sqrt(2.0 / max(1, result.dof))
    depth = float(np.sqrt(np.mean((1.0 - result.model / result.continuum)[used] ** 2)))
    inside = np.concatenate([(s.wavelength > np.exp(low)) & (s.wavelength < np.exp(high))
                             for s in spectra])
    bad = np.concatenate([~s.good for s in spectra])
    outliers = float(problem.extra["outliers"][i]) if "outliers" in problem.extra else 0.0
    residual = problem.data.prior_residual(result.values[None], np.array([i]))
    jitter = result.provenance.get("jitter", 0.0)
    excess = result.provenance.get("excess", result.reduced_chi2)
    kinds = set(result.verdicts.values())
    return Flag(sum(flag for flag, raised in (
        (Flag.EDGE_OF_DOMAIN, any(stage_of(n) is None for n in at_limit)),
        (Flag.PRIOR_RANGE_OF_RV, _rv_at_limit(problem, result, i)),
        (Flag.NOT_CONVERGED, not result.converged),
        (Flag.LITTLE_COVERAGE, span < 0.5 * (high - low)),
        (Flag.POOR_FIT, (excess > 3.0 and scatter > min(0.04, 0.5 * depth))
         or (used.any() and not np.median(result.continuum[used]) > 0)),
        (Flag.MODEL_LIMITED, excess > max(1.2, 1.0 + 5.0 * chi2_scatter)),
        (Flag.NOISE_ESTIMATED, any(s.noise_estimated for s in spectra)),
        (Flag.BEYOND_TRAINING_SAMPLING, any(
            c.refinement > 1 and c.arm.matrix is None for c in problem.model.cameras)),
        (Flag.UNCONSTRAINED, unconstrained),
        (Flag.LOW_SNR, result.snr < 10.0),
        (Flag.MEDIUM_OVERRULED, any("medium_overruled" in s.meta for s in spectra)),
        (Flag.AMBIGUOUS_RV, gap < 9.0 * max(1.0, excess)),
        (Flag.ARM_LEFT_OUT, bool(result.provenance["left_out"])),
        (Flag.MANY_MASKED, inside.any() and bad[inside].mean() > 0.2),
        (Flag.UPPER_LIMIT, "upper limit" in kinds),
        (Flag.NO_INFORMATION, "no information" in kinds),
        (Flag.MANY_OUTLIERS, outliers > 0.99 * LARGEST_FRACTION),
        (Flag.LARGE_JITTER, jitter > 1.0 / max(result.snr, 1e-9)),
        (Flag.PRIOR_TENSION, bool((np.abs(residual) > 3.0).any())),
        (Flag.EMULATOR_LIMITED, problem.extra["emulator_share"][i] > 0.5),
        (Flag.STAGE_AT_LIMIT, any(stage_of(n) not in (None, "rv") for n in at_limit)),
    ) if raised))


def _rv_at_limit(problem: Problem, result: FitResult, i: int) -> bool:
    """Return whether a velocity stands at the end of the range around its first guess."""
    data, scale = problem.data, problem.model.parameters.scale
    near = (data.h[i] - data.G @ result.values) < 1e-3 * (np.abs(data.G) @ scale)
    return any(stage_of(result.names[k]) == "rv" for row in data.G[near]
               for k in np.flatnonzero(row))
