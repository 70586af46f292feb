"""rvspecfit 0.9.0, run by the interpreter of its own environment: ``python rvs.py``.

Its templates are spectra of another's emulator, as its ``generic`` interpolation allows: for each
this asks on standard output, ``{"labels": [...]}``, and gets (n_grid,) float64 as bytes on standard
input.  The first line there is ``{"lam": [...], "names": [...], "low": [...], "high": [...],
"min_vel": V, "max_vel": V}``; every other, ``{"lam", "spec", "espec", "start"}``, is a star to fit,
answered with ``{"found": {...}}``.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rvspecfit import make_nd, serializer, spec_fit, utils, vel_fit

ARM = "mock"


def say(answer: dict[str, Any]) -> None:
    """Write a line to whoever asked; what others print goes elsewhere."""
    print(json.dumps(answer), file=sys.__stdout__, flush=True)


class AsTheyAre:
    """The map from labels to what templates are interpolated in."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def forward(self, labels: Any) -> Any:
        """Return the labels."""
        return np.asarray(labels, dtype=float)


class Templates:
    """Gets the spectrum of labels from the other process."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.size = 8 * len(description["lam"])

    def __call__(self, labels: Any) -> Any:
        """Return the spectrum, (n_grid,)."""
        say({"labels": labels.tolist()})
        return np.frombuffer(sys.stdin.buffer.read(self.size))


class Outside:
    """How far labels lie outside the box, 0 within it."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.low, self.high = description["low"], description["high"]

    def __call__(self, labels: Any) -> float:
        """Return the distance in widths of the box."""
        beyond = np.maximum(np.maximum(self.low - labels, labels - self.high), 0.0)
        return float(np.linalg.norm(beyond / (self.high - self.low)))


def write_library(folder: str, setup: dict[str, Any]) -> None:
    """Write the file from which rvspecfit learns where its templates come from."""
    serializer.save_dict_to_hdf5(str(Path(folder) / (make_nd.INTERPOL_H5_NAME % ARM)), {
        "lam": np.array(setup["lam"]), "parnames": setup["names"], "log_step": True,
        "interpolation_type": "generic", "module": "__main__", "class_name": "Templates",
        "outside_class_name": "Outside", "mapper_module": "__main__",
        "mapper_class_name": "AsTheyAre", "mapper_args": setup["names"],
        "low": np.array(setup["low"]), "high": np.array(setup["high"])})


def fit(star: dict[str, Any], config: Any) -> dict[str, float]:
    """Return the labels, ``vel`` and ``vsini`` of a star."""
    data = spec_fit.SpecData(ARM, *(np.array(star[k]) for k in ("lam", "spec", "espec")))
    found = vel_fit.process([data], star["start"], config=config, options={"npoly": 1})
    return {**found["param"], "vel": found["vel"], "vsini": found["vsini"]}


if __name__ == "__main__":
    sys.stdout = sys.stderr
    logging.disable(logging.WARNING)
    setup = json.loads(sys.stdin.buffer.readline())
    with tempfile.TemporaryDirectory() as folder:
        write_library(folder, setup)
        config = utils.freezeDict({
            **utils.get_default_config(), "template_lib": folder, "second_minimizer": True,
            "min_vel": setup["min_vel"], "max_vel": setup["max_vel"]})
        for line in iter(sys.stdin.buffer.readline, b""):
            say({"found": {k: float(v) for k, v in fit(json.loads(line), config).items()}})
