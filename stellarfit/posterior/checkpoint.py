"""Chains on disk, to go on from: whole or not at all, and of no other star, emulator or prior."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stellarfit.hdf5 import in_memory, opened, write_arrays
from stellarfit.posterior.samplers import Sampler
from stellarfit.result import FitResult

FORMAT = "stellarfit chains 1"


def checksum(fit: FitResult) -> str:
    """Return the SHA-256 of the pixels that were fitted."""
    digest = hashlib.sha256()
    for spectrum in fit.spectra:
        for values in (spectrum.wavelength, spectrum.flux, spectrum.ivar):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def keep(running: Sampler, path: str | Path, identity: Mapping[str, Any]) -> None:
    """Write the chains and how to go on with them."""
    with in_memory(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = json.dumps(identity, default=str)
        write_arrays(file, {"chain": running.chain, "log_probability": running.log_probability})
        write_arrays(file.create_group("state"), running.state())


def resume(running: Sampler, path: str | Path, identity: Mapping[str, Any]) -> None:
    """Go on with the chains of a file.

    Raises
    ------
    ValueError
        When they are of another star, emulator or posterior, or the file is damaged or
        something else.
    """
    wanted = json.loads(json.dumps(identity, default=str))
    try:
        with opened(path, "checkpoint", FORMAT) as file:
            known = json.loads(file.attrs["identity"])
            chain, logs = file["chain"].astype(float)[()], file["log_probability"][()]
            state = {k: v[()] for k, v in file["state"].items()}
    except json.JSONDecodeError as error:
        raise _damaged(path, f"its identity is no JSON: {error}") from error
    except (TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    if other := [k for k, v in wanted.items() if known.get(k) != v]:
        raise ValueError(f"'{path}' holds chains of another {', '.join(other)}; give another "
                         "checkpoint, or remove it to begin anew")
    if (chain.ndim != 4 or chain.shape[::3] != running.chain.shape[::3]
            or logs.shape != chain.shape[:3] or not np.isfinite(chain).all()):
        raise _damaged(path, f"chains of shape {chain.shape} with ln(posterior) of shape "
                             f"{logs.shape}, or not finite")
    try:
        running.restore(chain, logs, state)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _damaged(path, f"the sampler's state: {error}") from error


def _damaged(path: str | Path, why: str) -> ValueError:
    return ValueError(f"'{path}' is not a readable checkpoint ({why}); remove it to begin anew")
