"""A survey on disk: what is asked for, and the shards that are done.

    FOLDER/survey.json          settings, and the hash of all that decides the rows
    FOLDER/targets.h5           every star, in order
    FOLDER/shards/0000012.h5    rows of a shard, with their hash
    FOLDER/models/0000012.h5    results in full, if they are asked for

A shard is written under another name and then renamed, by whoever made it and nobody else; a second
maker of the same shard writes the same rows.  So there is nothing to lock, and whatever is killed,
what is there is whole.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.files import read_description, sha256, write_json
from stellarfit.hdf5 import in_memory, opened, write_arrays
from stellarfit.priors import Colour, Gaussian, Uniform
from stellarfit.survey.catalogue import Arrays
from stellarfit.survey.engine import Engine, Status, check_options
from stellarfit.survey.targets import Target, as_text

FORM, FORM_VERSION = "stellarfit survey", 1
TARGETS, ROWS = "stellarfit-targets-1", "stellarfit-shard-1"
#: settings that may be paths: the emulator's, whose tensors count, and files, whose contents do
FILES = ("emulator", "instrument", "calibration")
#: how names of files become bytes, whatever they are
NAMES = ("utf-8", "surrogateescape")
#: a row with one of these may come out otherwise at another time
FOR_NOW = Status.MISSING | Status.UNREADABLE | Status.FAILED | Status.CRASHED


class OtherSurveyError(ValueError):
    """The folder holds a survey of other targets or settings."""


@dataclass(frozen=True, eq=False)
class Survey:
    """A survey's folder.

    Attributes
    ----------
    folder : Path
    settings : dict
        Options of the engine, ``medium`` and ``models``, as JSON has them.
    provenance : dict
        For the head of the catalogue.
    count : int
        Of stars.
    size : int
        Stars per shard; a multiple of ``batch``, so that it makes no difference to any row.
    key : str
        SHA-256 of targets, settings, the emulator's weights and the version: of all that decides
        a row.
    """

    folder: Path
    settings: dict[str, Any]
    provenance: dict[str, Any]
    count: int
    size: int
    key: str

    @classmethod
    def begin(
        cls, folder: str | Path, targets: Sequence[Target], settings: Mapping[str, Any], *,
        size: int = 512,
    ) -> Survey:
        """Make a folder, or open it if it holds this very survey.

        Raises
        ------
        OtherSurveyError
            When it holds another.
        ValueError
            For settings that no star could be fitted with.
        """
        folder = Path(folder)
        plain = plain_settings(settings)
        check_options(engine_options(plain))
        engine = Engine(**engine_options(plain))
        said = provenance_of(engine, plain)
        # Whoever goes on from another folder means the same files.
        targets = [Target(os.path.abspath(t.file), t.star) for t in targets]
        if len(set(targets)) < len(targets):
            twice = next(t.file for t, n in Counter(targets).items() if n > 1)
            raise ValueError(f"'{twice}' is given more than once, under different names: every "
                             "input is one row")
        files = list(dict.fromkeys(t.file for t in targets))
        if (own := os.path.abspath(folder)) in {os.path.dirname(f) for f in files}:
            raise ValueError(f"'{own}' holds spectra: give the survey a folder of its own")
        number = {f: i for i, f in enumerate(files)}
        arrays = {"files": np.char.encode(np.array(files), *NAMES),
                  "file": np.array([number[t.file] for t in targets], dtype=np.int64),
                  "star": np.array([t.star for t in targets], dtype=np.int64)}
        key = hashlib.sha256(json.dumps([said, digest(arrays)], sort_keys=True).encode())
        size = engine.batch * max(1, -(-size // engine.batch))
        survey = cls(folder, plain, said, len(targets), size, key.hexdigest())
        if (folder / "survey.json").exists():
            there = cls.open(folder)
            if there.key != survey.key:
                other = there.other_settings({k: plain[k] for k in plain if k != "models"}) + [
                    k for k, v in said.items() if k != "SETTINGS" and there.provenance.get(k) != v]
                raise OtherSurveyError(
                    f"'{folder}' holds another survey, of {there.count} stars, and this is of "
                    f"{len(targets)}; other: {', '.join(other) or 'the files'}; give another "
                    "folder, or remove this one")
            if plain.get("models") and not there.settings.get("models"):
                raise OtherSurveyError(f"the survey in '{folder}' was begun without models, and "
                                       "shards that are done have none; give another folder")
            try:
                there.targets([0])
            except (FileNotFoundError, ValueError):  # the same key: of the same targets
                _write(folder / "targets.h5", TARGETS, arrays, {})
            return there
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        _write(folder / "targets.h5", TARGETS, arrays, {})
        write_json(folder / "survey.json", {
            "format": FORM, "format_version": FORM_VERSION, "settings": plain,
            "provenance": said, "count": survey.count, "size": size, "key": survey.key})
        return survey

    @classmethod
    def open(cls, folder: str | Path) -> Survey:
        """Return the survey of a folder.

        Raises
        ------
        FileNotFoundError
            When there is none.
        ValueError
            When its description is damaged.
        """
        folder = Path(folder)
        path = folder / "survey.json"
        if not path.is_file():
            raise FileNotFoundError(f"no survey in '{folder}': begin one with 'stellarfit survey "
                                    "run FILES... --out FOLDER'")
        said = read_description(path, FORM, FORM_VERSION)
        try:
            return cls(folder, *(said[k] for k in ("settings", "provenance", "count", "size",
                                                   "key")))
        except KeyError as error:
            raise ValueError(f"'{path}' is damaged: it has no {error}") from error

    def other_settings(self, given: Mapping[str, Any]) -> list[str]:
        """Return those of some plain settings that are not the survey's, each with both values."""
        usual = {n: p.default for n, p in inspect.signature(Engine).parameters.items()}
        then = {n: self.settings.get(n, usual.get(n)) for n in given}
        return [f"{n} = {v} (it has {then[n]})" for n, v in given.items()
                if v != then[n]]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.size)

    def numbers(self, shard: int) -> range:
        """Return the numbers of a shard's stars."""
        return range(shard * self.size, min(self.count, (shard + 1) * self.size))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the targets behind: who makes a shard reads them."""
        return {k: v for k, v in self.__dict__.items() if k != "_targets"}

    def engine(self) -> Engine:
        """Return what fits the stars, if it is still what it was when the survey began.

        Raises
        ------
        OtherSurveyError
            When weights, files of the settings or the version have changed.
        """
        engine = Engine(**engine_options(self.settings))
        now = provenance_of(engine, self.settings)
        if changed := [k for k, v in self.provenance.items() if now.get(k) != v]:
            raise OtherSurveyError(
                f"since the survey in '{self.folder}' began, {', '.join(changed)} changed: rows of "
                "two kinds do not go together; begin another")
        return engine

    @cached_property
    def _targets(self) -> Arrays:
        return read(self.folder / "targets.h5", "list of targets", TARGETS)[0]

    def targets(self, numbers: Sequence[int]) -> list[Target]:
        """Return some of the stars."""
        held = self._targets
        return [Target(held["files"][held["file"][i]].decode(*NAMES), int(held["star"][i]))
                for i in numbers]

    def where(self) -> Arrays:
        """Return the columns that say what each row is of."""
        held = self._targets
        files = np.array([as_text(f.decode(*NAMES)) for f in held["files"]])
        return {"index": np.arange(self.count), "file": files[held["file"]], "star": held["star"]}

    def rows(self, shard: int) -> tuple[Arrays, dict[str, Any]]:
        """Return the rows of a shard, and what is said of them.

        Raises
        ------
        FileNotFoundError
            When it is not done.
        ValueError
            When it is damaged, or another survey's.
        """
        arrays, said = read(self._path(shard), "shard", ROWS)
        if (said.get("key"), said.get("shard")) != (self.key, shard):
            raise ValueError(f"'{self._path(shard)}' belongs to another survey, or elsewhere")
        for name, values in arrays.items():
            if values.dtype.kind == "S":
                arrays[name] = np.char.decode(values, "utf-8")
        if any(len(v) != len(self.numbers(shard)) for v in arrays.values()):
            raise ValueError(f"'{self._path(shard)}' has not as many rows as it should")
        return arrays, said

    def keep(self, shard: int, rows: Arrays, seconds: float) -> dict[str, Any]:
        """Write the rows of a shard, and return what is said of them."""
        arrays = {n: np.char.encode(v, "utf-8") if v.dtype.kind == "U" else v
                  for n, v in rows.items()}
        status = rows["status"]
        said = {"key": self.key, "shard": shard, "seconds": seconds,
                "failed": int((status != 0).sum()),
                "for_now": int(((status & int(FOR_NOW)) != 0).sum())}
        _write(self._path(shard), ROWS, arrays, said)
        return said

    def done(self) -> dict[int, dict[str, Any]]:
        """Return what is said of the shards that are there, whole or not."""
        found = {}
        for path in sorted((self.folder / "shards").glob("*.h5")):
            try:
                with opened(path, "shard", ROWS) as file:
                    said = json.loads(file.attrs["said"])
                shard = int(said["shard"])
                at = path.stat().st_mtime
            except Exception:  # a damaged file may raise anything
                continue
            if path == self._path(shard) and shard < self.shards and said.get("key") == self.key:
                found[shard] = {**said, "at": at}
        return found

    def models_of(self, shard: int) -> Path:
        """Return where the results of a shard are, in full."""
        return self.folder / "models" / f"{shard:07d}.h5"

    def _path(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:07d}.h5"


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them, paths in full, without the usual device."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=_plain))
    for name in FILES:
        if isinstance(given := plain.get(name), str) and Path(given).exists():
            plain[name] = os.path.abspath(given)
    if plain.get("device") == "cpu":
        del plain["device"]
    return plain


def engine_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings that the engine takes."""
    return {k: v for k, v in settings.items() if k not in ("medium", "models")}


def provenance_of(engine: Engine, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a catalogue says of where it comes from."""
    known = {k: v if isinstance(v, (str, int, float, bool, list, tuple, dict, type(None)))
             else str(v) for k, v in settings.items() if k != "models"}
    emulator, errors = engine.emulator, engine.emulator.errors
    weights = {n: t.detach().cpu().numpy() for n, t in emulator.network.state_dict().items()}
    if errors is not None:
        weights |= {f"errors {n}": t.numpy() for n, t in errors.tensors().items()}
    contents = {n: sha256(p) for n in FILES[1:] if isinstance(p := settings.get(n), (str, Path))
                and Path(p).is_file()}
    return {"EMULATOR": emulator.identity, "EMUSHA": emulator.sha256,
            "TENSORS": digest(weights), "VERSION": version("stellarfit"),
            "SETTINGS": json.dumps(known, sort_keys=True, default=str),
            "FILES": json.dumps(contents, sort_keys=True)}


def _plain(value: Any) -> str:
    """Return a setting as text that another process understands."""
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, (Gaussian, Uniform, Colour)):
        return str(value)
    raise ValueError(f"a survey's settings are names, numbers and paths, that every worker can "
                     f"read; got {type(value).__name__}")


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a SHA-256 of arrays: names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _write(path: Path, form: str, arrays: Arrays, said: Mapping[str, Any]) -> None:
    with in_memory(path) as file:
        file.attrs["format"] = form
        file.attrs["said"] = json.dumps(dict(said))
        file.attrs["sha256"] = digest(arrays)
        write_arrays(file, arrays)


def read(path: Path, what: str, form: str) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of a file of ours, whose hash is right, and what is said of them."""
    try:
        with opened(path, what, form) as file:
            arrays = {n: values[()] for n, values in file.items()}
            said, promised = json.loads(file.attrs["said"]), file.attrs["sha256"]
        found = digest(arrays)
    except FileNotFoundError:
        raise
    except Exception as error:  # HDF5 and JSON may stumble over damage anywhere
        text = str(error)
        raise ValueError(text if str(path) in text else f"'{path}' is damaged: {text}") from error
    if found != promised:
        raise ValueError(f"'{path}' is damaged: its hash is not what it was written with")
    return arrays, said
