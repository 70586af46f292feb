"""From an observed star to its labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emulators import Emulator
from stellarfit import optimize
from stellarfit.forward import refinement_for
from stellarfit.instrument import Instrument
from stellarfit.parameters import STAGES
from stellarfit.problem import DEFAULT_EMULATOR, Problem, prepare
from stellarfit.quality import Flag
from stellarfit.result import FitResult, relative_scatter

Array = NDArray[np.float64]
METHODS = ("lm", "adam")


def fit(
    spectrum: Any, flux: Any = None, *, instrument: str | Instrument | None = None,
    resolution: float | None = None, emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, continuum: int = 3, method: str = "lm",
    start: FitResult | None = None, emulator_error: bool = True, seed: int = 0,
    **spectrum_options: Any,
) -> FitResult:
    """Fit the labels of an observed star.

    Parameters
    ----------
    spectrum : path, Spectrum, specutils.Spectrum, or (n_pix,) wavelengths
    flux : (n_pix,) array, optional
        With bare wavelengths.
    instrument : str or Instrument, optional
        A preset's name; or give
    resolution : float, optional
        R = wavelength / FWHM of the line-spread function.
    emulator : str, path or Emulator
    free : sequence of str, optional
        Labels (``teff``, ``mg_h``), ratios (``mg_fe``) and ``rv``, ``vsini``,
        ``resolution``, ``epsilon``; `stellarfit.parameters.DEFAULT_FREE` by default.  An
        element that nobody mentions follows iron.
    fixed : mapping of str to float, optional
    tied : mapping of str to str, optional
        ``{"ca_fe": "mg_fe"}``: calcium moves with magnesium.
    continuum : int
        Degree of the Chebyshev polynomial that multiplies the model, solved exactly and
        marginalised in the errors.
    method : {"lm", "adam"}
        Levenberg-Marquardt, or plain gradient descent.
    start : FitResult, optional
        Go on from an earlier result instead of searching.
    emulator_error : bool
        Add the emulator's own error, where it has been measured, to the noise.
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
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    clock = time.perf_counter()
    problem = prepare(
        spectrum, flux, instrument=instrument, resolution=resolution, emulator=emulator,
        free=free, fixed=fixed, tied=tied, continuum=continuum, start=start, seed=seed,
        **spectrum_options,
    )
    problem, solution = minimise(problem, method, emulator_error=emulator_error)
    result = conclude(problem, solution)
    result.provenance.update(method=method, seconds=round(time.perf_counter() - clock, 3))
    return result


def minimise(
    problem: Problem, method: str, *, emulator_error: bool = True
) -> tuple[Problem, optimize.Solution]:
    """Return where an optimiser of ``METHODS`` ends from the best of the first guesses.

    The emulator's error depends on the star: it is taken at the first guess, and once more
    where that led to.  The problem that is returned holds it.
    """
    optimiser = optimize.adam if method == "adam" else optimize.levenberg_marquardt
    theta = _best_start(problem)
    if emulator_error:
        problem = problem.with_emulator_error(theta[0])
    solution = optimiser(problem.model, problem.data, theta)
    if emulator_error and problem.model.emulator.errors is not None:
        problem = problem.with_emulator_error(solution.theta[0])
        iterations = solution.iterations
        solution = optimiser(problem.model, problem.data, solution.theta)
        solution = replace(solution, iterations=solution.iterations + iterations)
    return problem, solution


def _best_start(problem: Problem, candidates: int = 8) -> Array:
    """Return the first guess with the lowest true chi-square, (1, n_free)."""
    guesses = np.array([s.theta for s in problem.starts[:candidates]])
    if len(guesses) == 1:
        return guesses
    with torch.no_grad():
        flux = problem.model(torch.as_tensor(guesses, device=problem.data.flux.device))
        same = torch.zeros(len(guesses), dtype=torch.long, device=flux.device)
        chi2 = problem.data.project(flux, same).chi2
    return guesses[[int(chi2.argmin())]]


def conclude(problem: Problem, solution: optimize.Solution) -> FitResult:
    """Return a solution as a result: labels, errors, model, flags."""
    model, data, parameters = problem.model, problem.data, problem.model.parameters
    theta = solution.theta[0]
    covariance, unconstrained = optimize.covariance(solution.information[0], parameters.scale)
    with torch.no_grad():
        normalised = model(torch.as_tensor(solution.theta, device=data.flux.device))
        solved = data.project(normalised, torch.zeros(1, dtype=torch.long))
        continuum = solved.continuum[0].cpu().numpy()
    fitted = normalised[0].double().cpu().numpy() * continuum
    used = problem.used
    finite = np.where(np.isfinite(covariance), covariance, 0.0)
    label_variance = np.einsum("ij,jk,ik->i", parameters.A, finite, parameters.A)
    label_variance[(parameters.A[:, unconstrained] != 0).any(axis=1)] = np.inf
    result = FitResult(
        names=parameters.names, values=theta, covariance=covariance, units=parameters.units,
        label_names=parameters.labels.names, label_values=parameters.A @ theta + parameters.b,
        label_errors=np.sqrt(np.maximum(label_variance, 0.0)), chi2=float(solution.chi2[0]),
        dof=int(used.sum()) - len(theta) - data.terms.shape[1],
        converged=bool(solution.converged[0]), iterations=int(solution.iterations[0]), flags=0,
        spectrum=problem.spectrum, used=used, model=fitted, continuum=continuum,
        provenance={**problem.provenance, "at_limit": parameters.at_limit(theta)},
    )
    return replace(result, flags=int(_flags(problem, result, bool(unconstrained.any()))))


def _flags(problem: Problem, result: FitResult, unconstrained: bool) -> Flag:
    """Judge a result; the limits are those documented in `quality`."""
    emulator, spectrum, used = problem.model.emulator, problem.spectrum, result.used
    low, high = np.log(emulator.wavelength_range)
    span = np.gradient(np.log(spectrum.wavelength))[used].sum() / (high - low)
    at_limit = result.provenance["at_limit"]
    scatter = relative_scatter(spectrum.flux, result.model, result.continuum, used)
    chi2_scatter = np.sqrt(2.0 / max(1, result.dof))
    depth = float(np.sqrt(np.mean((1.0 - result.model / result.continuum)[used] ** 2)))
    refinement = refinement_for(emulator, problem.instrument.resolution)
    return Flag(sum(flag for flag, raised in (
        (Flag.EDGE_OF_DOMAIN, any(n not in STAGES for n in at_limit)),
        (Flag.PRIOR_RANGE_OF_RV, "rv" in at_limit),
        (Flag.NOT_CONVERGED, not result.converged),
        (Flag.LITTLE_COVERAGE, span < 0.5),
        (Flag.POOR_FIT, result.reduced_chi2 > 3.0 and scatter > min(0.04, 0.5 * depth)),
        (Flag.MODEL_LIMITED, result.reduced_chi2 > max(1.2, 1.0 + 5.0 * chi2_scatter)),
        (Flag.NOISE_ESTIMATED, spectrum.noise_estimated),
        (Flag.BEYOND_TRAINING_SAMPLING, refinement > 1),
        (Flag.UNCONSTRAINED, unconstrained),
        (Flag.LOW_SNR, spectrum.snr < 10.0),
        (Flag.MEDIUM_OVERRULED, "medium_overruled" in spectrum.meta),
    ) if raised))
