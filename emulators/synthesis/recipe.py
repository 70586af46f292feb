"""A grid written down: twenty lines of TOML from which anyone can make it again.

::

    [grid]
    title = "FGK stars, Mg b"
    number = 3000
    seed = 1
    validation = 0.08                  # of the spectra

    [wavelength]
    windows = [[5150.0, 5300.0]]       # Angstrom
    resolution = 100_000               # pixels of constant width in ln(wavelength), 1/resolution
    medium = "air"

    [atmosphere]
    models = "c3k"                     # the one that ships, or a file or folder beside the recipe
    m_h = "fe_h"                       # the composition the structure is made for; 0 by default
    alpha_m = "alpha_fe"

    [lines]
    list = "optical.h5"                # one that ships, or a file beside the recipe
    without = ["NH", "OH"]             # species to leave out
    select = 1e-3                      # keep lines this strong somewhere in the domain
    reach = 100.0                      # Angstrom beyond the windows for the strongest

    [engine]
    name = "pysme"

    [labels]                           # and [[elements]]: see emulators.synthesis.distribution
    ...

A key that is unknown is an error, as is a distribution that cannot be.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.files import sha256, shipped_folder
from emulators.labels import unknown_names
from emulators.synthesis.abundances import SOLAR_SCALES
from emulators.synthesis.distribution import Distribution, read_distribution
from emulators.synthesis.drawn import Affine, is_number

#: the keys of each table with their defaults; None where a value must be given
TABLES: dict[str, dict[str, Any]] = {
    "grid": {"title": "", "number": None, "seed": 0, "validation": 0.1},
    "wavelength": {"windows": None, "resolution": None, "medium": None},
    "atmosphere": {"models": "c3k", "m_h": 0.0, "alpha_m": 0.0},
    "lines": {"list": "optical.h5", "without": [], "select": 1e-3, "reach": 100.0,
              "isotopes": "terrestrial"},
    "engine": {"name": "pysme", "annuli": 7, "accuracy": 1e-4},
}
ENGINES = ("pysme",)
ISOTOPES = ("terrestrial", "undivided")


@dataclass(frozen=True, eq=False)
class GridRecipe:
    """What a grid is made of.

    Attributes
    ----------
    settings : dict of str to dict
        The tables but for the labels, with their defaults.
    labels : dict
        The tables ``labels`` and ``elements`` as they were given.
    distribution : Distribution
    solar_scale : str
    m_h, alpha_m : Affine
        What the structure of the atmosphere follows.
    atmosphere, lines : Path
        The file or folder of the models, and the file of the line list.
    """

    settings: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, Any]
    distribution: Distribution
    solar_scale: str
    m_h: Affine
    alpha_m: Affine
    atmosphere: Path
    lines: Path

    @classmethod
    def read(cls, path: str | Path) -> GridRecipe:
        """Read a recipe: a file, or the name of one that ships.

        Raises
        ------
        FileNotFoundError
            When it, or a file that it names, is missing.
        ValueError
            When it is not TOML, has a key that is unknown or a value that cannot be; the
            message names the key.
        """
        path = _recipe_file(path)
        try:
            content = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"'{path}' is not TOML: {error}") from error
        try:
            return cls.from_dict(content, beside=path.parent)
        except ValueError as error:
            raise ValueError(f"'{path.name}': {error}") from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, beside: str | Path = ".") -> GridRecipe:
        """Return the recipe that nested tables describe; files lie `beside`."""
        valid = (*TABLES, "labels", "elements")
        if wrong := sorted(set(content) - set(valid)):
            raise unknown_names(wrong, valid, "table")
        settings = {name: _settings(name, content.get(name, {})) for name in TABLES}
        _check(settings)
        labels = dict(content.get("labels", {}))
        scale = labels.pop("solar_scale", "asplund2009")
        if scale not in SOLAR_SCALES:
            raise ValueError(f"labels.solar_scale is {scale!r}; valid: {', '.join(SOLAR_SCALES)}")
        distribution = read_distribution(labels, content.get("elements", []),
                                         SOLAR_SCALES[scale])
        follow = {}
        for key in ("m_h", "alpha_m"):
            follow[key] = Affine.read(settings["atmosphere"][key], f"atmosphere.{key}")
            drawn = [d.name for d in distribution.drawn]
            if unknown := sorted(follow[key].names - set(drawn)):
                raise unknown_names(unknown, drawn, f"label in atmosphere.{key}:")
        models = settings["atmosphere"]["models"]
        models = "c3k.h5" if models == "c3k" else models
        return cls(
            settings, {"labels": content.get("labels", {}),
                       "elements": content.get("elements", [])},
            distribution, scale, **follow,
            atmosphere=_file("atmosphere.models", models, "atmospheres", Path(beside)),
            lines=_file("lines.list", settings["lines"]["list"], "linelists", Path(beside)),
        )

    @cached_property
    def wavelength(self) -> NDArray[np.float64]:
        """The pixels, Angstrom, (n_pix,), in the medium of the recipe."""
        step = 1.0 / self.settings["wavelength"]["resolution"]
        parts = []
        for low, high in self.settings["wavelength"]["windows"]:
            count = int(np.floor(np.log(high / low) / step + 1e-9)) + 1
            parts.append(low * np.exp(step * np.arange(count)))
        return np.concatenate(parts)

    @property
    def medium(self) -> str:
        """``air`` or ``vacuum``."""
        return str(self.settings["wavelength"]["medium"])

    @property
    def number(self) -> int:
        """How many spectra to make."""
        return int(self.settings["grid"]["number"])

    @property
    def seed(self) -> int:
        """Of the samples."""
        return int(self.settings["grid"]["seed"])

    def samples(self, index: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return samples by number, (n_index,) per label, hidden ones included."""
        return self.distribution.sample(index, self.seed)

    def split(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return 1 for samples of the validation, 0 for the rest, (n_index,).

        They are spread evenly, so that a longer grid keeps those of a shorter one.
        """
        share = self.settings["grid"]["validation"]
        held = np.floor((index + 1) * share) > np.floor(index * share)
        return np.asarray(held, dtype=np.uint8)

    @cached_property
    def contents(self) -> dict[str, Any]:
        """All that decides what sample i is, with the hashes of the files."""
        settings = {name: dict(table) for name, table in self.settings.items()}
        for key in ("title", "number", "validation"):
            del settings["grid"][key]
        return {**settings, **self.labels, "atmosphere_sha256": _digest(self.atmosphere),
                "lines_sha256": sha256(self.lines)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of :attr:`contents`."""
        return hashlib.sha256(json.dumps(self.contents, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files in order."""
    if not path.is_dir():
        return sha256(path)
    listed = "".join(f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir())
                     if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256(listed.encode()).hexdigest()


def _recipe_file(path: str | Path) -> Path:
    shipped = shipped_folder("recipes")
    for file in (Path(path), shipped / path, shipped / f"{path}.toml"):
        if file.is_file():
            return file
    ship = sorted(p.name for p in shipped.glob("*.toml"))
    raise FileNotFoundError(f"no recipe '{path}'; those that ship: {', '.join(ship)}")


def _file(key: str, name: Any, shipped: str, beside: Path) -> Path:
    if not isinstance(name, str):
        raise ValueError(f"{key} must be the name of a file, got {name!r}")
    for file in (beside / name, shipped_folder(shipped) / name):
        if file.exists():
            return file
    raise FileNotFoundError(f"{key}: no '{name}' beside the recipe, nor one that ships")


def _settings(name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"[{name}] must be a table")
    keys = TABLES[name]
    if wrong := sorted(set(table) - set(keys)):
        raise unknown_names(wrong, tuple(keys), f"key in [{name}]:")
    if missing := [k for k, v in keys.items() if v is None and k not in table]:
        raise ValueError(f"{name}.{missing[0]} is missing")
    return {**keys, **table}


def _check(settings: dict[str, dict[str, Any]]) -> None:
    """Raise for values that cannot be, with their keys."""
    def require(key: str, right: bool, what: str) -> None:
        table, name = key.split(".")
        if not right:
            raise ValueError(f"{key} must be {what}, got {settings[table][name]!r}")

    grid, wave = settings["grid"], settings["wavelength"]
    require("grid.number", type(grid["number"]) is int and grid["number"] >= 1,
            "a whole number of at least 1")
    require("grid.seed", type(grid["seed"]) is int and grid["seed"] >= 0,
            "a whole number of at least 0")
    require("grid.validation", is_number(grid["validation"]) and 0 <= grid["validation"] < 1,
            "a fraction in [0, 1)")
    require("grid.title", isinstance(grid["title"], str), "text")
    windows = wave["windows"]
    require("wavelength.windows", isinstance(windows, list) and bool(windows) and all(
        isinstance(w, list) and len(w) == 2 and all(map(is_number, w)) and 0 < w[0] < w[1]
        for w in windows), "pairs of rising wavelengths, [[low, high], ...]")
    require("wavelength.windows", all(a[1] < b[0] for a, b in pairwise(windows)),
            "in order and apart")
    require("wavelength.resolution", is_number(wave["resolution"]) and wave["resolution"] > 100,
            "a number above 100")
    require("wavelength.medium", wave["medium"] in ("air", "vacuum"), '"air" or "vacuum"')
    lines, engine = settings["lines"], settings["engine"]
    require("lines.without", isinstance(lines["without"], list)
            and all(isinstance(s, str) for s in lines["without"]), "a list of species")
    require("lines.select", is_number(lines["select"]) and lines["select"] >= 0,
            "an opacity ratio of at least 0 (0 keeps all)")
    require("lines.reach", is_number(lines["reach"]) and lines["reach"] >= 0,
            "a distance of at least 0 Angstrom")
    require("lines.isotopes", lines["isotopes"] in ISOTOPES, " or ".join(map(repr, ISOTOPES)))
    require("engine.name", engine["name"] in ENGINES, " or ".join(map(repr, ENGINES)))
    require("engine.annuli", type(engine["annuli"]) is int and engine["annuli"] >= 2,
            "a whole number of at least 2")
    require("engine.accuracy", is_number(engine["accuracy"]) and engine["accuracy"] > 0,
            "a positive number")
