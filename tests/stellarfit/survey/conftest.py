"""A small emulator on disk, that every worker can load, and files of mock stars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from astropy.table import Table

import emulators
from emulators import Emulator

FREE = ["teff", "logg", "fe_h", "mg_fe", "rv"]
SETTINGS: dict[str, Any] = {"resolution": 20_000.0, "free": FREE, "continuum": 2,
                            "fixed": {"vmic": 1.2, "vsini": 0.0}}


@pytest.fixture(scope="session")
def cannon(lines: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Cannon that has learnt `lines` around the Sun, saved."""
    folder = tmp_path_factory.mktemp("cannon")
    rng = np.random.default_rng(0)
    low = [5300.0, 3.8, 0.8, -0.6, -0.6, -0.6]
    high = [6300.0, 4.8, 1.8, 0.4, 0.4, 0.4]
    labels = rng.uniform(low, high, (300, 6))
    labels[:, 4:] = labels[:, 3:4] + rng.uniform(-0.3, 0.3, (300, 2))
    with h5py.File(folder / "grid.h5", "w") as file, torch.no_grad():
        file["flux"] = lines.flux(torch.as_tensor(labels), torch.as_tensor(lines.pixels)).numpy()
        file["wavelength"] = lines.pixels
        file["wavelength"].attrs["medium"] = "air"
        file["labels"] = labels
        file["labels"].attrs["names"] = list(lines.labels.names)
        file["labels"].attrs["units"] = list(lines.labels.units)
        file["split"] = np.where(np.arange(300) % 10 == 0, 1, 0).astype(np.uint8)
    emulators.train(folder / "grid.h5", network="cannon", name="cannon", progress=False).save(
        folder / "cannon")
    return folder / "cannon"


@pytest.fixture(scope="session")
def stars(cannon: Path, observe: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """Forty mock stars and their labels."""
    rng = np.random.default_rng(1)
    emulator = emulators.load(cannon)
    truth = {"teff": rng.uniform(5500, 6100, 40), "logg": rng.uniform(4.0, 4.6, 40),
             "fe_h": rng.uniform(-0.4, 0.2, 40), "mg_fe": rng.uniform(-0.1, 0.2, 40),
             "rv": rng.uniform(-50, 50, 40)}
    made = [observe(emulator, {**{n: float(v[i]) for n, v in truth.items()}, "vmic": 1.2},
                    snr=100.0, seed=i) for i in range(40)]
    return made, truth


@pytest.fixture
def files(stars: tuple[list[Any], dict[str, Any]], tmp_path: Path) -> Path:
    """The same as files in a folder, two of them broken."""
    folder = tmp_path / "spectra"
    folder.mkdir()
    for i, star in enumerate(stars[0]):
        write(star, folder / f"star{i:02d}.fits", f"s{i}")
    whole = (folder / "star05.fits").read_bytes()
    (folder / "star05.fits").write_bytes(whole[:len(whole) // 2])
    (folder / "star21.fits").write_text("no spectrum\n")
    return folder


def write(star: Any, path: Path, name: str) -> None:
    """Write a spectrum as a FITS table."""
    Table({"wavelength": star.wavelength, "flux": star.flux, "ivar": star.ivar},
          units={"wavelength": "Angstrom"},
          meta={"MEDIUM": star.medium, "OBJECT": name}).write(path, overwrite=True)
