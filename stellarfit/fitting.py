"""From observed stars to their labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from emulators import Emulator
from stellarfit import optimize
from stellarfit.calibration import Calibration
from stellarfit.conclusion import conclude
from stellarfit.observation import as_list
from stellarfit.preparing import DEFAULT_EMULATOR, in_batches
from stellarfit.priors import Prior
from stellarfit.problem import Problem
from stellarfit.result import FitResult
from stellarfit.weighting import Weighting

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
        ``resolution_NAME``.  By default those of ``teff, logg, vmic, fe_h, mg_fe, c_fe, ca_fe,
        ti_fe, cr_fe, mn_fe, co_fe, ni_fe, nd_fe, rv, vsini`` that the emulator has.  An element
        that nobody mentions follows iron; a velocity, rotation or macroturbulence that nobody
        mentions is held at 0.
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
