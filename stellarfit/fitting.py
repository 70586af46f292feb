"""From an observed star to its labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import emulators
from emulators import Emulator
from stellarfit import optimize
from stellarfit.continuum import basis
from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.forward import ForwardModel, refinement_for
from stellarfit.instrument import Instrument, instrument_for
from stellarfit.parameters import STAGES, Parameters, make_parameters
from stellarfit.quality import Flag
from stellarfit.readers import read
from stellarfit.result import FitResult, relative_scatter
from stellarfit.search import Start, search
from stellarfit.spectrum import Spectrum, from_specutils

Array = NDArray[np.float64]
DEFAULT_EMULATOR = "mgb-fgk"
METHODS = ("lm", "adam")
#: how far (km/s) rv may move from its first guess
RV_MARGIN = 30.0
FEWEST_PIXELS = 20


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a fit and a sampler need to know of one star.

    Attributes
    ----------
    spectrum : Spectrum
        Its pixels that overlap the emulator, in the emulator's medium.
    model : ForwardModel
    data : optimize.Data
        One row; weights are 0 where a pixel is not used.
    starts : list of Start
        First guesses, the best first.
    instrument : Instrument
    provenance : dict
    """

    spectrum: Spectrum
    model: ForwardModel
    data: optimize.Data
    starts: list[Start]
    instrument: Instrument
    provenance: dict[str, Any]

    @property
    def used(self) -> NDArray[np.bool_]:
        """Pixels that enter, (n_pix,) bool."""
        return np.asarray(self.data.weight[0].cpu().numpy() > 0)


def fit(
    spectrum: Any, flux: Any = None, *, instrument: str | Instrument | None = None,
    resolution: float | None = None, emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, continuum: int = 3, method: str = "lm",
    start: FitResult | None = None, seed: int = 0, **spectrum_options: Any,
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
    solution = _minimise(problem, method)
    problem.provenance.update(method=method, seconds=round(time.perf_counter() - clock, 3))
    return _result(problem, solution)


def prepare(
    spectrum: Any, flux: Any = None, *, instrument: str | Instrument | None = None,
    resolution: float | None = None, emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, continuum: int = 3,
    start: FitResult | None = None, seed: int = 0, **spectrum_options: Any,
) -> Problem:
    """Set up the fit of one star; parameters as in :func:`fit`."""
    observed = as_spectrum(spectrum, flux, **spectrum_options)
    if not isinstance(emulator, Emulator):
        emulator = emulators.load(emulator)
    instrument = instrument_for(instrument, resolution)
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=free, fixed=fixed, tied=tied,
        resolution=instrument.resolution,
    )
    observed = overlap(observed, emulator)
    ivar = np.where(observed.good, observed.ivar, 0.0)
    starts = [_start_of(start, parameters)] if start is not None else search(
        emulator, parameters, observed.wavelength, observed.flux, ivar,
        resolution=instrument.resolution, seed=seed,
    )
    rv, rotation = starts[0].rv, max(10.0, 1.5 * starts[0].vsini)
    parameters = parameters.with_limits("rv", rv - RV_MARGIN, rv + RV_MARGIN)
    model = ForwardModel(
        emulator, parameters, observed.wavelength, resolution=instrument.resolution,
        rv_range=(rv - RV_MARGIN - rotation, rv + RV_MARGIN + rotation),
    )
    weight = np.sqrt(np.where(model.covered, ivar, 0.0))
    n_good = np.count_nonzero(weight)
    if n_good < max(FEWEST_PIXELS, len(parameters) + continuum + 1):
        raise ValueError(
            f"only {n_good} usable pixels of '{observed.name or 'the spectrum'}' fall on "
            f"emulator '{emulator.name}': too few to fit {len(parameters)} parameters"
        )
    device = emulator.device
    terms = basis(torch.as_tensor(observed.wavelength, device=device), continuum,
                  emulator.wavelength_range)
    data = optimize.Data(torch.as_tensor(observed.flux, device=device)[None],
                         torch.as_tensor(weight, device=device)[None], terms)
    provenance = {
        "emulator": emulator.identity, "emulator_sha256": emulator.sha256,
        "instrument": f"{instrument.name} (R = {instrument.resolution:g})",
        "resolution": instrument.resolution, "continuum_degree": continuum,
        "fixed": dict(fixed or {}), "tied": dict(tied or {}), "seed": seed,
        "version": version("stellarfit"),
    }
    return Problem(observed, model, data, starts, instrument, provenance)


def as_spectrum(spectrum: Any, flux: Any = None, **options: Any) -> Spectrum:
    """Return a Spectrum from a path, ours or one of specutils, or wavelengths and fluxes."""
    if isinstance(spectrum, Spectrum):
        if flux is not None or options:
            raise ValueError("a Spectrum brings its own flux, medium and errors; give nothing else")
        return spectrum
    if isinstance(spectrum, (str, Path)):
        return read(spectrum, **options)
    if hasattr(spectrum, "spectral_axis"):
        return from_specutils(spectrum, **options)
    if flux is None:
        raise ValueError("wavelengths without fluxes: call fit(wavelength, flux, ...)")
    return Spectrum(spectrum, flux, **options)


def overlap(spectrum: Spectrum, emulator: Emulator) -> Spectrum:
    """Return the pixels that may show light from the emulator's range, in its medium.

    Raises
    ------
    ValueError
        When there are none.
    """
    spectrum = spectrum.to_medium(emulator.medium)
    low, high = emulator.wavelength_range
    first, last = spectrum.wavelength[[0, -1]]
    if first > high or last < low:
        raise ValueError(
            f"wavelengths run {first:.0f}-{last:.0f} Å, but emulator '{emulator.name}' covers "
            f"{low:.0f}-{high:.0f} Å: nothing to fit"
        )
    margin = 1.0 + 500.0 / SPEED_OF_LIGHT
    cut = spectrum.cut(low / margin, high * margin)
    if not cut.good.any():
        raise ValueError(
            f"all {len(cut)} pixels of '{spectrum.name or 'the spectrum'}' between {low:.0f} "
            f"and {high:.0f} Å, where emulator '{emulator.name}' lives, are masked: nothing to fit"
        )
    if not cut.flux[cut.good].any():
        raise ValueError(f"the flux is zero from {low:.0f} to {high:.0f} Å: nothing to fit")
    return cut


def _start_of(result: FitResult, parameters: Parameters) -> Start:
    """Return an earlier result as a first guess."""
    known = {**result.provenance.get("fixed", {}), **result.labels}
    for element in (n for n in result.label_names if n.endswith("_h") and n != "fe_h"):
        known.setdefault(element[:-2] + "_fe", known[element] - known["fe_h"])
    if missing := [n for n in parameters.names if n not in known]:
        raise ValueError(f"start= has no value for {', '.join(missing)}")
    # At vsini = 0 the derivative vanishes: an optimiser that starts there never leaves.
    known["vsini"] = max(known.get("vsini", 0.0), 0.5)
    theta = np.array([known[n] for n in parameters.names])
    return Start(theta, known.get("rv", 0.0), known["vsini"], np.inf)


def _minimise(problem: Problem, method: str) -> optimize.Solution:
    model, data = problem.model, problem.data
    theta = _best_start(problem)
    if method == "adam":
        return optimize.adam(model, data, theta)
    return optimize.levenberg_marquardt(model, data, theta)


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


def _result(problem: Problem, solution: optimize.Solution) -> FitResult:
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
        provenance=problem.provenance,
    )
    return replace(result, flags=int(_flags(problem, result, bool(unconstrained.any()))))


def _flags(problem: Problem, result: FitResult, unconstrained: bool) -> Flag:
    """Judge a result; the limits are those documented in `quality`."""
    emulator, spectrum, used = problem.model.emulator, problem.spectrum, result.used
    low, high = np.log(emulator.wavelength_range)
    span = np.gradient(np.log(spectrum.wavelength))[used].sum() / (high - low)
    at_limit = problem.model.parameters.at_limit(result.values)
    scatter = relative_scatter(spectrum.flux, result.model, result.continuum, used)
    refinement = refinement_for(emulator, problem.instrument.resolution)
    return Flag(sum(flag for flag, raised in (
        (Flag.EDGE_OF_DOMAIN, any(n not in STAGES for n in at_limit)),
        (Flag.PRIOR_RANGE_OF_RV, "rv" in at_limit),
        (Flag.NOT_CONVERGED, not result.converged),
        (Flag.LITTLE_COVERAGE, span < 0.5),
        (Flag.POOR_FIT, result.reduced_chi2 > 3.0 and scatter > 0.04),
        (Flag.MODEL_LIMITED, result.reduced_chi2 > 1.5),
        (Flag.NOISE_ESTIMATED, spectrum.noise_estimated),
        (Flag.BEYOND_TRAINING_SAMPLING, refinement > 1),
        (Flag.UNCONSTRAINED, unconstrained),
        (Flag.LOW_SNR, spectrum.snr < 10.0),
    ) if raised))
