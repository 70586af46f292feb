"""A small grid with the shape of a real one: lines whose depths follow the labels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emulators import Emulator, Grid
from emulators.networks import build

NAMES = ("teff", "logg", "fe_h", "mg_h")
UNITS = ("K", "dex", "dex", "dex")
LOW, HIGH = np.array([4500.0, 1.0, -1.5, -1.5]), np.array([6500.0, 5.0, 0.5, 0.9])


def draw_labels(n_spec: int, seed: int) -> NDArray[np.float64]:
    """Labels inside `domain`: magnesium within 0.4 dex of iron."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform(LOW, HIGH, size=(n_spec, 4))
    labels[:, 3] = labels[:, 2] + rng.uniform(-0.3, 0.4, n_spec)
    return labels.clip(LOW, HIGH)


def domain() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The box of the labels and |[Mg/Fe]| <= 0.4 as A, b."""
    eye, tied = np.eye(4), np.array([[0.0, 0.0, -1.0, 1.0], [0.0, 0.0, 1.0, -1.0]])
    return np.concatenate([eye, -eye, tied]), np.concatenate([HIGH, -LOW, [0.41, 0.41]])


def synthesise(labels: NDArray[np.float64], wavelength: NDArray[np.float64]) -> NDArray[Any]:
    """Absorption by twelve lines: Boltzmann factors, Gaussian cores, pressure wings."""
    rng = np.random.default_rng(7)
    teff, logg = labels[:, :1], labels[:, 1:2]
    tau = np.zeros((len(labels), len(wavelength)))
    for element, centre in zip([2] * 9 + [3] * 3, np.linspace(0.04, 0.96, 12), strict=True):
        x = (np.arange(len(wavelength)) / len(wavelength) - centre) / 0.02
        excitation = rng.uniform(0.0, 4.0) * (5040.0 / teff - 0.9)
        strength = 10.0 ** (0.6 * labels[:, element:element + 1] - excitation)
        profile = np.exp(-(x**2)) + 0.02 * 10.0 ** (0.2 * (logg - 4.0)) / (1.0 + x**2)
        tau += rng.uniform(0.3, 1.5) * strength * profile
    return np.asarray(np.exp(-tau))


def write(path: Path, *, n_spec: int = 60, n_pix: int = 200, seed: int = 1) -> Path:
    """Write a whole grid in the uint16 layout; every fifth spectrum is for validation."""
    wavelength = 5160.0 * np.exp(2e-5 * np.arange(n_pix))
    labels = draw_labels(n_spec, seed)
    with h5py.File(path, "w") as file:
        file["wavelength"] = wavelength
        file["wavelength"].attrs.update(unit="Angstrom", medium="air")
        file["flux"] = np.round(synthesise(labels, wavelength) * 65535).astype(np.uint16)
        file["flux"].attrs.update(scale=1 / 65535, offset=0.0)
        file["labels"] = labels.astype(np.float32)
        file["labels"].attrs.update(names=list(NAMES), units=list(UNITS))
        file["domain/A"], file["domain/b"] = domain()
        file["split"] = (np.arange(n_spec) % 5 == 4).astype(np.uint8)
        file.attrs["provenance"] = '{"code": "twelve lines"}'
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads need not come out bit for bit the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def grid_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid file that no test changes."""
    return write(tmp_path_factory.mktemp("grid") / "small.h5")


@pytest.fixture
def grid(grid_path: Path) -> Grid:
    """The small grid: 4 labels, 48 + 12 spectra, 200 pixels, air."""
    return Grid(grid_path)


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[..., Path]:
    """Write a grid that the test may spoil."""
    return lambda name="own.h5", **kwargs: write(tmp_path / name, **kwargs)


@pytest.fixture
def emulator(grid: Grid) -> Emulator:
    """An untrained transformer with the labels, domain and pixels of the small grid."""
    torch.manual_seed(0)
    network = build("transformer", 4, torch.as_tensor(grid.wavelength), **SMALL)
    return Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air", name="small")


SMALL = {"dim": 16, "layers": 2, "heads": 2, "tokens": 4, "n_period": 16, "head": 32}


@pytest.fixture
def small() -> dict[str, int]:
    """Options of a transformer that trains in seconds."""
    return dict(SMALL)


@pytest.fixture
def short(small: dict[str, int]) -> dict[str, Any]:
    """A run of 20 steps that validates and checkpoints on the way."""
    return {"steps": 20, "batch": 8, "pixels": 32, "warmup": 5, "validate_every": 10,
            "checkpoint_every": 5, "options": small, "progress": False}


@pytest.fixture
def further(short: dict[str, Any]) -> dict[str, Any]:
    """The same for a run with `init`, which brings the network."""
    return {n: v for n, v in short.items() if n != "options"}


def _same(one: Emulator, other: Emulator) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def same() -> Callable[[Emulator, Emulator], bool]:
    """Whether two emulators have the same weights, bit for bit."""
    return _same


def _log_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def log_of() -> Callable[[Path], list[dict[str, str]]]:
    """Read the log of a run."""
    return _log_of
