"""A fit's problem: stars on common pixels, the model that explains them, and where to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from stellarfit.priors import Colour, Prior, Uniform, as_prior
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

    @property
    def used(self) -> NDArray[np.bool_]:
        """Pixels that enter, (n_star, n_pix)."""
        return np.asarray(self.data.used.cpu().numpy())

    @property
    def adapts(self) -> bool:
        """Whether noise or priors depend on the star that is found."""
        how = self.weighting
        return bool(
            (how.emulator_error and self.model.emulator.errors is not None) or how.jitter
            or how.robust or self.calibration is not None
            or any(isinstance(p, Colour) for p in self.priors.values())
        )

    def at(self, theta: Array, *, first: bool = False) -> Problem:
        """Return the problem with priors and noise as they are at theta (n_star, n_free).

        A colour is linearised there; the emulator's and the calibration's errors are those
        of such stars.  At a `first` guess residuals tell nothing of outliers.
        """
        P, p = zip(*(prior_rows(self.model.parameters, self.priors, t) for t in theta),
                   strict=True)
        noise, found = self._noise(theta, first)
        data = replace(self.data, P=np.array(P), p=np.array(p), noise=noise)
        return replace(self, data=data, extra=found)

    def given_chi2(self, theta: Array, pixels: NDArray[np.bool_]) -> Array:
        """Return chi-square (n_star,) at theta, of some pixels in the noise that was given."""
        model, solved = self.solve(theta)
        flux, ivar = (np.array([getattr(s, k) for s in self.stars]) for k in ("flux", "ivar"))
        residual = flux - model * solved.continuum.cpu().numpy()
        return np.asarray((np.where(pixels, ivar, 0.0) * residual**2).sum(-1))

    def solve(self, theta: Array) -> tuple[Array, Any]:
        """Return the normalised model (n_star, n_pix) at theta, and the projection."""
        everyone = np.arange(len(theta))
        with torch.no_grad():
            device = self.data.flux.device
            parts = [self.model.flux(torch.as_tensor(theta[i:i + optimize.STARS_AT_ONCE],
                                                     device=device))
                     for i in range(0, len(theta), optimize.STARS_AT_ONCE)]
            model = torch.cat(parts).double()
            return model.cpu().numpy(), self.data.project(
                model, torch.as_tensor(everyone, device=device))

    def _noise(self, theta: Array, first: bool) -> tuple[Noise, dict[str, Array]]:
        """Return the noise at theta, and what has been found out about it per star."""
        flux, ivar = (np.array([getattr(s, k) for s in self.stars]) for k in ("flux", "ivar"))
        used, found = self.used, {}
        model, solved = self.solve(theta)
        continuum = solved.continuum.cpu().numpy()
        variance = np.divide(1.0, ivar, out=np.ones_like(ivar), where=used)
        modes = self._modes(theta) if self.weighting.emulator_error else None
        common = np.zeros_like(variance)
        if modes is not None:
            squares = np.array([(m**2).sum(0) for m in modes])
            found["emulator_error"] = np.array([
                np.sqrt(np.median(s[u])) for s, u in zip(squares, used, strict=True)])
            variance = variance + (1.0 - COMMON) * continuum**2 * squares
            common = COMMON * continuum**2 * squares
        if self.calibration is not None:
            wrong = np.array([self.calibration.seen_by(self.model, t) for t in theta])
            variance = variance + (continuum * wrong) ** 2
        weight = np.where(used, variance**-0.5, 0.0)
        residual = flux - model * continuum
        how = replace(self.weighting, robust=False) if first else self.weighting
        for i, u in enumerate(used):
            c, v = continuum[i, u], variance[i, u]
            jitter, factor, seen = judge(residual[i, u] / c, (v + common[i, u]) / c**2, how)
            weight[i, u] = np.sqrt(factor / (v + (jitter * c) ** 2))
            for name, value in seen.items():
                found.setdefault(name, np.zeros(len(theta)))[i] = value
        device = self.data.flux.device
        noise = Noise(torch.as_tensor(weight, device=device), self.weighting.correlation)
        if modes is not None:
            together = np.sqrt(COMMON) * continuum[:, :, None] * _stacked(modes)
            noise = noise.with_modes(torch.as_tensor(together, device=device))
        return noise, found

    def _modes(self, theta: Array) -> list[Array] | None:
        each = [emulator_modes(self.model, t) for t in theta]
        return None if each[0] is None else [m.cpu().numpy() for m in each if m is not None]


def _stacked(modes: list[Array]) -> Array:
    """Return modes of all stars as (n_star, n_pix, n_mode), with zeros where one has fewer."""
    most = max(len(m) for m in modes)
    return np.array([np.pad(m, ((0, most - len(m)), (0, 0))).T for m in modes])


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
        emulator = emulators.load(emulator)
    seen = [observe(s, flux, emulator=emulator, **observing) for s in spectra]
    arms = seen[0].arms
    for other in seen[1:]:
        _same_pixels(seen[0], other)
    given = {n: as_prior(p) for n, p in (priors or {}).items()}
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=free, fixed=fixed, tied=tied,
        arms={a.name: a.instrument.resolution for a in arms},
    ).with_priors(given)
    if isinstance(calibration, (str, Path)):
        calibration = load_calibration(calibration)
    if calibration is not None:
        calibration.check(emulator)
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
            yield _of_modes(emulator, parameters, some[0], modes[0], common)
        else:
            stars = [Star(o, m, m[0][0]) for o, m in zip(some, modes, strict=True)]
            yield [_problem(emulator, parameters, stars, common)]


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
