"""Time per star against the number of stars and of workers.

``python -m benchmarks.survey_scaling GRID EMULATOR``: surveys of the stars of
`benchmarks.survey_load`, of a hundred to ten thousand with two workers, of a thousand with one, and
of a thousand by two workers of a dask scheduler, processes of their own, over the loopback.  Then
what a survey costs beside its fits: folders of a hundred thousand and more rows, copies of those
that have been fitted, are begun, looked through as a run that goes on does, and merged, each by a
process of its own; and shards that hold nothing go through a scheduler.  From all that follows
what ten million stars take.  Writes ``benchmarks/results/survey-scaling.json``.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import emulators
from benchmarks.survey_load import FREE, RESOLUTION, RESULTS, make, watched
from emulators.workers import Workers
from stellarfit.survey.folder import Survey
from stellarfit.survey.running import _left, merge
from stellarfit.survey.targets import Target

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
    paper = [administered(folder, emulator, n) for n in COPIED]
    found = {"emulator": emulators.load(emulator).identity, "batch": BATCH, "runs": rows,
             "administration": paper, "tasks_per_second": empty_tasks()}
    found["ten_million"] = extrapolated(found)
    (RESULTS / "survey-scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


#: rows of the surveys that nobody fits, and stars of a shard there
COPIED, SHARD = (100_000, 300_000), 512


def administered(folder: Path, emulator: str, stars: int) -> dict[str, Any]:
    """Return what a survey of so many stars takes beside the fits."""
    words = [sys.executable, "-m", "benchmarks.survey_scaling", "administration", str(folder),
             emulator, str(stars)]
    found: dict[str, Any] = {"stars": stars}
    survey = folder / f"copies-{stars}"
    shutil.rmtree(survey, ignore_errors=True)
    for what in ("begin", "fill", "look", "merge"):
        said = json.loads(subprocess.run([*words, what], check=True, capture_output=True,
                                         text=True).stdout)
        if what != "fill":
            found |= {f"{what}_seconds": said["seconds"], f"{what}_mib": said["mib"]}
    found["shards_bytes"] = sum(p.stat().st_size for p in (survey / "shards").glob("*.h5"))
    found["targets_bytes"] = (survey / "targets.h5").stat().st_size
    found["catalogue_bytes"] = (survey / "catalogue.fits").stat().st_size
    shutil.rmtree(survey)
    print(json.dumps(found))
    return found


def one_step(folder: Path, emulator: str, stars: int, what: str) -> dict[str, float]:
    """Begin, fill, look through or merge a survey of copied rows; return time and memory."""
    survey, clock = folder / f"copies-{stars}", time.perf_counter()
    if what == "begin":
        Survey.begin(survey, [Target(f"/survey/night/star{i:08}.fits") for i in range(stars)],
                     {"emulator": emulator, "resolution": RESOLUTION, "free": list(FREE),
                      "continuum": 4}, size=SHARD)
    elif what == "look":
        _left(Survey.open(survey), again=False, retry=False)
    elif what == "merge":
        merge(survey, survey / "catalogue.fits")
    else:
        opened = Survey.open(survey)
        rows = Survey.open(folder / "scaling-1000-2").rows(0)[0]
        for shard in range(opened.shards):
            some = np.arange(len(opened.numbers(shard))) % len(rows["status"])
            opened.keep(shard, {n: v[some] for n, v in rows.items()}, 1.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return {"seconds": time.perf_counter() - clock, "mib": peak}


def empty_tasks(count: int = 2000) -> float:
    """Return how many shards a second a scheduler hands out and gets back, if they hold nothing."""
    with Workers(Nothing(), 2) as workers:
        list(workers.make([np.array([0])] * 8))
        clock = time.perf_counter()
        list(workers.make([np.array([0])] * count))
        return count / (time.perf_counter() - clock)


class Nothing:
    """Makes shards that hold nothing."""

    def __call__(self, index: np.ndarray) -> int:
        """Return at once."""
        return len(index)

    def lost(self, index: np.ndarray, reason: str) -> int:
        """Never happens."""
        raise AssertionError(reason)


def extrapolated(found: dict[str, Any], stars: int = 10_000_000) -> dict[str, float]:
    """Return what ten million stars take, along the straight lines through what was measured."""
    most = max((r for r in found["runs"] if r["workers"] == 2), key=lambda r: r["stars"])
    few, many = found["administration"]

    def then(what: str) -> float:
        slope = (many[what] - few[what]) / (many["stars"] - few["stars"])
        return float(many[what] + slope * (stars - many["stars"]))

    core_seconds = most["workers"] * most["seconds_per_star"]
    return {
        "core_hours": stars * core_seconds / 3600.0,
        "shards_gb": then("shards_bytes") / 1e9,
        "catalogue_gb": then("catalogue_bytes") / 1e9,
        "targets_gb": then("targets_bytes") / 1e9,
        "begin_minutes": then("begin_seconds") / 60.0,
        "begin_gb": then("begin_mib") / 1024.0,
        "look_minutes": then("look_seconds") / 60.0,
        "merge_minutes": then("merge_seconds") / 60.0,
        "merge_gb": then("merge_mib") / 1024.0,
        "seconds_per_shard_and_core": SHARD * core_seconds,
        "cores_that_a_scheduler_keeps_busy": found["tasks_per_second"] * SHARD * core_seconds}


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
    if sys.argv[1:2] == ["administration"]:
        print(json.dumps(one_step(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])))
    else:
        main()
