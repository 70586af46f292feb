"""Run a survey: shards made by processes of this machine or a dask cluster, then put together."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from emulators.apart import Apart, EndedError
from emulators.workers import Workers
from stellarfit.survey.catalogue import (
    Arrays,
    arrays_of,
    check_aliases,
    check_suffix,
    to_table,
    write_table,
)
from stellarfit.survey.engine import Engine, Failure, Outcome, Status
from stellarfit.survey.folder import FOR_NOW, OtherSurveyError, Survey, plain_settings
from stellarfit.survey.models import keeping
from stellarfit.survey.targets import Files, find_targets

if TYPE_CHECKING:
    from astropy.table import Table

logger = logging.getLogger(__name__)
#: stars side by side, where nothing else is said
BATCH = 64
#: times that a shard may lose its worker before its stars are suspected
PATIENCE = 3
#: engines of this process, by survey
_engines: dict[str, tuple[Engine, Files]] = {}
_one_at_a_time = threading.Lock()


def _engine(survey: Survey) -> tuple[Engine, Files]:
    """Return what fits a survey's stars and what reads them, made once in every process."""
    if survey.key not in _engines:
        _engines.clear()
        _engines[survey.key] = survey.engine(), Files(survey.settings.get("medium"))
    return _engines[survey.key]


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class IncompleteError(RuntimeError):
    """Shards are missing or damaged: there is no catalogue yet."""


@dataclass(frozen=True)
class Made:
    """A shard, or why there is none."""

    shard: int
    stars: int
    failed: int = 0
    error: str = ""
    fatal: bool = False


class Maker:
    """Makes shards of a survey, wherever it is sent.

    Parameters
    ----------
    survey : Survey
    retry : bool
        Shards are there already: fit the batches again that have a failed star.
    """

    def __init__(self, survey: Survey, *, retry: bool = False) -> None:
        self.survey, self.retry = survey, retry

    def __call__(self, index: NDArray[np.int64]) -> Made:
        """Make a shard and write it."""
        # Processes are what runs side by side; and sums in another order round otherwise.
        torch.set_num_threads(1)
        # A dask worker may have several threads, which share the engine and the open file.
        with _one_at_a_time:
            return self._make(int(index[0]), self.fit)

    def lost(self, index: NDArray[np.int64], reason: str) -> Made:
        """Make a shard that ended its worker time and again: who is it?"""
        with Apart(self) as process:
            def careful(numbers: Sequence[int]) -> list[Outcome]:
                for _ in range(PATIENCE):  # it may have been somebody else's kill
                    try:
                        return list(process.call("fit", numbers))
                    except EndedError:
                        continue
                if len(numbers) > 1:
                    return [o for i in numbers for o in careful([i])]
                return [Failure(Status.CRASHED, reason)]

            return self._make(int(index[0]), careful)

    def fit(self, numbers: Sequence[int]) -> list[Outcome]:
        """Return what became of some stars."""
        torch.set_num_threads(1)
        engine, files = _engine(self.survey)
        return engine([partial(files, t) for t in self.survey.targets(numbers)])

    def _make(self, shard: int, fit: Any) -> Made:
        survey, clock = self.survey, time.perf_counter()
        stars = len(survey.numbers(shard))
        try:
            models = survey.models_of(shard) if survey.settings.get("models") else None
            writing = keeping(models, others=self.retry)
            with writing as keep:
                rows = self._rows(shard, fit, keep)
        except Exception as error:
            if isinstance(error, OSError) and error.filename == str(models):
                return Made(shard, stars, error=f"cannot write: {error}", fatal=True)
            logger.exception("shard %d", shard)
            return Made(shard, stars, error=f"{type(error).__name__}: {error}")
        try:
            said = survey.keep(shard, rows, time.perf_counter() - clock)
        except OSError as error:
            return Made(shard, stars, error=f"cannot write: {error}", fatal=True)
        return Made(shard, stars, said["failed"])

    def _rows(self, shard: int, fit: Any, keep: Any) -> Arrays:
        """Return the rows of a shard, batch after batch."""
        before = None
        if self.retry:
            with suppress(FileNotFoundError, ValueError):  # there is none, or a damaged one
                before = self.survey.rows(shard)[0]
        numbers, engine, columns = self.survey.numbers(shard), _engine(self.survey)[0], []
        batch = engine.batch
        for first in range(0, len(numbers), batch):
            some = numbers[first:first + batch]
            if before is not None:
                part = {n: v[first:first + batch] for n, v in before.items()}
                if not (part["status"] & int(FOR_NOW)).any():
                    columns.append(part)
                    continue
            outcomes = fit(list(some))
            for i, outcome in zip(some, outcomes, strict=True):
                keep(i, outcome)
            columns.append(arrays_of(outcomes, engine.parameters))
        return {n: np.concatenate([c[n] for c in columns]) for n in columns[0]}


@dataclass(frozen=True)
class Progress:
    """How far a survey is.

    Attributes
    ----------
    stars, shards : int
        Of the survey.
    done, done_shards : int
        Stars and shards that are written.
    failed : int
        Rows that have no labels.
    rate : float
        Stars per second, as the shards of late came in; NaN before there are two.
    left : float
        Seconds to go at that rate.
    """

    stars: int
    shards: int
    done: int
    done_shards: int
    failed: int
    rate: float
    left: float

    def __str__(self) -> str:
        text = (f"{self.done} of {self.stars} stars done ({self.done_shards} of {self.shards} "
                f"shards), {self.failed} without a fit")
        if np.isfinite(self.rate) and self.done < self.stars:
            text += f"; {self.rate:.1f} stars/s, {_duration(self.left)} to go"
        return text


#: shards whose times say how fast a survey is
OF_LATE = 20


def status(folder: str | Path) -> Progress:
    """Say how far a survey is, from what is in its folder; whoever runs it is not asked.

    Raises
    ------
    FileNotFoundError
        When there is no survey.
    """
    survey = Survey.open(folder)
    done = survey.done()
    stars = {n: len(survey.numbers(n)) for n in done}
    late = sorted(done, key=lambda n: done[n]["at"])[-OF_LATE:]
    span = done[late[-1]]["at"] - done[late[0]]["at"] if len(late) > 1 else 0.0
    rate = sum(stars[n] for n in late[1:]) / span if span > 0 else np.nan
    count = sum(stars.values())
    return Progress(survey.count, survey.shards, count, len(done),
                 sum(s["failed"] for s in done.values()), rate, (survey.count - count) / rate)


def reason(folder: str | Path, index: int) -> str:
    """Return why a star has no fit, in words."""
    survey = Survey.open(folder)
    shard = index // survey.size
    return str(survey.rows(shard)[0]["message"][index - survey.numbers(shard)[0]])


def run(
    inputs: str | Path | Iterable[str | Path] | None, folder: str | Path, *,
    workers: int | None = None, scheduler: str | None = None, shard: int = 512,
    single: bool = False, retry_failed: bool = False, again: bool = False,
    medium: str | None = None, models: bool = False, batch: int | None = None,
    progress: bool | None = None, **options: Any,
) -> Progress:
    """Fit the stars of files, and keep what is done in a folder; called again, it goes on.

    Parameters
    ----------
    inputs : path or sequence of paths, optional
        As of :func:`stellarfit.fit_many`; None for those of the folder's survey, and its settings,
        of which those that are given must be the same.
    folder : path
        Of the survey; every worker must see it, and the files, under the same names.
    workers : int, optional
        Processes to start here, each with one thread; as many as there are cores by default.
    scheduler : str, optional
        Address of a dask scheduler whose workers to use instead: ``tcp://host:8786``.
    shard : int
        Stars that are written together; changes no row.
    single : bool
        No file holds more than one star.
    retry_failed : bool
        Fit batches again in which a star was missing or unreadable, or its fit failed.
    again : bool
        Fit everything again.
    medium, models, batch, **options
        As of :func:`stellarfit.fit_many`; `models` says whether to keep results in full.
        Options, ``device`` among them, are plain: names and numbers, no objects.
    progress : bool, optional
        Show a bar; by default where there is a terminal.

    Returns
    -------
    Progress

    Raises
    ------
    IncompleteError
        When a shard could not be made; the others are done.
    OSError
        When the folder cannot be written to; what is done stays.
    OtherSurveyError
        When the folder holds a survey of other inputs or settings.
    ValueError, TypeError, FileNotFoundError
        For settings that no star could be fitted with, unknown options, a file given twice, and
        when there is no such emulator, or none of the files.
    """
    settings = {**options, **({"batch": batch} if batch is not None else {}),
                **({"medium": medium} if medium else {}), **({"models": True} if models else {})}
    if inputs is None:
        survey = Survey.open(folder)
        if other := survey.other_settings(plain_settings(settings)):
            raise OtherSurveyError(f"the survey in '{folder}' has settings of its own; other: "
                                   f"{', '.join(other)}; leave them out, or begin another")
        try:
            survey.targets([0])
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{error}; give the inputs again, and it is written anew") from error
    else:
        survey = Survey.begin(folder, find_targets(inputs, single=single),
                              {"batch": BATCH, **settings}, size=shard)
    left = _left(survey, again, retry_failed)
    workers = workers or _cores()
    clear_temporaries(survey.folder / "shards", survey.folder / "models")
    errors: list[Made] = []
    stars = sum(len(survey.numbers(n)) for n in left)
    bar = tqdm(total=survey.count, initial=survey.count - stars, unit="star",
               disable=None if progress is None else not progress)
    with bar, Workers(Maker(survey, retry=retry_failed and not again),
                      min(workers, max(1, len(left))), scheduler, patience=PATIENCE,
                      extra="survey") as pool:
        for made in pool.make([np.array([n]) for n in left]):
            if made.fatal:
                raise OSError(f"shard {made.shard}: {made.error}; {status(folder)}")
            if made.error:
                errors.append(made)
                continue
            bar.update(made.stars)
    if errors:
        raise IncompleteError(
            f"{len(errors)} of {survey.shards} shards could not be made, the first "
            f"({errors[0].shard}) because of {errors[0].error}; run again to try again")
    return status(folder)


def _left(survey: Survey, again: bool, retry: bool) -> list[int]:
    """Return the shards that are to be made."""
    if again:
        return list(range(survey.shards))
    found = []
    for shard in range(survey.shards):
        try:
            _, said = survey.rows(shard)
        except (FileNotFoundError, ValueError):
            found.append(shard)
            continue
        if retry and said["for_now"]:
            found.append(shard)
    return found


#: seconds after which a file under a temporary name is nobody's: writing one takes a moment
ABANDONED = 60.0


def clear_temporaries(*folders: Path) -> None:
    """Remove what kills have left under temporary names, and nothing that is being written."""
    for folder in folders:
        for path in folder.glob(".*.h5") if folder.is_dir() else ():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()


def merge(
    folder: str | Path, out: str | Path, *, aliases: str | None = None
) -> Table:
    """Put the shards of a survey together, in the order of its inputs, and write the catalogue.

    Parameters
    ----------
    folder : path
    out : path
        ``.fits``, ``.ecsv`` or ``.parquet``.
    aliases : {'galah', 'apogee'}, optional
        Names of columns.

    Returns
    -------
    astropy.table.Table

    Raises
    ------
    IncompleteError
        When shards are missing or damaged: a catalogue with holes is none.
    ValueError, FileNotFoundError
        For another suffix, and a folder that holds no survey.
    """
    check_suffix(out)
    check_aliases(aliases)
    survey = Survey.open(folder)
    parts, holes = [], []
    for shard in range(survey.shards):
        try:
            parts.append(survey.rows(shard)[0])
        except (FileNotFoundError, ValueError) as error:
            holes.append(str(error))
    if holes:
        raise IncompleteError(
            f"{len(holes)} of {survey.shards} shards are missing or damaged ({holes[0]}): "
            f"'stellarfit survey run --out {folder}' makes them")
    arrays = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
    table = to_table({**survey.where(), **arrays}, _engine(survey)[0].parameters,
                     survey.provenance, aliases=aliases)
    write_table(table, out)
    return table


def _duration(seconds: float) -> str:
    """Return a time to read."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
