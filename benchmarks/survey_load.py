"""Ten thousand stars, one in a hundred broken: how fast, how large, how right.

``python -m benchmarks.survey_load GRID EMULATOR``: GRID is the reference grid ``mgb-fgk.h5``.  Its
validation spectra, of the synthesis code and not of an emulator, are observed as by a survey: R =
20,000, two and a half pixels per FWHM, S/N 20-100, rotation (0-40 km/s), velocity (±200 km/s), a
continuum, bad columns, cosmic rays that are masked and some that are not.  One file in a hundred is
broken, each in one of many ways (`BROKEN`).  The survey is fitted by ``stellarfit survey run`` for
eight labels, rv and vsini, and watched: stars per second, memory, recovered labels, and whether
every broken star has no fit or one that is flagged as bad.  Writes
``benchmarks/results/survey-load-NAME-STARS-WORKERS.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from astropy.io import fits
from tqdm import tqdm

import emulators
from benchmarks.survey_faults import children
from emulators.labels import is_abundance
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters
from stellarfit.survey.running import merge

RESULTS = Path(__file__).parent / "results"
LABELS = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_fe", "ti_fe", "cr_fe")
FREE = (*LABELS, "rv", "vsini")
RESOLUTION, PER_FWHM = 20_000.0, 2.5
WINDOW = (5152.0, 5298.0)
PIXELS = np.exp(np.arange(*np.log(WINDOW), 1.0 / (PER_FWHM * RESOLUTION)))
#: stars that are made at once
AT_ONCE = 64

Columns = dict[str, Any]


def _set(name: str, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name] = np.full(len(PIXELS), value)
    return change


def _spikes(columns: Columns) -> None:
    columns["flux"][::3] *= 1e6


def _twice(columns: Columns) -> None:
    columns["wavelength"] = np.sort(columns["wavelength"])[np.r_[:1000, 500:len(PIXELS) - 500]]


def _elsewhere(columns: Columns) -> None:
    columns["wavelength"] = columns["wavelength"] + 2000.0


def _few(columns: Columns) -> None:
    columns["ivar"][5:] = 0.0


#: what may be wrong with a spectrum that is a readable file; and with a file
BROKEN: dict[str, Callable[[Columns], None]] = {
    "flux NaN": _set("flux", np.nan), "flux infinite": _set("flux", np.inf),
    "flux zero": _set("flux", 0.0), "ivar zero": _set("ivar", 0.0),
    "ivar NaN": _set("ivar", np.nan), "spikes": _spikes, "flux negative": _set("flux", -1e5),
    "wavelengths twice": _twice, "wavelengths elsewhere": _elsewhere, "five pixels": _few,
}
BROKEN_FILES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink, "empty": lambda p: p.write_bytes(b""),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:7000]),
    "text": lambda p: p.write_text("not a spectrum"),
    "zeros": lambda p: p.write_bytes(bytes(20_000)),
    "head alone": lambda p: p.write_bytes(p.read_bytes()[:2880]),
}


def make(grid_path: str, folder: Path, stars: int) -> list[dict[str, float]]:
    """Write the files of mock stars where they are missing; return the truth of each."""
    grid, emulator = emulators.Grid(grid_path), emulators.load("mgb-fgk")
    rows = grid.rows("validation")
    folder.mkdir(parents=True, exist_ok=True)
    ways = [*BROKEN, *BROKEN_FILES]
    truths = []
    for first in tqdm(range(0, stars, AT_ONCE), unit="batch", desc="mock stars"):
        rng = np.random.default_rng([77, first])
        count = min(AT_ONCE, stars - first)
        chosen = rows[(first + np.arange(count)) % len(rows)]
        known = [dict(zip(grid.label_set.names, grid.labels[r].tolist(), strict=True))
                 for r in chosen]
        rv, vsini = rng.uniform(-200, 200, count), rng.uniform(0, 40, count)
        flux = observed(emulator, grid.flux(chosen), rv, vsini)
        for k in range(count):
            i = first + k
            ratios = {n[:-1] + "fe": v - known[k]["fe_h"] for n, v in known[k].items()
                      if is_abundance(n) and n != "fe_h"}
            truth = {n: {**known[k], **ratios}[n] for n in LABELS}
            broken = ways[(i // 100) % len(ways)] if i % 100 == 37 else ""
            truths.append({**truth, "rv": rv[k], "vsini": vsini[k], "broken": broken})
            path = folder / f"star{i:05}.fits"
            columns = exposure(flux[k], rng)
            if not path.exists():
                write(path, columns, broken)
    return truths


def observed(
    emulator: emulators.Emulator, rest: np.ndarray, rv: np.ndarray, vsini: np.ndarray
) -> np.ndarray:
    """Return spectra at the training pixels as the survey's instrument sees them."""
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=["teff", "rv", "vsini"], resolution=RESOLUTION,
        fixed={"logg": 4.0, "vmic": 1.0})
    model = ForwardModel(emulator, parameters, [Arm(PIXELS, Instrument("mock", RESOLUTION))],
                         rv_range=(-200.0, 200.0))
    theta = torch.as_tensor(np.column_stack([np.full(len(rv), 5000.0), rv, vsini]))
    sample = torch.as_tensor(rest.astype(np.float32)[:, model.pixels])
    with torch.no_grad():
        flux = model.observe(sample, model.stages(theta)).double().numpy()
    low, high = emulator.wavelength_range
    shifted = PIXELS / np.exp(np.arctanh(rv / 299_792.458))[:, None]
    # Where the emulator has nothing, nor has the star: the survey's mask.
    return np.where((shifted > low + 1.0) & (shifted < high - 1.0), flux, np.nan)


def exposure(flux: np.ndarray, rng: np.random.Generator) -> Columns:
    """Return the columns of a file: counts, noise, masks, and what nobody has masked."""
    snr = float(np.exp(rng.uniform(np.log(20), np.log(100))))
    x = np.linspace(-1.0, 1.0, len(PIXELS))
    counts = np.nan_to_num(flux, nan=1.0) * 1e4 * np.exp(0.2 * rng.normal() * x) * (
        1.0 + 0.1 * rng.normal() * x**2)
    sigma = np.full(len(PIXELS), counts.mean() / snr)
    counts = counts + sigma * rng.standard_normal(len(PIXELS))
    mask = ~np.isfinite(flux)
    for start in rng.integers(0, len(PIXELS) - 5, 3):       # bad columns
        mask[start:start + 5] = True
        counts[start:start + 5] = rng.choice([0.0, 6e4])
    hit = rng.choice(len(PIXELS), 8, replace=False)         # cosmic rays
    counts[hit] += rng.uniform(5, 500, 8) * sigma[hit]
    mask[hit[:6]] = True
    return {"wavelength": PIXELS.copy(), "flux": counts, "ivar": sigma**-2.0, "mask": mask}


def write(path: Path, columns: Columns, broken: str) -> None:
    """Write a file of a spectrum, perhaps broken."""
    if broken in BROKEN:
        BROKEN[broken](columns)
    length = min(len(v) for v in columns.values())
    kinds = {"wavelength": "D", "flux": "E", "ivar": "E", "mask": "I"}
    hdu = fits.BinTableHDU.from_columns([
        fits.Column(n, kinds[n], unit="Angstrom" if n == "wavelength" else None,
                    array=v[:length]) for n, v in columns.items()])
    hdu.header["MEDIUM"], hdu.header["OBJECT"] = "air", path.stem
    hdu.writeto(path)
    if broken in BROKEN_FILES:
        BROKEN_FILES[broken](path)


def memory(process: int) -> float:
    """Return the memory (MiB) of a process and those it has started, what they share once each."""
    total = 0
    for each in (process, *children(process)):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        except (OSError, StopIteration):
            continue
    return total / 1024.0


def watched(words: list[str], folder: Path) -> dict[str, Any]:
    """Run a survey's command; return how long it took and how large it was on the way."""
    clock, track = time.monotonic(), []
    process = subprocess.Popen(words)
    while process.poll() is None:
        done = len(list((folder / "shards").glob("[0-9]*.h5")))
        track.append((time.monotonic() - clock, done, memory(process.pid)))
        time.sleep(1.0)
    if process.returncode:
        raise SystemExit("the survey failed")
    seconds = time.monotonic() - clock
    moved = [t for t in track if t[1] > 0]
    # From the first shard to the last: without the start of processes.
    span = (moved[-1][0] - moved[0][0]) if len(moved) > 1 else 0.0
    return {"seconds": seconds, "shards": track[-1][1],
            "shards_per_second": (moved[-1][1] - moved[0][1]) / span if span else np.nan,
            "memory_mib": [round(m) for _, _, m in track[::max(1, len(track) // 20)]]}


def recovered(table: Any, truths: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far labels are from the truth, and what became of the broken."""
    broken = np.array([bool(t["broken"]) for t in truths])
    status, bad = np.asarray(table["status"]), np.asarray(table["flag_bad"])
    used = ~broken & (status == 0) & ~bad
    found: dict[str, Any] = {}
    for name in FREE:
        off = np.asarray(table[name])[used] - np.array([t[name] for t in truths])[used]
        pull = off / np.asarray(table[f"e_{name}"])[used]
        pull = pull[np.isfinite(pull)]
        found[name] = {
            "bias": float(np.median(off)),
            "scatter": float(1.4826 * np.median(np.abs(off - np.median(off)))),
            "pull_width": float(0.5 * np.diff(np.percentile(pull, [15.87, 84.13]))[0])}
    warned, condemned = np.asarray(table["flag_warn"]), (status != 0) | bad
    ways: dict[str, list[bool]] = {}
    for t, w in zip(truths, condemned, strict=True):
        if t["broken"]:
            ways.setdefault(t["broken"], []).append(bool(w))
    return {"good_used": int(used.sum()), "good": int((~broken).sum()),
            "good_without_a_fit": int((~broken & (status != 0)).sum()),
            "good_flagged_bad": int((~broken & (status == 0) & bad).sum()),
            "good_warned": int((~broken & warned).sum()),
            "broken": int(broken.sum()), "broken_bad": int((broken & condemned).sum()),
            "broken_without_a_fit": int((broken & (status != 0)).sum()),
            "ways": {k: f"{sum(v)} of {len(v)}" for k, v in sorted(ways.items())},
            "labels": found}


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False))
@click.argument("emulator")
@click.option("--stars", default=10_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--name", default=None, help="Of the results; the emulator's by default.")
@click.option("--folder", default=Path("out") / "survey-load", type=click.Path(path_type=Path),
              show_default=True)
def main(
    grid: str, emulator: str, stars: int, workers: int, batch: int, name: str | None, folder: Path
) -> None:
    """Make the stars, run the survey, look at the catalogue."""
    truths = make(grid, folder / "spectra", stars)
    name = name or Path(emulator).name
    listed = folder / f"{name}-{stars}.txt"
    listed.write_text("".join(f"{folder}/spectra/star{i:05}.fits\n" for i in range(stars)))
    run = folder / f"{name}-{stars}-{workers}"
    words = [sys.executable, "-m", "stellarfit", "survey", "run", "--list", str(listed),
             "--out", str(run), "--emulator", emulator, "--resolution", f"{RESOLUTION:g}",
             "--free", ",".join(FREE), "--continuum", "4", "--workers", str(workers), "--single",
             "--batch", str(batch), "--shard", str(2 * batch), "--again"]
    said = watched(words, run)
    table = merge(run, run / "catalogue.fits")
    found = {"emulator": emulators.load(emulator).identity, "stars": stars, "workers": workers,
             "batch": batch, "stars_per_second": stars / said["seconds"],
             "stars_per_second_running": said["shards_per_second"] * 2 * batch, **said,
             **recovered(table, truths)}
    path = RESULTS / f"survey-load-{name}-{stars}-{workers}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
