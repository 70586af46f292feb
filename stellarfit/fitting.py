"""From observed stars to their labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from emulators import Emulator
from emulators.labels import is_abundance
from stellarfit import optimize
from stellarfit.calibration import Calibration
from stellarfit.observation import as_list
from stellarfit.parameters import stage_of
from stellarfit.preparing import DEFAULT_EMULATOR, in_batches
from stellarfit.priors import Prior
from stellarfit.problem import Problem
from stellarfit.quality import Flag
from stellarfit.result import FitResult
from stellarfit.weighting import LARGEST_FRACTION, Weighting

Array = NDArray[np.float64]
METHODS: dict[str, Callable[..., optimize.Solution]] = {
    "lm": optimize.levenberg_marquardt, "adam": optimize.adam}
#: stars of a batch that are in memory together, some 60 MB each with many pixels
AT_ONCE = 32


def fit(
    spectrum: Any, flux: Any = None, *, instrument: Any = None, resolution: Any = None,
    emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, priors: Mapping[str, Prior | str] | None = None,
    continuum: Any = 3, method: str = "lm", start: FitResult | None = None,
    emulator_error: bool = True, calibration: str | Path | Calibration | None = None,
    jitter: bool = True, robust: bool = True, correlation: float = 0.0, seed: int = 0,
    **spectrum_options: Any,
) -> FitResult:
    """Fit the labels of an observed star.

    Parameters
    ----------
    spectrum : path, Spectrum, specutils.Spectrum, or (n_pix,) wavelengths
        Or a list, or a mapping of names, of the first three: arms, orders or exposures of
        one star, fitted together.  One outside the emulator's range is left out and reported.
    flux : (n_pix,) array, optional
        With bare wavelengths.
    instrument : str or Instrument, optional
        A preset's name, a file of wavelength and R, or an `Instrument`; or give
    resolution : float, optional
        R = wavelength / FWHM of the line-spread function.  Neither is needed where the file
        brings its own.  Both, and `continuum`, may be lists or mappings with one per arm.
    emulator : str, path or Emulator
    free : sequence of str, optional
        Labels (``teff``, ``mg_h``), ratios (``mg_fe``) and ``rv``, ``vsini``, ``vmac``,
        ``resolution``, ``epsilon``, with several arms also ``rv_NAME`` and
        ``resolution_NAME``; `stellarfit.parameters.DEFAULT_FREE` by default.  An element
        that nobody mentions follows iron.
    fixed : mapping of str to float, optional
    tied : mapping of str to str, optional
        ``{"ca_fe": "mg_fe"}``: calcium moves with magnesium.
    priors : mapping of str to Gaussian, Uniform or Colour, optional
        On free parameters and on what they move (`stellarfit.priors`), or their spelling:
        ``{"logg": "gaussian:4.4:0.1", "teff": "bp_rp:0.82:0.02"}``.
    continuum : int, str or Continuum
        Degree of the Chebyshev polynomial that multiplies the model; ``spline:20`` for knots
        every 20 Å; ``chebyshev:2:5200`` for pieces that break at 5200 Å; ``normalised`` for a
        spectrum divided by its continuum already.  Solved exactly and marginalised in the
        errors.
    method : {"lm", "adam"}
        Levenberg-Marquardt, or plain gradient descent.
    start : FitResult, optional
        Go on from an earlier result instead of searching.
    emulator_error : bool
        Add the emulator's own error, where it has been measured, to the noise.
    calibration : path or Calibration, optional
        Add what the physics gets wrong in a star of known labels (`stellarfit.calibrate`).
    jitter : bool
        Where residuals exceed the noise, add to it the same fraction of the continuum
        everywhere, so that errors are not smaller than the fit deserves.
    robust : bool
        Weigh outliers down.
    correlation : float
        Of the noise of neighbouring pixels, where the spectrum has been resampled.
    seed : int
        Of the template labels of the search.
    **spectrum_options
        ``medium=``, ``ivar=``, ``uncertainty=``, ``mask=`` for arrays; ``medium=``,
        ``format=``, ``hdu=`` for a file.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError
        For a spectrum that cannot be used (with the reason), unknown parameters, and a
        resolution that was not given.
    FileNotFoundError
        When there is no such file or emulator.

    Examples
    --------
    >>> result = fit("star.fits", instrument="harps")               # doctest: +SKIP
    >>> result.labels["teff"], result.errors["teff"]                # doctest: +SKIP
    >>> both = fit({"blue": "b.fits", "red": "r.fits"}, resolution={"blue": 2e4, "red": 3e4},
    ...            free=["teff", "logg", "vmic", "fe_h", "rv_blue", "rv_red"])  # doctest: +SKIP
    """
    return _fit(
        [spectrum], flux, method, instrument=instrument, resolution=resolution,
        emulator=emulator, free=free, fixed=fixed, tied=tied, priors=priors,
        continuum=continuum, start=start, calibration=calibration,
        weighting=Weighting(emulator_error, jitter, robust, correlation), seed=seed,
        **spectrum_options,
    )[0]


def fit_batch(
    spectra: Sequence[Any], *, method: str = "lm", emulator_error: bool = True,
    jitter: bool = True, robust: bool = True, correlation: float = 0.0, **options: Any,
) -> list[FitResult]:
    """Fit stars that share their pixels side by side, which is faster than one by one.

    Parameters
    ----------
    spectra : sequence
        Of what :func:`fit` takes as `spectrum`, all on the same wavelengths; masks differ.
    **options
        The others of :func:`fit`, the same for all stars.

    Returns
    -------
    list of FitResult
        In the order of the spectra.

    Raises
    ------
    ValueError
        As :func:`fit`, for spectra on other wavelengths than the first, and a single spectrum.

    Examples
    --------
    >>> results = fit_batch(["a.fits", "b.fits"], instrument="harps")   # doctest: +SKIP
    """
    return _fit(as_list(spectra), None, method,
                weighting=Weighting(emulator_error, jitter, robust, correlation), **options)


def _fit(spectra: list[Any], flux: Any, method: str, **options: Any) -> list[FitResult]:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    if not spectra:
        return []
    clock = time.perf_counter()
    # The threads of numpy's linear algebra, idle but awake, would slow torch's down.
    with threadpool_limits(1, user_api="blas"):
        results = [result for problems in in_batches(spectra, flux, at_once=AT_ONCE, **options)
                   for result in conclude(*best_of(problems, method))]
    seconds = round((time.perf_counter() - clock) / len(results), 3)
    for result in results:
        result.provenance.update(method=method, seconds=seconds)
    return results


def best_of(
    problems: Sequence[Problem], method: str = "lm"
) -> tuple[Problem, optimize.Solution, Array]:
    """Return the problem whose minimum is the lowest, solved, and the gap to the runner-up.

    The gap, per star, is the difference of chi-square between the best velocity and the
    next: of fits where several were tried, else of templates; negative where a better one
    could not be fitted.
    """
    solved = [minimise(p, method) for p in problems]
    chi2 = [p.given_chi2(s.theta, np.all([q.used for q in problems], axis=0)) for p, s in solved]
    order = np.argsort(np.ravel(chi2)) if len(solved) > 1 else [0]
    problem, solution = solved[int(order[0])]
    tried = {id(p.stars[0].start) for p in problems}
    gap = np.array([star.start.gain - max(
        (m[0].gain for m in star.modes if m[0] is not star.start and id(m[0]) not in tried),
        default=-np.inf) for star in problem.stars])
    if len(solved) > 1:
        gap = np.minimum(gap, chi2[int(order[1])] - chi2[int(order[0])])
    return problem, solution, gap


def minimise(problem: Problem, method: str = "lm") -> tuple[Problem, optimize.Solution]:
    """Return where an optimiser of ``METHODS`` ends from the best of the first guesses.

    Errors of emulator and calibration, outliers, jitter and colours depend on the star: they
    are taken anew as it moves.  The problem that is returned holds them.
    """

    def weigh(
        theta: Array, stars: NDArray[np.int64], ending: NDArray[np.bool_]
    ) -> optimize.Data:
        nonlocal problem
        problem = problem.at(theta, stars, ending)
        return problem.data

    solution = METHODS[method](problem.model, problem.data, _best_starts(problem), weigh=weigh)
    return problem, solution


def _best_starts(problem: Problem) -> Array:
    """Return each star's first guess with the lowest true chi-square, (n_star, n_free)."""
    scale = problem.model.parameters.scale
    guesses = [(i, problem.data.nearest(guess.theta, scale, i))
               for i, star in enumerate(problem.stars)
               for guess in next(m for m in star.modes if m[0] is star.start)]
    owner, theta = (np.array(x) for x in zip(*guesses, strict=True))
    chi2 = optimize.chi_square(problem.model, problem.data, theta, owner)
    return np.array([theta[owner == i][np.argmin(chi2[owner == i])]
                     for i in range(len(problem.stars))])


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
