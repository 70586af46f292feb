"""What is in a grid, in words and numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import h5py
import numpy as np

from emulators.grid import SPLITS, Grid

#: characters of an entry in the text
LONGEST = 110


def summary(grid: Grid) -> dict[str, Any]:
    """Return what is in a grid: numbers, ranges, origin; all of it JSON-able.

    Parameters
    ----------
    grid : Grid

    Returns
    -------
    dict
        ``labels`` has a row per label that varies: name, unit, lowest, highest and how many
        different values; ``fixed`` the value of every other.

    Examples
    --------
    >>> summary(Grid("mine.h5"))["n_spec"]                                # doctest: +SKIP
    """
    wave, made_by = grid.wavelength, grid.provenance
    low, high = grid.labels.min(axis=0), grid.labels.max(axis=0)
    labels = list(zip(grid.label_set.names, grid.label_set.units, low.tolist(), high.tolist(),
                      strict=True))
    return {
        "grid": grid.path.name, "sha256": made_by["sha256"],
        "n_spec": grid.n_spec, "splits": {s: len(grid.rows(s)) for s in SPLITS},
        "n_pix": grid.n_pix, "range": wave[[0, -1]].tolist(), "medium": grid.medium,
        "sampling": _sampling(grid),
        "labels": [
            {"name": n, "unit": u, "low": a, "high": b,
             "values": len(np.unique(grid.labels[:, grid.label_set.index(n)]))}
            for n, u, a, b in labels if a != b
        ],
        "fixed": {n: a for n, _, a, b in labels if a == b},
        "made_by": made_by["made_by"], "failed": _failed(grid),
    }


def _sampling(grid: Grid) -> str:
    """Say how the pixels are spaced: evenly in wavelength, in its logarithm, or neither."""
    steps = np.diff(grid.wavelength)
    logarithmic = np.diff(np.log(grid.wavelength))
    if np.ptp(logarithmic) < 1e-3 * logarithmic.mean():
        return f"λ/Δλ = {1.0 / logarithmic.mean():.6g}"
    if np.ptp(steps) < 1e-3 * steps.mean():
        return f"every {steps.mean():.4g} Å"
    return f"{steps.min():.4g} to {steps.max():.4g} Å, uneven"


def _failed(grid: Grid) -> dict[str, int]:
    """Return how many spectra could not be made, by reason."""
    with h5py.File(grid.path) as file:
        if "failed/reason" not in file:
            return {}
        return dict(Counter(file["failed/reason"].asstr()[:].tolist()).most_common())


def as_text(content: dict[str, Any]) -> str:
    """Write what :func:`summary` returns as text."""
    splits = ", ".join(f"{n} {s}" for s, n in content["splits"].items() if n)
    low, high = content["range"]
    lines = [
        f"{content['grid']}: {content['n_spec']} spectra ({splits})",
        f"  wavelength  {low:.3f}-{high:.3f} Å in {content['medium']}, {content['n_pix']} pixels, "
        f"{content['sampling']}",
        f"  sha256      {content['sha256']}",
    ]
    if content["made_by"]:
        lines += ["  made by", *_made_by(content["made_by"])]
    if content["failed"]:
        lines.append(f"  failed      {sum(content['failed'].values())} spectra")
        lines += [f"    {n:5d}  {reason}" for reason, n in content["failed"].items()]
    lines.append(f"  {'label':10} {'unit':>5} {'lowest':>10} {'highest':>10} {'values':>7}")
    lines += [f"  {r['name']:10} {r['unit']:>5} {r['low']:>10.5g} {r['high']:>10.5g} "
              f"{r['values']:>7}" for r in content["labels"]]
    if content["fixed"]:
        lines.append("  fixed       " + ", ".join(f"{n} = {v:.5g}"
                                                  for n, v in content["fixed"].items()))
    return "\n".join(lines)


def _made_by(made_by: Any) -> list[str]:
    if not isinstance(made_by, dict):
        return [f"    {made_by}"]
    width = max(map(len, made_by))
    return [f"    {key:{width}}  {_short(value)}" for key, value in made_by.items()]


def _short(value: Any) -> str:
    """Return a value as one line; recipes are long and stand in full in the JSON."""
    if isinstance(value, dict):
        value = ", ".join(f"{k} = {v}" for k, v in value.items())
    elif isinstance(value, list):
        value = "; ".join(map(str, value))
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[:LONGEST - 3] + "..."
