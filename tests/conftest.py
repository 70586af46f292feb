"""Folders of data that tests read in place and that may be absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core: threads on top of that would fight over the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("STELLARFIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _folder(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no folder of {name} beside the project; set STELLARFIT_SHARED")
    return SHARED / name


@pytest.fixture(scope="session")
def spectra_folder() -> Path:
    """The folder of observed spectra."""
    return _folder("spectra")


@pytest.fixture(scope="session")
def grids_folder() -> Path:
    """The folder of training grids."""
    return _folder("grids")
