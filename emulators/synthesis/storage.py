"""A made grid in its file: shards in, one HDF5 file out, and back again.

What :class:`emulators.Grid` reads, see there; and

::

    /sample      (n_spec,) int64, the number of each spectrum's sample in its recipe
    /atmosphere  (n_spec, 2) float32, attrs: names -> what the structure was made for
    /continuum   (n_spec, n_node) float64, attrs: unit;  /continuum_wavelength (n_node,)
    /structure/log_optical_depth  (n_depth,) Rosseland
    /structure/temperature, /structure/pressure  (n_spec, n_depth) float32, attrs: unit
    /failed/sample, /failed/labels, /failed/reason  the samples that could not be made

The bytes depend on the content alone, so that equal grids have equal hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.files import atomic_write
from emulators.synthesis.making import CONTINUUM_NODES, FLUX_STEP, LOG_DEPTHS, Maker, Shard

ROWS = 256
FLUX_UNIT = "erg / (s cm2 Angstrom)"
#: dataset -> field of a shard, type, unit
PER_SPECTRUM = {
    "flux": ("flux", "u2", ""), "labels": ("labels", "f4", ""), "sample": ("index", "i8", ""),
    "atmosphere": ("structure", "f4", "dex"), "continuum": ("continuum", "f8", FLUX_UNIT),
    "structure/temperature": ("temperature", "f4", "K"),
    "structure/pressure": ("pressure", "f4", "dyn / cm2"),
}
FAILED = {"sample": "failed_index", "labels": "failed_labels", "reason": "failed_reason"}


def write_grid(path: Path, maker: Maker, shards: Iterable[Shard], made_by: dict[str, Any]) -> None:
    """Write the grid that shards in the order of their samples make up."""
    recipe = maker.recipe
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["kind"] = recipe.settings["grid"]["title"]
        file.attrs["provenance"] = json.dumps(made_by, sort_keys=True)
        file.attrs["fingerprint"] = recipe.fingerprint
        wavelength = file.create_dataset("wavelength", data=recipe.wavelength)
        wavelength.attrs.update(
            unit="Angstrom", medium=recipe.medium,
            resolution_sampling=float(recipe.settings["wavelength"]["resolution"]))
        file["continuum_wavelength"] = np.linspace(
            recipe.wavelength[0], recipe.wavelength[-1], CONTINUUM_NODES)
        file["structure/log_optical_depth"] = LOG_DEPTHS
        width = {"flux": len(recipe.wavelength), "labels": len(recipe.distribution.names),
                 "atmosphere": 2, "continuum": CONTINUUM_NODES,
                 "structure/temperature": len(LOG_DEPTHS), "structure/pressure": len(LOG_DEPTHS)}
        for name, (_, kind, unit) in PER_SPECTRUM.items():
            tail = (width[name],) if name in width else ()
            file.create_dataset(
                name, shape=(0, *tail), maxshape=(None, *tail), dtype=kind,
                chunks=(4 if name == "flux" else 64, *tail), compression="gzip", shuffle=True)
            file[name].attrs["unit"] = unit
        file["flux"].attrs.update(scale=FLUX_STEP, offset=0.0)
        file["labels"].attrs.update(names=list(recipe.distribution.names),
                                    units=list(recipe.distribution.units))
        file["atmosphere"].attrs["names"] = ["m_h", "alpha_m"]
        file["domain/A"], file["domain/b"] = recipe.distribution.domain.A, \
            recipe.distribution.domain.b
        failed: list[dict[str, Any]] = []
        for rows in _in_blocks(shards, failed):
            for name, values in rows.items():
                stored = file[name]
                stored.resize(len(stored) + len(values), axis=0)
                stored[len(stored) - len(values):] = values
        file["split"] = recipe.split(file["sample"][:])
        for name in ("sample", "labels"):
            file[f"failed/{name}"] = np.concatenate([f[name] for f in failed])
        file.create_dataset("failed/reason", dtype=h5py.string_dtype(),
                            data=[str(r) for f in failed for r in f["reason"]])


def _in_blocks(
    shards: Iterable[Shard], failed: list[dict[str, Any]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield datasets of `ROWS` rows, whatever the shards: the file's layout depends on it.

    What failed is added to `failed`.
    """
    kept: list[dict[str, NDArray[Any]]] = []
    count = 0
    for shard in shards:
        kept.append({n: getattr(shard, f) for n, (f, _, _) in PER_SPECTRUM.items()})
        failed.append({n: getattr(shard, f) for n, f in FAILED.items()})
        count += len(shard.index)
        while count >= ROWS:
            whole = {n: np.concatenate([k[n] for k in kept]) for n in PER_SPECTRUM}
            yield {n: v[:ROWS] for n, v in whole.items()}
            kept, count = [{n: v[ROWS:] for n, v in whole.items()}], count - ROWS
    if count:
        yield {n: np.concatenate([k[n] for k in kept]) for n in PER_SPECTRUM}


def read_shards(path: Path) -> Iterator[Shard]:
    """Return the content of a grid as shards, some hundred spectra at a time."""
    with h5py.File(path) as file:
        failed = {field: file[f"failed/{name}"][:] for name, field in FAILED.items()}
        failed["failed_reason"] = file["failed/reason"].asstr()[:].astype(str)
        for first in range(0, len(file["sample"]), ROWS):
            rows = slice(first, first + ROWS)
            yield Shard(
                **{field: file[name][rows] for name, (field, _, _) in PER_SPECTRUM.items()},
                **(failed if first == 0 else {f: v[:0] for f, v in failed.items()}),
            )


def samples_in(path: Path) -> NDArray[np.int64]:
    """Return the numbers of the samples of a grid, those that failed too, rising."""
    with h5py.File(path) as file:
        return np.sort(np.concatenate([file["sample"][:], file["failed/sample"][:]]))
