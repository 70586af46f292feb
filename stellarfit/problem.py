"""A fit's problem: stars on common pixels, the model that explains them, and where to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import emulators
from emulators import Emulator
from emulators.labels import is_abundance
from stellarfit import optimize
from stellarfit.calibration import Calibration, load_calibration
from stellarfit.forward import ForwardModel
from stellarfit.noise import Noise
from stellarfit.observation import FEWEST_PIXELS, Observation, concatenated, observe
from stellarfit.parameters import Parameters, make_parameters, stage_of
from stellarfit.priors import Prior, Uniform, as_prior
from stellarfit.result import FitResult
from stellarfit.search import Pixels, Search, Start
from stellarfit.weighting import (
    COMMON,
    Weighting,
    emulator_modes,
    judge,
)

Array = NDArray[np.float64]
DEFAULT_EMULATOR = "mgb-fgk"
#: how far (km/s) rv may move from its first guess
RV_MARGIN = 30.0
#: a star's emulator errors are those of where it was before, less than this in typical sizes away
MODES_REACH = 0.3


@dataclass(frozen=True, eq=False)
class Star:
    """One star of a problem.

    Attributes
    ----------
    observation : Observation
    modes : list of list of Start
        First guesses, the best mode first, in each the best template first.
    start : Start
        The one whose velocity the problem is about.
    """

    observation: Observation
    modes: list[list[Start]]
    start: Start

    @property
    def flux(self) -> Array:
        """Of all arms, (n_pix,)."""
        return np.asarray(concatenated(self.observation.spectra, lambda s: s.flux))

    @property
    def ivar(self) -> Array:
        """Of all arms, (n_pix,); 0 at pixels to ignore."""
        return np.asarray(concatenated(
            self.observation.spectra, lambda s: np.where(_usable(s), s.ivar, 0.0)))


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a fit and a sampler need to know.

    Attributes
    ----------
    stars : tuple of Star
        With the same arms and pixels.
    model : ForwardModel
    data : optimize.Data
        One row per star; weights are 0 where a pixel is not used.
    priors : mapping of str to Prior
    weighting : Weighting
    calibration : Calibration, optional
    provenance : dict
        What is common to the stars.
    extra : dict of str to array
        What the weighting has found, (n_star,) each: ``jitter``, ``outliers`` and ``excess``
        (`weighting.judge`), and ``emulator_error``, the median over pixels.
    """

    stars: tuple[Star, ...]
    model: ForwardModel
    data: optimize.Data
    priors: Mapping[str, Prior]
    weighting: Weighting
    calibration: Calibration | None
    provenance: dict[str, Any]
    extra: dict[str, Array] = field(default_factory=dict)
    #: where each star's emulator errors were last taken, and they
    modes_at: dict[int, tuple[Array, torch.Tensor | None]] = field(default_factory=dict)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Pixels that enter, (n_star, n_pix)."""
        return np.asarray(self.data.used.cpu().numpy())

    def at(self, theta: Array, stars: NDArray[np.int64] | None = None) -> Problem:
        """Return the problem with priors and noise of some stars as they are at theta.

        A colour is linearised there; the emulator's and the calibration's errors are those
        of such stars.

        Parameters
        ----------
        theta : (n_star, n_free)
            Of all stars.
        stars : array of int, optional
            All by default.
        """
        stars = np.arange(len(theta)) if stars is None else stars
        P, p = self.data.P.copy(), self.data.p.copy()
        if any(not isinstance(prior, Uniform) for prior in self.priors.values()):
            rows = [prior_rows(self.model.parameters, self.priors, t) for t in theta]
            P, p = (np.array(x) for x in zip(*rows, strict=True))
        noise, found = self._noise(theta, stars)
        index = torch.as_tensor(stars, device=self.data.flux.device)
        extra = {k: self.extra.get(k, np.zeros(len(theta))).copy() for k in found}
        for name, values in found.items():
            extra[name][stars] = values
        data = replace(self.data, P=P, p=p, noise=self.data.noise.with_rows(index, noise))
        return replace(self, data=data, extra={**self.extra, **extra})

    def given_chi2(self, theta: Array, pixels: NDArray[np.bool_]) -> Array:
        """Return chi-square (n_star,) at theta, of some pixels in the noise that was given."""
        model, solved = self.solve(theta)
        flux, ivar = self._given
        residual = flux - model * solved.continuum.cpu().numpy()
        return np.asarray((np.where(pixels, ivar, 0.0) * residual**2).sum(-1))

    def solve(self, theta: Array, stars: NDArray[np.int64] | None = None) -> tuple[Array, Any]:
        """Return the normalised model (s, n_pix) at theta (s, n_free), and the projection.

        Of all stars, if they are not given.
        """
        stars = np.arange(len(theta)) if stars is None else stars
        with torch.no_grad():
            device = self.data.flux.device
            parts = [self.model.flux(torch.as_tensor(theta[i:i + optimize.STARS_AT_ONCE],
                                                     device=device))
                     for i in range(0, len(theta), optimize.STARS_AT_ONCE)]
            model = torch.cat(parts).double()
            return model.cpu().numpy(), self.data.project(
                model, torch.as_tensor(stars, device=device))

    def _noise(
        self, theta: Array, stars: NDArray[np.int64]
    ) -> tuple[Noise, dict[str, list[float]]]:
        """Return the noise of some stars, and what has been found out about it, per star."""
        model, solved = self.solve(theta[stars], stars)
        continuum = solved.continuum.cpu().numpy()
        found: dict[str, list[float]] = {}
        weight, together = np.zeros(continuum.shape), []
        for k, i in enumerate(stars):
            u, c = self._given[1][i] > 0, continuum[k]
            flux, ivar = self._given[0][i, u], self._given[1][i, u]
            variance, common, seen = 1.0 / ivar, np.zeros(len(ivar)), {}
            modes = self._modes(int(i), theta[i]) if self.weighting.emulator_error else None
            if modes is not None:
                squares = (modes**2).sum(0).cpu().numpy()[u]
                seen["emulator_error"] = float(np.sqrt(np.median(squares)))
                variance = variance + (1.0 - COMMON) * c[u]**2 * squares
                common = COMMON * c[u]**2 * squares
                together.append(np.sqrt(COMMON) * solved.continuum[k].unsqueeze(-1) * modes.T)
            if self.calibration is not None:
                wrong = self.calibration.seen_by(self.model, theta[i])[u]
                variance = variance + (c[u] * wrong) ** 2
            residual = flux - model[k, u] * c[u]
            jitter, factor, judged = judge(residual / c[u], (variance + common) / c[u]**2,
                                           self.weighting)
            weight[k, u] = np.sqrt(factor / (variance + (jitter * c[u]) ** 2))
            for name, value in {**seen, **judged}.items():
                found.setdefault(name, []).append(value)
        noise = Noise(torch.as_tensor(weight, device=self.data.flux.device),
                      self.weighting.correlation)
        return noise.with_modes(together) if together else noise, found

    def emulator_share(self, solution: optimize.Solution) -> Array:
        """Return the emulator's part of the variance of a label, (n_star,), of the worst one.

        That is 1 - s^2 / S^2, with S the error of a label and s what it would be with the other
        noise alone.
        """
        n_star = len(solution.theta)
        moved = np.flatnonzero((self.model.parameters.A != 0).any(axis=0))
        if not self.modes_at or not len(moved):
            return np.zeros(n_star)
        ivar = self._given[1]
        continuum = self.solve(solution.theta)[1].continuum.cpu().numpy()
        jitter = self.extra.get("jitter", np.zeros(n_star))[:, None] * continuum
        variance = np.divide(1.0, ivar, out=np.full_like(ivar, np.inf), where=ivar > 0) + jitter**2
        other = Noise(torch.as_tensor(variance**-0.5, device=self.data.flux.device),
                      self.weighting.correlation)
        stars = np.arange(n_star)
        bare = optimize.normal_equations(
            self.model, replace(self.data, noise=other), solution.theta, stars,
            np.full(n_star, optimize.AT_THE_END))[2]
        shares = []
        for information in zip(bare, solution.information, strict=True):
            s, total = (np.diag(optimize.covariance(i, self.model.parameters.scale)[0])[moved]
                        for i in information)
            known = np.isfinite(total) & np.isfinite(s) & (total > 0)
            shares.append(max(1.0 - s[known] / total[known], default=0.0))
        return np.array(shares)

    @cached_property
    def _given(self) -> tuple[Array, Array]:
        """Flux and ivar (n_star, n_pix) as given, ivar 0 where a pixel does not count."""
        flux, ivar = (np.array([getattr(s, k) for s in self.stars]) for k in ("flux", "ivar"))
        return flux, np.where(self.used, ivar, 0.0)

    def _modes(self, star: int, theta: Array) -> torch.Tensor | None:
        """Return the emulator's error modes (n_mode, n_pix) of a star, or of one close by."""
        known = self.modes_at.get(star)
        scale = self.model.parameters.scale
        if known is None or np.abs((theta - known[0]) / scale).max() > MODES_REACH:
            known = self.modes_at[star] = theta.copy(), emulator_modes(self.model, theta)
        return known[1]


def _usable(spectrum: Any) -> NDArray[np.bool_]:
    """Pixels that may count: good, and known to the resolution matrix if there is one."""
    good = spectrum.good
    return np.asarray(good & ~spectrum.matrix.empty if spectrum.matrix is not None else good)


def prepare(spectra: Sequence[Any], flux: Any = None, **options: Any) -> list[Problem]:
    """Set up the fit of stars that share their pixels; parameters as in :func:`fit`.

    Returns
    -------
    list of Problem
        The first with each star at its best mode; then, for a single star, those of the
        other modes that a fit should try.
    """
    return next(in_batches(spectra, flux, at_once=len(spectra), **options))


def in_batches(
    spectra: Sequence[Any], flux: Any = None, *, at_once: int,
    emulator: str | Path | Emulator = DEFAULT_EMULATOR,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, priors: Mapping[str, Prior | str] | None = None,
    start: FitResult | None = None, calibration: str | Path | Calibration | None = None,
    weighting: Weighting | None = None, seed: int = 0, **observing: Any,
) -> Iterator[list[Problem]]:
    """Yield what :func:`prepare` returns for `at_once` stars after the other.

    All spectra are read and checked before the first.
    """
    if not isinstance(emulator, Emulator):
        if not isinstance(emulator, (str, Path)):
            raise ValueError(f"emulator is {type(emulator).__name__}; expected a name, a path or "
                             "an Emulator")
        emulator = emulators.load(emulator)
    seen = [_seen(k, len(spectra), s, flux, emulator=emulator, **observing)
            for k, s in enumerate(spectra)]
    arms = seen[0].arms
    for other in seen[1:]:
        _same_pixels(seen[0], other)
    free = [n.strip() for n in free.split(",")] if isinstance(free, str) else free
    free = None if free is None else list(seen[0].own(dict.fromkeys(free)))
    fixed, tied = seen[0].own(_mapping("fixed", fixed)), seen[0].own(_mapping("tied", tied))
    given = {n: as_prior(p) for n, p in seen[0].own(_mapping("priors", priors)).items()}
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=free, fixed=fixed, tied=tied,
        arms={a.name: a.instrument.resolution for a in arms},
    ).with_priors(given)
    if isinstance(calibration, (str, Path)):
        calibration = load_calibration(calibration)
    if calibration is not None:
        if not isinstance(calibration, Calibration):
            raise ValueError(f"calibration is {type(calibration).__name__}; expected a path or "
                             "what stellarfit.calibrate returned")
        calibration.check(emulator)
    if start is not None and not isinstance(start, FitResult):
        raise ValueError(f"start is {type(start).__name__}; expected a FitResult")
    search = Search(emulator, parameters, arms, seed=seed)
    provenance = {
        "emulator": emulator.identity, "emulator_sha256": emulator.sha256,
        "instrument": ", ".join(dict.fromkeys(str(a.instrument) for a in arms)),
        "resolution": [a.instrument.resolution for a in arms],
        "continuum": [str(a.continuum) for a in arms],
        "fixed": dict(fixed or {}), "tied": dict(tied or {}),
        "frame": ", ".join(dict.fromkeys(s.frame for o in seen[:1] for s in o.spectra)),
        "priors": {n: str(p) for n, p in given.items()}, "seed": seed,
        "calibration": calibration.identity if calibration is not None else "",
        "version": version("stellarfit"),
    }
    common = {"priors": given, "weighting": weighting or Weighting(), "calibration": calibration,
              "provenance": provenance}
    for first in range(0, len(seen), at_once):
        some = seen[first:first + at_once]
        if start is not None:
            modes = [[[start_of(start, parameters)]] for _ in some]
        else:
            modes = [search.modes([Pixels(s.flux, np.where(_usable(s), s.ivar, 0.0))
                                   for s in o.spectra]) for o in some]
        if len(seen) == 1:
            problems = _of_modes(emulator, parameters, some[0], modes[0], common)
        else:
            stars = [Star(o, m, m[0][0]) for o, m in zip(some, modes, strict=True)]
            problems = [_problem(emulator, parameters, stars, common)]
        for problem in problems if start is None else ():
            search.tell(problem.model)
        yield problems


def _seen(k: int, count: int, *args: Any, **options: Any) -> Observation:
    """Return a star as observed; where there are many, an error says which."""
    try:
        return observe(*args, **options)
    except ValueError as error:
        if count == 1:
            raise
        raise ValueError(f"spectrum {k + 1} of {count}: {error}") from error


def _mapping(what: str, given: Any) -> dict[str, Any]:
    """Return what was given by name as a dict."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {given!r}; expected names and values, "
                         f"{what}={{'NAME': ...}}")
    return dict(given)


def _of_modes(
    emulator: Emulator, parameters: Parameters, seen: Observation, modes: list[list[Start]],
    common: Mapping[str, Any],
) -> list[Problem]:
    """Return the problem of one star at its best mode and at those that may still win.

    A mode whose velocity leaves too few pixels on the emulator is passed over.
    """
    problems: list[Problem] = []
    refusal: ValueError | None = None
    for mode in modes:
        if problems and mode[0].gain <= WORTH_TRYING * modes[0][0].gain:
            break
        try:
            problems.append(_problem(emulator, parameters, [Star(seen, modes, mode[0])], common))
        except ValueError as error:
            refusal = refusal or error
    if not problems and refusal is not None:
        raise refusal
    return problems


#: a mode whose template gains this much of what the best one does may still win
WORTH_TRYING = 0.8


def _problem(
    emulator: Emulator, parameters: Parameters, stars: Sequence[Star], common: Mapping[str, Any]
) -> Problem:
    """Return the problem of stars near the velocities of their starts."""
    arms = stars[0].observation.arms
    ranges = [_rv_range(s.start) for s in stars]
    model = ForwardModel(emulator, parameters, arms, rv_range=(
        min(low for low, _ in ranges), max(high for _, high in ranges)))
    window = emulator.wavelength_range
    blocks = [a.continuum.terms(a.wavelength, window) for a in arms]
    terms = _block_diagonal(blocks)
    level = np.concatenate([np.full(len(a), a.continuum.level) for a in arms])
    weight = np.array([np.sqrt(np.where(model.covers(r), s.ivar, 0.0))
                       for s, r in zip(stars, ranges, strict=True)])
    for star, row in zip(stars, weight, strict=True):
        needed = max(FEWEST_PIXELS, len(parameters) + terms.shape[1])
        if (n_good := np.count_nonzero(row)) < needed:
            raise ValueError(
                f"only {n_good} usable pixels of '{star.observation.name or 'the spectrum'}' fall "
                f"on emulator '{emulator.name}': too few to fit {len(parameters)} parameters"
                + (f" and {terms.shape[1]} terms of the continuum" if terms.shape[1] else "")
            )
    device = emulator.device

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float64, device=device)

    G, h = _limits(parameters, stars)
    n_free = len(parameters)
    data = optimize.Data(
        tensor(np.array([s.flux for s in stars])), Noise(tensor(weight)), tensor(terms),
        tensor(level), G, h, np.empty((len(stars), 0, n_free)), np.empty((len(stars), 0)),
    )
    return Problem(tuple(stars), model, data, **common)


def _rv_range(start: Start) -> tuple[float, float]:
    """Return the velocities at which a star's pixels must be covered."""
    rotation = max(10.0, 1.5 * start.vsini)
    return (float(start.rvs.min()) - RV_MARGIN - rotation,
            float(start.rvs.max()) + RV_MARGIN + rotation)


def _limits(parameters: Parameters, stars: Sequence[Star]) -> tuple[Array, Array]:
    """Return G, h (n_star, n_limit): the limits of all, and each star's on its velocities."""
    moving = [i for i, n in enumerate(parameters.names) if stage_of(n) == "rv"]
    rows = np.eye(len(parameters))[moving]
    G = np.vstack([parameters.G, rows, -rows])
    h = [np.concatenate([parameters.h, s.start.theta[moving] + RV_MARGIN,
                         RV_MARGIN - s.start.theta[moving]]) for s in stars]
    return G, np.array(h)


def prior_rows(
    parameters: Parameters, priors: Mapping[str, Prior], theta: Array
) -> tuple[Array, Array]:
    """Return rows (n_prior, n_free) and values (n_prior,) of the Gaussian priors, in sigma."""
    rows, values = [], []
    for name, prior in priors.items():
        if isinstance(prior, Uniform):
            continue
        near: dict[str, float] = {n: parameters.value_of(n, theta) for n in ("logg", "fe_h")
                                  if n in parameters.labels.names}
        coefficients, value, sigma = prior.linearised(name, near)
        row = np.zeros(len(parameters))
        for label, coefficient in coefficients.items():
            if coefficient and (label == name or label in parameters.labels.names):
                part, offset = parameters.row_of(label)
                row += coefficient * part
                value -= coefficient * offset
        rows.append(row / sigma)
        values.append(value / sigma)
    return np.array(rows).reshape(-1, len(parameters)), np.array(values)


def _block_diagonal(blocks: Sequence[Array]) -> Array:
    """Return the continuum's basis of all arms: each has columns of its own."""
    total = sum(b.shape[1] for b in blocks)
    rows, first = [], 0
    for block in blocks:
        padded = np.zeros((len(block), total))
        padded[:, first:first + block.shape[1]] = block
        rows.append(padded)
        first += block.shape[1]
    return np.vstack(rows)


def _same_pixels(first: Observation, other: Observation) -> None:
    same = len(first.arms) == len(other.arms) and all(
        len(a) == len(b) and np.allclose(a.wavelength, b.wavelength, rtol=1e-9, atol=0)
        and a.instrument == b.instrument and (a.matrix is None) == (b.matrix is None)
        for a, b in zip(first.arms, other.arms, strict=True))
    if not same:
        raise ValueError(
            f"'{other.name}' has other pixels than '{first.name}': stars that are fitted in one "
            "batch share wavelengths and instruments; fit the others apart"
        )
    if any(a.matrix is not None for a in other.arms):
        raise ValueError("stars with resolution matrices cannot share a batch: each has its own")


def start_of(result: FitResult, parameters: Parameters) -> Start:
    """Return an earlier result as a first guess."""
    known = {**result.provenance.get("fixed", {}), **result.labels, **parameters.fixed_stages}
    for element in (n for n in result.label_names if is_abundance(n) and n != "fe_h"):
        known.setdefault(element[:-2] + "_fe", known[element] - known.get("fe_h", 0.0))
    for name in parameters.names:
        if (stage := stage_of(name)) and stage in known:
            known.setdefault(name, known[stage])
    if missing := [n for n in parameters.names if n not in known]:
        raise ValueError(f"start= has no value for {', '.join(missing)}")
    # At vsini = 0 the derivative vanishes: an optimiser that starts there never leaves.
    for stage in ("vsini", "vmac"):
        if stage in parameters.names:
            known[stage] = max(known.get(stage, 0.0), 0.5)
    theta = np.array([known[n] for n in parameters.names])
    rows = [i for i, n in enumerate(parameters.stages) if stage_of(n) == "rv"]
    rvs = (parameters.stage_A @ theta + parameters.stage_b)[rows]
    return Start(theta, rvs, known.get("vsini", 0.0), np.inf)
