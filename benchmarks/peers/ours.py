"""Our own emulator, asked as the peers are: ``python ours.py FOLDER CHUNK``.

FOLDER is a bundle whose labels run from 0 to 1; CHUNK is how many fluxes it works on at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from serving import serve

import emulators


def prepare_with(folder: str, chunk: int) -> Any:
    """Return what makes a function of work."""
    emulator = emulators.load(folder, medium="vacuum").freeze()

    def prepare(labels: Any, log_wavelength: Any) -> Callable[[], Any]:
        at, grid = torch.tensor(labels).double(), torch.tensor(10.0**log_wavelength)
        return lambda: emulator.flux(at, grid, chunk=chunk)

    return prepare


if __name__ == "__main__":
    serve(prepare_with(sys.argv[1], int(sys.argv[2])), {"torch": torch.__version__})
