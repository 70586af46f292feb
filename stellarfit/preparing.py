"""From spectra and options to problems: everything is read and checked before the first fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from stellarfit.observation import FEWEST_PIXELS, Observation, observe
from stellarfit.parameters import Parameters, make_parameters, stage_of
from stellarfit.priors import Prior, as_prior
from stellarfit.problem import Problem, Star, usable
from stellarfit.result import FitResult
from stellarfit.search import Pixels, Search, Start
from stellarfit.weighting import Weighting

Array = NDArray[np.float64]
DEFAULT_EMULATOR = "mgb-fgk"
#: how far (km/s) rv may move from its first guess
RV_MARGIN = 30.0


class UnusableError(ValueError):
    """Stars have too few pixels to be fitted.

    Attributes
    ----------
    stars : dict of int to str
        What is wrong with each, by its place among those that were to be fitted together.
    """

    def __init__(self, stars: dict[int, str]) -> None:
        super().__init__(next(iter(stars.values())))
        self.stars = stars


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
    emulator = loaded(emulator)
    seen = [_seen(k, len(spectra), s, flux, emulator=emulator, **observing)
            for k, s in enumerate(spectra)]
    for k, other in enumerate(seen[1:], 2):
        _same_pixels(seen[0], other, f"spectrum {k} of {len(seen)}")
    if start is not None and not isinstance(start, FitResult):
        raise ValueError(f"start is {type(start).__name__}; expected a FitResult")
    plan = make_plan(seen[0], emulator=emulator, free=free, fixed=fixed, tied=tied, priors=priors,
                     calibration=calibration, weighting=weighting, seed=seed)
    for first in range(0, len(seen), at_once):
        yield plan.problems(seen[first:first + at_once], start, alone=len(seen) == 1)


def loaded(emulator: str | Path | Emulator, device: str = "cpu") -> Emulator:
    """Return an emulator from its name or its path, on a device, or itself, where it is."""
    if isinstance(emulator, Emulator):
        return emulator
    if not isinstance(emulator, (str, Path)):
        raise ValueError(f"emulator is {type(emulator).__name__}; expected a name, a path or "
                         "an Emulator")
    return emulators.load(emulator, device=device)


def listed(names: str | Sequence[str] | None) -> list[str] | None:
    """Return names that may be given as one text with commas."""
    if names is None:
        return None
    return [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)


@dataclass(frozen=True, eq=False)
class Plan:
    """What fits of stars on common pixels share.

    Attributes
    ----------
    parameters : Parameters
    search : Search
        For first guesses.
    common : dict
        Of each :class:`Problem`: priors, weighting, calibration and provenance.
    """

    parameters: Parameters
    search: Search
    common: Mapping[str, Any]

    def problems(
        self, seen: Sequence[Observation], start: FitResult | None = None, *, alone: bool
    ) -> list[Problem]:
        """Return the problem of some stars, or those of the modes of one that is `alone`."""
        if start is not None:
            modes = [[[start_of(start, self.parameters)]] for _ in seen]
        else:
            modes = [self.search.modes([Pixels(s.flux, np.where(usable(s), s.ivar, 0.0))
                                        for s in o.spectra]) for o in seen]
        if apart := {
            k: f"'{o.name or 'the spectrum'}' cannot be compared with emulator "
               f"'{self.search.emulator.name}': its good pixels lie too far apart, or the "
               "emulator's spectra are not finite"
            for k, (o, m) in enumerate(zip(seen, modes, strict=True)) if not m
        }:
            raise UnusableError(apart)
        emulator = self.search.emulator
        if alone:
            problems = _of_modes(emulator, self.parameters, seen[0], modes[0], self.common)
        else:
            stars = [Star(o, m, m[0][0]) for o, m in zip(seen, modes, strict=True)]
            problems = [_problem(emulator, self.parameters, stars, self.common)]
        for problem in problems if start is None else ():
            self.search.tell(problem.model)
        return problems


def make_plan(
    first: Observation, *, emulator: Emulator,
    free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None, priors: Mapping[str, Prior | str] | None = None,
    calibration: str | Path | Calibration | None = None,
    weighting: Weighting | None = None, seed: int = 0,
) -> Plan:
    """Return the plan for stars that are observed as the first; parameters as in :func:`fit`."""
    arms = first.arms
    free = listed(free)
    free = None if free is None else list(first.own(dict.fromkeys(free)))
    fixed, tied = first.own(_mapping("fixed", fixed)), first.own(_mapping("tied", tied))
    given = {n: as_prior(p) for n, p in first.own(_mapping("priors", priors)).items()}
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
    provenance = {
        "emulator": emulator.identity, "emulator_sha256": emulator.sha256,
        "instrument": ", ".join(dict.fromkeys(str(a.instrument) for a in arms)),
        "resolution": [a.instrument.resolution for a in arms],
        "continuum": [str(a.continuum) for a in arms],
        "fixed": dict(fixed or {}), "tied": dict(tied or {}),
        "held": {n: v for n, v in parameters.fixed_stages.items()
                 if stage_of(n) in ("rv", "vsini", "vmac") and not {n, stage_of(n)} & {*fixed}},
        "priors": {n: str(p) for n, p in given.items()}, "seed": seed,
        "calibration": calibration.identity if calibration is not None else "",
        "version": version("stellarfit"),
        "emulator_errors": "left out" if weighting and not weighting.emulator_error else
        "taken in" if emulator.errors is not None else "not known",
    }
    return Plan(parameters, Search(emulator, parameters, arms, seed=seed),
                {"priors": given, "weighting": weighting or Weighting(),
                 "calibration": calibration, "provenance": provenance})


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
    if refusal and not problems:
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
    needed = max(FEWEST_PIXELS, len(parameters) + terms.shape[1])
    also = f" and {terms.shape[1]} terms of the continuum" if terms.shape[1] else ""
    if few := {
        i: f"only {count} usable pixels of '{star.observation.name or 'the spectrum'}' fall on "
           f"emulator '{emulator.name}': too few to fit {len(parameters)} parameters{also}"
        for i, (star, count) in enumerate(zip(stars, (weight != 0).sum(1), strict=True))
        if count < needed
    }:
        raise UnusableError(few)
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


def _same_pixels(first: Observation, other: Observation, which: str) -> None:
    same = len(first.arms) == len(other.arms) and all(
        len(a) == len(b) and np.allclose(a.wavelength, b.wavelength, rtol=1e-9, atol=0)
        and a.instrument == b.instrument and (a.matrix is None) == (b.matrix is None)
        for a, b in zip(first.arms, other.arms, strict=True))
    if not same:
        raise ValueError(
            f"{which}, '{other.name}', has other pixels than the first: stars that are fitted in "
            "one batch share wavelengths and instruments; fit the others apart"
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
