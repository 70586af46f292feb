"""Time per star against the number of stars and of workers.

``python -m benchmarks.survey_scaling GRID EMULATOR``: surveys of the stars of
`benchmarks.survey_load`, of a hundred to ten thousand with two workers, of a thousand with one, and
of a thousand by two workers of a dask scheduler, processes of their own, over the loopback.
Writes ``benchmarks/results/survey-scaling.json``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

import emulators
from benchmarks.survey_load import FREE, RESOLUTION, RESULTS, make, watched

BATCH = 128


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False))
@click.argument("emulator")
@click.option("--most", default=10_000, show_default=True)
@click.option("--folder", default=Path("out") / "survey-load", type=click.Path(path_type=Path),
              show_default=True)
def main(grid: str, emulator: str, most: int, folder: Path) -> None:
    """Run them one after the other."""
    make(grid, folder / "spectra", most)
    counts = [n for n in (100, 300, 1000, 3000, 10_000) if n <= most]
    plans: list[tuple[int, int, bool]] = [(n, 2, False) for n in counts]
    plans += [(1000, 1, False), (1000, 2, True)]
    rows = []
    for stars, workers, apart in plans:
        row = one(folder, emulator, stars, workers, apart)
        rows.append(row)
        print(json.dumps(row))
    (RESULTS / "survey-scaling.json").write_text(json.dumps({
        "emulator": emulators.load(emulator).identity, "batch": BATCH, "runs": rows},
        indent=1) + "\n")


def one(folder: Path, emulator: str, stars: int, workers: int, apart: bool) -> dict[str, Any]:
    """Run a survey anew; return what it took."""
    listed = folder / f"first-{stars}.txt"
    listed.write_text("".join(f"{folder}/spectra/star{i:05}.fits\n" for i in range(stars)))
    survey = folder / f"scaling-{stars}-{workers}{'-apart' if apart else ''}"
    words = [sys.executable, "-m", "stellarfit", "survey", "run", "--list", str(listed), "--out",
             str(survey), "--emulator", emulator, "--resolution", f"{RESOLUTION:g}", "--free",
             ",".join(FREE), "--continuum", "4", "--single", "--again", "--batch", str(BATCH),
             "--shard", str(BATCH)]
    others: list[subprocess.Popen[bytes]] = []
    if apart:
        port = str(random.randint(20_000, 40_000))
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        dask = [sys.executable, "-m"]
        others = [subprocess.Popen([*dask, "distributed.cli.dask_scheduler", "--host",
                                    "127.0.0.1", "--port", port, "--no-dashboard"], **quiet)]
        others += [subprocess.Popen([*dask, "distributed.cli.dask_worker",
                                     f"tcp://127.0.0.1:{port}", "--nthreads", "1",
                                     "--no-dashboard"], **quiet) for _ in range(workers)]
        words += ["--scheduler", f"tcp://127.0.0.1:{port}"]
    else:
        words += ["--workers", str(workers)]
    try:
        said = watched(words, survey)
    finally:
        for process in others:
            process.kill()
    return {"stars": stars, "workers": workers, "scheduler": apart,
            "seconds": said["seconds"], "seconds_per_star": said["seconds"] / stars,
            "memory_mib": max(said["memory_mib"]),
            "bytes": sum(p.stat().st_size for p in (survey / "shards").glob("*.h5"))}


if __name__ == "__main__":
    main()
