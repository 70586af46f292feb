"""Trainings written down: TOML files of one or more runs, each starting from another.

::

    [grids]                          # files, relative to this one or to --grids
    pretrain = "mgb-pretrain.h5"
    target = "mgb-target.h5"

    [defaults]                       # for every run below
    precision = "bf16"

    [train.base]                     # a run, written to OUT/base
    grid = "pretrain"
    scale = ["pretrain", "target"]   # the scale of the labels spans these grids
    options = { dim = 64, layers = 6 }
    steps = 24_000

    [train.target]                   # runs follow one another as they stand in the file
    grid = "target"
    init = "base"                    # a run above, an emulator that ships, or a folder
    mode = "lora"
    lora = { rank = 16 }

Any other key of a run is a field of :class:`emulators.Recipe`.  A key that is unknown is an
error, so that a misspelt setting cannot pass for its default; so is one that has no effect: a
run with `init` takes network, options and scale from there.  The folder in `init` is relative
to where the command is called.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from emulators.emulator import Emulator
from emulators.files import shipped_folder
from emulators.grid import Grid
from emulators.labels import LabelSet, unknown_names
from emulators.lora import Lora
from emulators.networks import NETWORKS, build, options_of
from emulators.recipe import Recipe
from emulators.storage import available
from emulators.training import lora_of, train

TABLES = ("grids", "defaults", "train")
RECIPE = tuple(f.name for f in fields(Recipe))
#: what `init` brings
BROUGHT = ("scale", "network", "options")
OWN = ("grid", *BROUGHT, "init", "mode", "lora", "name")


@dataclass(frozen=True)
class Config:
    """The runs of a configuration file.

    Attributes
    ----------
    runs : dict of str to dict
        The keys of each run, those of ``defaults`` included, in the order of the file.
    grids : dict of str to Path
    """

    runs: dict[str, dict[str, Any]]
    grids: dict[str, Path]

    @classmethod
    def read(cls, path: str | Path, *, grids: str | Path | None = None) -> Config:
        """Read and check a file.

        Parameters
        ----------
        path : path
            A file, or the name of one in ``data/trainings``, which ships.
        grids : path, optional
            The folder of the grids; that of the file by default.

        Raises
        ------
        FileNotFoundError
            When the file is missing.
        ValueError
            When it is not TOML, has an unknown key (with the valid ones), or a run that
            cannot be.
        """
        path = _file(path)
        try:
            content = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"'{path}' is not TOML: {error}") from error
        _check_keys(content, TABLES, f"table in '{path}'")
        named, defaults, given = (_table(content.get(n, {}), f"[{n}]") for n in TABLES)
        folder = Path(grids) if grids is not None else path.parent
        files = {n: folder / _file_name(n, file) for n, file in named.items()}
        _check_keys(defaults, (*OWN, *RECIPE), "key in [defaults]")
        runs = {n: _with_defaults(_table(run, f"[train.{n}]"), defaults)
                for n, run in given.items()}
        if not runs:
            raise ValueError(f"'{path}' has no [train.NAME]: there is nothing to train")
        for name, run in runs.items():
            _check_run(name, run, files, above=list(runs)[:list(runs).index(name)])
        return cls(runs, files)

    def train(
        self, out: str | Path, *, only: Sequence[str] = (), resume: bool = False,
        **settings: Any,
    ) -> dict[str, Emulator]:
        """Train one run after the other, in the folders ``out/NAME``.

        Parameters
        ----------
        out : path
        only : sequence of str
            Names of the runs to do, in the order of the file; all by default.
        resume : bool
            Go on with runs that have begun; those that are finished stay as they are.
        **settings
            ``device``, ``progress``, ``tensorboard`` of :func:`emulators.train`.

        Raises
        ------
        FileNotFoundError
            When a grid of one of these runs is missing, before any of them begins.
        """
        if wrong := [n for n in only if n not in self.runs]:
            raise unknown_names(wrong, list(self.runs), what="run")
        chosen = [n for n in self.runs if n in (only or self.runs)]
        for name in chosen:
            for grid in (self.runs[name]["grid"], *self.runs[name].get("scale", ())):
                if not self.grids[grid].is_file():
                    raise FileNotFoundError(
                        f"no grid at '{self.grids[grid]}', which the run '{name}' reads; say with "
                        f"--grids (grids=) in which folder it lies"
                    )
        trained = {}
        for name in chosen:
            run = dict(self.runs[name])
            if run.get("init") in self.runs:
                run["init"] = Path(out) / run["init"] / "best"
            if scale := run.pop("scale", ()):
                sets = [Grid(self.grids[g]).label_set for g in scale]
                run["labels"] = LabelSet.spanning(*sets)
            run["grid"] = self.grids[run["grid"]]
            run.setdefault("name", name)
            trained[name] = train(out=Path(out) / name, resume=resume, **run, **settings)
        return trained


def _file(path: str | Path) -> Path:
    for file in (Path(path), shipped_folder("trainings") / path):
        if file.is_file():
            return file
    ship = sorted(p.name for p in shipped_folder("trainings").glob("*.toml"))
    raise FileNotFoundError(f"no configuration file '{path}'; those that ship: {', '.join(ship)}")


def _with_defaults(run: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with the defaults that mean something for it."""
    both = {**defaults, **run}
    idle = set(BROUGHT) if "init" in both else {"mode"}
    if "init" not in both or both.get("mode") != "lora":
        idle.add("lora")
    return {**{k: v for k, v in defaults.items() if k not in idle}, **run}


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a table of keys and values, got {value!r}")
    return value


def _file_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} in [grids] must be a file name, got {value!r}")
    return value


def _check_keys(table: Mapping[str, Any], valid: Sequence[str], what: str) -> None:
    if wrong := [k for k in table if k not in valid]:
        raise unknown_names(wrong, valid, what=what)


def _check_run(
    name: str, run: Mapping[str, Any], grids: Mapping[str, Path], *, above: Sequence[str]
) -> None:
    """Find what would otherwise come to light after the runs above, hours later."""
    _check_keys(run, (*OWN, *RECIPE), f"key in [train.{name}]")
    if "grid" not in run:
        raise ValueError(f"[train.{name}] has no grid; valid: {', '.join(grids) or '[grids]'}")
    for key in ("grid", "network", "init", "mode", "name"):
        if not isinstance(run.get(key, ""), str):
            raise ValueError(f"{key} of [train.{name}] must be a word, got {run[key]!r}")
    if not isinstance(run.get("scale", []), list):
        raise ValueError(f"scale of [train.{name}] must be a list, got {run['scale']!r}")
    if wrong := [g for g in (run["grid"], *run.get("scale", ())) if g not in grids]:
        raise unknown_names(wrong, list(grids), what=f"grid in [train.{name}]")
    if (kind := run.get("network", "transformer")) not in NETWORKS:
        raise unknown_names([kind], list(NETWORKS), what=f"network in [train.{name}]")
    init = run.get("init")
    if init is not None and init not in (*above, *available()) and not Path(init).is_dir():
        raise ValueError(
            f"[train.{name}] starts from {init!r}, which is neither a run above it "
            f"({', '.join(above) or 'none'}), nor an emulator that ships "
            f"({', '.join(available()) or 'none'}), nor a folder"
        )
    if "init" in run and (extra := [k for k in BROUGHT if k in run]):
        raise ValueError(
            f"[train.{name}] starts from {run['init']!r}, which brings its own "
            f"{', '.join(extra)}: leave that out"
        )
    options = _table(run.get("options", {}), f"options of [train.{name}]")
    _check_keys(options, options_of(kind), f"key in options of [train.{name}]")
    try:  # on no device: this takes no memory and no random numbers
        with torch.device("meta"):
            # of more pixels than an option may need
            build(kind, 2, torch.linspace(5000.0, 6000.0, 100_000, device="cpu"), **options)
    except ValueError as error:
        raise ValueError(f"options of [train.{name}]: {error}") from error
    adapters = _table(run.get("lora", {}), f"lora of [train.{name}]")
    _check_keys(adapters, [f.name for f in fields(Lora)], f"key in lora of [train.{name}]")
    try:
        Recipe(**{k: v for k, v in run.items() if k in RECIPE})
        lora_of(run.get("mode", "full"), run.get("lora"), init)
    except (TypeError, ValueError) as error:
        raise ValueError(f"[train.{name}]: {error}") from error
