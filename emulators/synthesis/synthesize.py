"""Make the grid of a recipe, on one core or a cluster, and lose nothing when killed.

Samples are made in shards.  Each is written, whole or not at all, into the folder
``OUT.parts`` by the process that was called, when it comes back from a worker; workers need
share no file system.  When all are there they become one file, and the folder goes.  The same
call after a kill makes what is missing.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from emulators.apart import Apart
from emulators.files import atomic_write, write_json
from emulators.grid import Grid
from emulators.synthesis.atmosphere import Models
from emulators.synthesis.atmosphere_formats import read_models
from emulators.synthesis.elements import ELEMENTS
from emulators.synthesis.engine import PySME
from emulators.synthesis.line_formats import read_lines
from emulators.synthesis.lines import LineList
from emulators.synthesis.making import Maker, Shard, reasons
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.selection import distance, select
from emulators.synthesis.storage import read_shards, samples_in, write_grid
from emulators.workers import Workers

logger = logging.getLogger(__name__)
Range = tuple[int, int]
#: Angstrom of a window without any line at its end that are worth a word
OVERHANG = 10.0


def synthesize(
    recipe: str | Path | GridRecipe,
    out: str | Path,
    *,
    number: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    append: bool = False,
    shard: int = 8,
    progress: bool | None = None,
) -> Grid:
    """Make the grid of a recipe.

    Parameters
    ----------
    recipe : path, str or GridRecipe
        A file, or the name of one that ships: ``mgb-fgk``.
    out : path
        The HDF5 file to write.
    number : int, optional
        How many spectra, instead of what the recipe says.  Sample i is the same whatever the
        number.
    workers : int
        Processes on this machine.
    scheduler : str, optional
        Address of a dask scheduler whose workers to use instead: ``tcp://host:8786``.
    append : bool
        Extend the grid that is in `out` to `number`; what is there stays.
    shard : int
        Spectra that a worker makes at a time, and that a kill may cost.
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Grid

    Raises
    ------
    FileExistsError
        When `out` is there, and it is not to be extended.
    FileNotFoundError
        When the recipe, a file that it names, or the folder of `out` is missing.
    ValueError
        When what is there is of another recipe, or not one spectrum could be made.
    RuntimeError
        When the selection of lines ended its process, or samples did not come back.
    OSError
        When no scheduler answers, or it goes away.
    ModuleNotFoundError
        Without the extra ``stellarfit[synthesis]``.

    Examples
    --------
    >>> grid = emulators.synthesize("mgb-fgk", "mgb-fgk.h5", workers=2)  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, GridRecipe) else GridRecipe.read(recipe)
    out = Path(out)
    number = recipe.number if number is None else number
    if number < 1 or workers < 1 or shard < 1:
        raise ValueError(f"number, workers and shard must be at least 1, got {number}, "
                         f"{workers} and {shard}")
    before = _before(recipe, out, append)
    if len(before) >= number:
        raise FileExistsError(f"'{out}' has {len(before)} samples already, and {number} in all "
                              f"were asked for")
    parts = out.with_name(f"{out.name}.parts")
    _claim(parts, recipe)
    maker = prepare(recipe, parts)
    if len(before) and (then := _lines_in(out)) != len(maker.engine.lines):
        raise ValueError(f"'{out}' was made with {then} lines, but this release selects "
                         f"{len(maker.engine.lines)}: it cannot be extended")

    missing = _missing(len(before), number, parts)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(
            total=number - len(before), unit="spectrum", smoothing=0.05,
            initial=number - len(before) - sum(b - a for a, b in missing),
            disable=None if progress is None else not progress, desc=out.name))
        pool = stack.enter_context(Workers(maker, workers, scheduler))
        for made in pool.make(list(_cut(missing, shard))):
            first, last = _range_of(made)
            made.write(parts / f"{first:09d}-{last:09d}.npz")
            bar.update(last - first)
    if lost := _missing(len(before), number, parts):
        raise RuntimeError(f"the workers did not return samples {lost}; call again")
    _merge(out, maker, len(before), [path for _, path in _shards(parts, len(before), number)])
    shutil.rmtree(parts)
    return Grid(out)


def prepare(recipe: GridRecipe, folder: Path | None = None) -> Maker:
    """Read the files of a recipe and select its lines; `folder` remembers which."""
    settings = recipe.settings["engine"]
    how = {"n_mu": settings["annuli"], "accuracy": settings["accuracy"]}
    lines, models = lines_of(recipe), read_models(recipe.atmosphere)
    citations = tuple(sorted(set(lines.source.tolist())))
    lines = replace(lines, source=np.full(len(lines), ""))  # most of their bytes, on the way
    engine = PySME(lines, **how)
    if recipe.settings["lines"]["select"]:
        keep = _selected(engine, recipe, models, folder)
        logger.info("%d of %d lines matter", keep.sum(), len(keep))
        engine = PySME(lines[keep], **how)
    return Maker(recipe, engine, models, citations)


def lines_of(recipe: GridRecipe) -> LineList:
    """Return the lines near the windows of a recipe, of the species and isotopes it asks for."""
    settings = recipe.settings["lines"]
    lines = read_lines(recipe.lines).in_air()
    kinds = np.array([s.split()[0] for s in lines.species])
    if wrong := sorted(set(settings["without"]) - set(kinds)):
        raise ValueError(f"lines.without names {', '.join(wrong)}, of which "
                         f"'{recipe.lines.name}' has no lines")
    wanted = ~np.isin(kinds, settings["without"])
    near = distance(lines.wavelength, recipe) <= settings["reach"]
    if not (wanted & near).any():
        raise ValueError(f"'{recipe.lines.name}' has no lines in the windows of the recipe")
    first, last = lines.wavelength[[0, -1]]
    if max(first - recipe.wavelength[0], recipe.wavelength[-1] - last) > OVERHANG:
        logger.warning("the lines of '%s' reach from %.0f to %.0f Å only, not all of "
                       "wavelength.windows", recipe.lines.name, first, last)
    lines, kinds = lines[wanted & near], kinds[wanted & near]
    if settings["isotopes"] == "undivided":
        atoms = np.isin(kinds, ELEMENTS)
        lines = replace(lines, log_fraction=np.where(atoms, 0.0, lines.log_fraction))
    return lines


def _selected(
    engine: PySME, recipe: GridRecipe, models: Models, folder: Path | None
) -> NDArray[np.bool_]:
    kept = folder / "lines.npy" if folder is not None else None
    if kept is not None and kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    with tqdm(desc="selecting lines", unit="corner", disable=None) as bar:
        def tell(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        with Apart(engine) as process:
            keep = select(engine.lines, recipe, partial(process.call, "strength"), models, tell)
    if kept is not None:
        with atomic_write(kept) as temporary:
            np.save(temporary, keep)
    return keep


def _before(recipe: GridRecipe, out: Path, append: bool) -> NDArray[np.int64]:
    """Return the samples that `out` has, none where it is to be made."""
    if not out.exists():
        return np.empty(0, dtype=np.int64)
    if not append:
        raise FileExistsError(f"'{out}' exists: give --append (append=True) to extend it, or "
                              f"another name")
    with Grid(out) as grid:
        theirs = grid.fingerprint
    if theirs != recipe.fingerprint:
        raise ValueError(f"'{out}' was made from another recipe, or with other line or "
                         f"atmosphere data: it cannot be extended by this one")
    there = samples_in(out)
    if not (there == np.arange(len(there))).all():
        raise ValueError(f"'{out}' lacks some of its first {len(there)} samples")
    return there


def _lines_in(out: Path) -> int:
    with Grid(out) as grid:
        return int(grid.provenance["made_by"]["n_line"])


def _claim(parts: Path, recipe: GridRecipe) -> None:
    """Make the folder of the shards, or check that it is this recipe's."""
    mark = parts / "recipe.json"
    if mark.is_file():
        if json.loads(mark.read_text())["fingerprint"] == recipe.fingerprint:
            return
        if any(parts.glob("*.npz")):
            raise ValueError(f"'{parts}' holds shards of another recipe: remove it, or give "
                             f"another name for the grid")
        shutil.rmtree(parts)  # of a recipe that came to nothing, and has been mended
    if not parts.parent.is_dir():
        raise FileNotFoundError(f"no folder '{parts.parent}' to write the grid into")
    parts.mkdir(exist_ok=True)
    write_json(mark, {"fingerprint": recipe.fingerprint, **recipe.contents})


def _shards(parts: Path, start: int, number: int) -> list[tuple[Range, Path]]:
    """Return the finished shards between two numbers of samples, in order, none twice.

    A folder may hold others too: of a run that asked for more, or that was killed after the
    grid had its name and before the folder went.
    """
    found, at = [], start
    for path in sorted(parts.glob("[0-9]*-*.npz")):
        first, last = map(int, path.stem.split("-"))
        if at <= first and last <= number:
            found.append(((first, last), path))
            at = last
    return found


def _missing(start: int, number: int, parts: Path) -> list[Range]:
    """Return the ranges of samples between two numbers that no shard holds."""
    missing, at = [], start
    for (first, last), _ in _shards(parts, start, number):
        missing.append((at, first))
        at = last
    return [(a, b) for a, b in [*missing, (at, number)] if a < b]


def _cut(ranges: list[Range], size: int) -> Iterator[NDArray[np.int64]]:
    for first, last in ranges:
        for at in range(first, last, size):
            yield np.arange(at, min(at + size, last))


def _range_of(made: Shard) -> Range:
    numbers = np.concatenate([made.index, made.failed_index])
    return int(numbers.min()), int(numbers.max()) + 1


def _merge(out: Path, maker: Maker, before: int, shards: list[Path]) -> None:
    """Write the grid of `before` samples that are in `out` and of those in the shards."""
    def content() -> Iterator[Shard]:
        if before:
            yield from read_shards(out)
        yield from map(Shard.read, shards)

    failed = [str(r) for path in shards for r in Shard.read(path).failed_reason]
    count = sum(len(Shard.read(path).index) for path in shards)
    if not count and not before:
        raise ValueError(f"not one spectrum could be made: {reasons(failed)}")
    if failed:
        logger.warning("%d of %d spectra failed, kept with their labels in /failed: %s",
                       len(failed), len(failed) + count, reasons(failed))
    write_grid(out, maker, content(), {
        "engine": maker.engine.identity, "stellarfit": version("stellarfit"),
        "n_line": len(maker.engine.lines), "recipe": maker.recipe.contents,
        "atmosphere": maker.models.citation,
        "lines": maker.citations,
    })
