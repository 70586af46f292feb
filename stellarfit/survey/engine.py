"""The batch engine: stars on common pixels side by side, each answering for itself alone.

What goes wrong with one star, from a missing file to a fit that blows up, becomes its outcome,
and the others of its batch are fitted all the same: a batch that fails is halved until the culprit
is alone.  The outcome of a star depends on the stars of its batch by rounding only, and a batch is
what stands together in the input, whoever fits it: so a catalogue does not depend on the number
of workers or on the size of shards, to the last bit.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from emulators import Emulator
from emulators.labels import unknown_names
from stellarfit.calibration import Calibration, load_calibration
from stellarfit.camera import missing_resolution
from stellarfit.conclusion import conclude
from stellarfit.continuum import as_continuum
from stellarfit.fitting import METHODS, best_of
from stellarfit.instrument import instrument_for
from stellarfit.noise import Noise
from stellarfit.observation import Observation, observe
from stellarfit.parameters import Parameters, make_parameters
from stellarfit.preparing import DEFAULT_EMULATOR, Plan, UnusableError, listed, loaded, make_plan
from stellarfit.priors import Prior, as_prior
from stellarfit.result import FitResult
from stellarfit.weighting import Weighting

#: plans for other pixels that are kept: a survey has a few
PLANS = 8


class Status(IntFlag):
    """Why a row has no labels; 0 where it has."""

    MISSING = 1 << 0
    UNREADABLE = 1 << 1
    UNUSABLE = 1 << 2
    FAILED = 1 << 3
    CRASHED = 1 << 4


STATUS_MEANINGS = {
    Status.MISSING: "there is no such file",
    Status.UNREADABLE: "the file cannot be read, or holds no spectrum",
    Status.UNUSABLE: "the spectrum has no pixels that the emulator could be compared with",
    Status.FAILED: "the fit stopped with an error, or blew up numerically",
    Status.CRASHED: "the fit took its process with it",
}


@dataclass(frozen=True)
class Failure:
    """What became of a star that has no labels.

    Attributes
    ----------
    status : Status
    message : str
        A sentence.
    name : str
        Of the star, where it came so far.
    """

    status: Status
    message: str
    name: str = ""


Outcome = FitResult | Failure


class Engine:
    """Fits stars with the same settings.

    Parameters
    ----------
    batch : int
        Stars that are fitted side by side; memory grows with it.
    device : str
        ``cpu``, ``cuda``, ...: where an emulator given by name or path is, and the work with it.
    emulator, instrument, resolution, continuum, free, fixed, tied, priors, calibration, method, \
emulator_error, jitter, robust, correlation, seed
        As in :func:`stellarfit.fit`.

    Raises
    ------
    ValueError
        For settings that no star could be fitted with.
    """

    def __init__(
        self, *, batch: int = 64, device: str = "cpu",
        emulator: str | Path | Emulator = DEFAULT_EMULATOR,
        instrument: Any = None, resolution: Any = None, continuum: Any = 3,
        free: Sequence[str] | None = None, fixed: Mapping[str, float] | None = None,
        tied: Mapping[str, str] | None = None, priors: Mapping[str, Prior | str] | None = None,
        calibration: str | Path | Calibration | None = None, method: str = "lm",
        emulator_error: bool = True, jitter: bool = True, robust: bool = True,
        correlation: float = 0.0, seed: int = 0,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
        if batch < 1:
            raise ValueError(f"batch is {batch}; expected at least 1 star")
        self.batch, self.method = batch, method
        self.emulator = loaded(emulator, device)
        _check_observing(instrument, resolution, continuum)
        # Of several arms some may be left out, and a resolution that is fixed stands instead.
        of_arms = any(isinstance(g, (Mapping, list, tuple)) for g in (instrument, resolution))
        given = not of_arms and (instrument is not None or resolution is not None)
        if given and "resolution" not in (fixed or {}):
            missing_resolution(instrument_for(instrument, resolution).resolution, self.emulator)
        Noise(torch.ones(1, 1), correlation)
        if isinstance(calibration, (str, Path)):
            calibration = load_calibration(calibration)
        if calibration is not None:
            calibration.check(self.emulator)
        free = listed(free)
        self._observing = {"emulator": self.emulator, "instrument": instrument,
                           "resolution": resolution, "continuum": continuum}
        self._planning: dict[str, Any] = {
            "emulator": self.emulator, "free": free, "fixed": fixed, "tied": tied,
            "priors": priors, "calibration": calibration, "seed": seed,
            "weighting": Weighting(emulator_error, jitter, robust, correlation)}
        #: of a star seen in one arm
        self.parameters: Parameters = make_parameters(
            self.emulator.labels, self.emulator.domain, free=free, fixed=fixed, tied=tied,
        ).with_priors({n: as_prior(p) for n, p in (priors or {}).items()})
        self._plans: dict[Any, Plan] = {}

    def __call__(self, stars: Sequence[Callable[[], Any]]) -> list[Outcome]:
        """Return what became of stars, each given by what reads it.

        As :func:`stellarfit.fit` takes them: a spectrum, or several of one star.
        """
        found: dict[int, Outcome] = {}
        for first in range(0, len(stars), self.batch):
            seen: dict[Any, dict[int, Observation]] = {}
            for i, read in enumerate(stars[first:first + self.batch], first):
                observed = self._observe(read)
                if isinstance(observed, Failure):
                    found[i] = observed
                else:
                    seen.setdefault(_pixels(observed, i), {})[i] = observed
            for pixels, group in seen.items():
                self._together(pixels, group, found)
        return [found[i] for i in range(len(stars))]

    def _observe(self, read: Callable[[], Any]) -> Observation | Failure:
        """Return a star as observed, or why that cannot be."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                spectrum = read()
            except FileNotFoundError as error:
                return Failure(Status.MISSING, _said(error))
            except (MemoryError, ModuleNotFoundError):
                raise
            except Exception as error:  # a broken file may raise anything
                return Failure(Status.UNREADABLE, _said(error))
            try:
                return observe(spectrum, **self._observing)
            except MemoryError:
                raise
            except Exception as error:
                return Failure(Status.UNUSABLE, _said(error), _name_of(spectrum))

    def _together(
        self, pixels: Any, group: dict[int, Observation], found: dict[int, Outcome]
    ) -> None:
        """Fit stars on common pixels; where that fails, both halves apart."""
        stars = list(group.values())
        try:
            # The threads of numpy's linear algebra, idle but awake, would slow torch's down.
            with threadpool_limits(1, user_api="blas"), warnings.catch_warnings(), \
                    np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                # A star by itself as one of many: who stands beside it must not show.
                problems = self._plan(pixels, stars[0]).problems(stars, alone=False)
                results = conclude(*best_of(problems, self.method))
        except MemoryError:  # which is the machine's
            raise
        except UnusableError as error:
            numbers = list(group)
            found.update({numbers[k]: Failure(Status.UNUSABLE, said, stars[k].name)
                          for k, said in error.stars.items()})
            if left := {i: star for i, star in group.items() if i not in found}:
                self._together(pixels, left, found)
            return
        except Exception as error:  # whatever it is, it is one star's own
            if len(stars) == 1:
                found.update(dict.fromkeys(group, Failure(
                    Status.FAILED, _said(error), stars[0].name)))
                return
            items = list(group.items())
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                self._together(pixels, dict(half), found)
            return
        for i, result in zip(group, results, strict=True):
            result.provenance.update(method=self.method)
            found[i] = result if np.isfinite([*result.values, *result.label_values]).all() else (
                Failure(Status.FAILED, "the fit blew up numerically", result.name))

    def _plan(self, pixels: Any, first: Observation) -> Plan:
        """Return the plan for stars on these pixels."""
        if pixels not in self._plans:
            for old in list(self._plans)[:max(0, len(self._plans) - PLANS + 1)]:
                del self._plans[old]
            self._plans[pixels] = make_plan(first, **self._planning)
        return self._plans[pixels]


def check_options(options: Mapping[str, Any]) -> None:
    """Say which options there are, if one of those given is none.

    Raises
    ------
    TypeError
    """
    valid = list(inspect.signature(Engine).parameters)
    if wrong := [n for n in options if n not in valid]:
        raise TypeError(str(unknown_names(wrong, valid, "option")))


def _check_observing(instrument: Any, resolution: Any, continuum: Any) -> None:
    """Say at once what is wrong with what each star would be observed with."""
    def each(given: Any) -> list[Any]:
        if isinstance(given, Mapping):
            return list(given.values())
        return list(given) if isinstance(given, (list, tuple)) else [given]

    for name in each(instrument):
        for value in each(resolution) if instrument is not None else ():
            if name is not None:
                instrument_for(name, value)
    for value in each(resolution) if instrument is None else ():
        if value is not None:
            instrument_for(None, value)
    for value in each(continuum):
        as_continuum(3 if value is None else value)


def _pixels(seen: Observation, number: int) -> Any:
    """Return what stars that can be fitted side by side have in common."""
    alone = number if any(a.matrix is not None for a in seen.arms) else -1
    return (alone, tuple(seen.left_out), *(
        (a.name, a.instrument, str(a.continuum), hashlib.sha256(a.wavelength.tobytes()).digest())
        for a in seen.arms))


def _name_of(spectrum: Any) -> str:
    """Return what a spectrum, or the first of several arms, calls its star."""
    if isinstance(spectrum, Mapping):
        spectrum = next(iter(spectrum.values()), None)
    return str(getattr(spectrum, "name", ""))


def _said(error: Exception) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else (
        f"{type(error).__name__}: {text}" if text else type(error).__name__)
