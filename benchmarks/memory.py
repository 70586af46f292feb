"""Memory of the forward pass against the closest peer: ``python -m benchmarks.memory``.

One network (width 128, 8 blocks, 16 tokens) with random weights, written by astro-emulators-toolkit
and read by ours, makes 64 stars at 10^6 wavelengths in chunks (`emulators.Emulator.flux`) of the
usual size, and at a twentieth of them in larger ones, each in a process of its own.  The peer,
which works on all at once, makes as many wavelengths as are expected to fit in ``--cap`` bytes;
what it needs for each is measured first on few.  Told is how much the largest resident memory
grows over that after a call for a handful of fluxes, per wavelength and star as well; the fluxes
themselves are 4 bytes.  Writes ``benchmarks/results/memory.json``; ``--quick`` writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.forward_speed import (
    LOG_WAVELENGTH,
    N_LABEL,
    SCRIPTS,
    SHAPE,
    TINY,
    TOOLKIT,
    write_bundle,
)
from benchmarks.peers.install import FOLDER, python_of

RESULT = Path(__file__).parent / "results" / "memory.json"
#: fluxes at a time, and which part of the wavelengths is made so
CHUNKS = {1024: 1.0, 65_536: 0.05}
HANDFUL = 8


def growth(command: list[Any], stars: int, pixels: int, scratch: Path) -> dict[str, Any]:
    """Return what a process that answers (`serving`) needs for so many spectra."""
    requests = []
    for count in (HANDFUL, pixels):
        work = scratch / f"{count}.npz"
        np.savez(work, log_wavelength=np.linspace(*LOG_WAVELENGTH, count),
                 labels=np.random.default_rng(0).random((stars, N_LABEL), dtype=np.float32))
        requests.append(json.dumps({"work": str(work), "flux": str(scratch / "flux.npy")}))
    said = subprocess.run(command, input="\n".join(requests) + "\n", text=True, check=True,
                          stdout=subprocess.PIPE).stdout.splitlines()
    before, after = (json.loads(line)["peak"] for line in said[1:])
    return {"stars": stars, "pixels": pixels, "peak": after, "growth": after - before,
            "bytes_per_flux": round((after - before) / (stars * pixels), 1),
            "seconds": round(json.loads(said[2])["seconds"], 2)}


def row(name: str, found: dict[str, Any]) -> str:
    """Return a line of the table."""
    return (f"{name:28s} {found['stars']:5d} {found['pixels']:9d} {found['peak'] / 1e9:9.2f} "
            f"{found['growth'] / 1e9:9.2f} {found['bytes_per_flux']:12.1f} "
            f"{found['seconds']:9.1f}")


@click.command(help=__doc__)
@click.option("--peers", "folder", default=FOLDER, show_default=True,
              type=click.Path(file_okay=False, path_type=Path))
@click.option("--stars", default=64, show_default=True)
@click.option("--pixels", default=1_000_000, show_default=True)
@click.option("--cap", default=6e9, show_default=True, help="Bytes that the peer may take.")
@click.option("--quick", is_flag=True, help="A small network and little work, to try it.")
def main(folder: Path, stars: int, pixels: int, cap: float, quick: bool) -> None:
    """Measure ours, then the peer."""
    shape = TINY if quick else SHAPE
    stars, pixels, few, cap = (4, 50_000, 5_000, 2e9) if quick else (stars, pixels, 500, cap)
    if not python_of(TOOLKIT, folder).exists():
        raise click.ClickException(f"no {TOOLKIT} in {folder}: run python -m "
                                   "benchmarks.peers.install")
    runs: dict[str, Any] = {}
    print(f"{'':28s} stars    pixels   peak GB growth GB  bytes per flux  seconds")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        bundle = write_bundle(scratch / "random", folder, shape)
        for chunk, part in CHUNKS.items():
            name = f"ours, chunks of {chunk}"
            runs[name] = growth([sys.executable, SCRIPTS / "ours.py", bundle, str(chunk)],
                                stars, round(part * pixels), scratch)
            print(row(name, runs[name]), flush=True)
        theirs = [python_of(TOOLKIT, folder), SCRIPTS / "toolkit.py", "serve", bundle]
        small = growth(theirs, stars, few, scratch)
        room = cap - (small["peak"] - small["growth"])
        large = min(pixels, int(room / (small["growth"] / few)))
        runs[TOOLKIT] = growth(theirs, stars, large, scratch)
        print(row(TOOLKIT, runs[TOOLKIT]))
    needs = runs[TOOLKIT]["bytes_per_flux"] * stars * pixels
    report = {"shape": shape, "runs": runs, "peer_would_need": needs}
    print(f"at {pixels} wavelengths {TOOLKIT} would need {needs / 1e9:.0f} GB")
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
