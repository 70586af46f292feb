"""Kill a survey at random moments until it is done, and compare the catalogue.

``python -m benchmarks.survey_faults``: mock stars of a small emulator (`benchmarks.sbc`), a
hundred of their files cut short and a hundred with a bit flipped, are fitted twice: in peace, and
with SIGKILLs of workers, of the client and of the scheduler at random moments.  The catalogues
must be the same file.  Then a disk that is full, and a folder that cannot be written to.  Writes
``benchmarks/results/survey-faults.json``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def command(files: Path | None, folder: Path, emulator: Path, **options: Any) -> list[str]:
    """Return the command that runs a survey of a small emulator's stars."""
    words = [sys.executable, "-m", "stellarfit", "survey", "run", "--out", str(folder),
             "--emulator", str(emulator), "--resolution", "20000", "--continuum", "2"]
    words += [str(files)] if files else []
    for name, value in options.items():
        for each in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(each)]
    return words


def children(process: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    found: list[int] = []
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True,
                            check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    parents = {process}
    while parents:
        parents = {pid for pid, parent in pairs if parent in parents}
        found += sorted(parents)
    return found


def is_worker(process: int) -> bool:
    """Return whether a process computes, rather than looks after others."""
    try:
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def killed_until_done(
    files: Path, folder: Path, emulator: Path, *, kills: int, shard: int, batch: int,
    seed: int = 0, scheduler: bool = False, free: str = "teff,logg,fe_h,mg_fe,rv",
    fix: tuple[str, ...] = ("vmic=1.2", "vsini=0.0"),
) -> int:
    """Run a survey, killing one of its processes at random moments; return how often.

    Workers die in the hands of a client that lives; when the client is the victim it is started
    again.  After `kills` it is left in peace.
    """
    rng = random.Random(seed)
    words = command(files, folder, emulator, shard=shard, batch=batch, free=free, fix=fix,
                    workers=2)
    done = 0
    while True:
        client = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  start_new_session=True)
        while client.poll() is None and done < kills:
            before = progress(folder)
            pause = time.monotonic() + rng.uniform(0.0, 2.0)
            # Only where something has been done since, or a survey of kills never ends.
            while client.poll() is None and (time.monotonic() < pause or progress(folder) == before
                                             ) and time.monotonic() < pause + 30.0:
                time.sleep(0.02)
            if client.poll() is not None:
                break
            workers = [p for p in children(client.pid) if is_worker(p)]
            victim = rng.choice([client.pid, *workers])
            os.kill(victim, signal.SIGKILL)
            done += 1
        error = client.communicate()[1].decode()
        if client.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the survey stopped by itself: {error[-2000:]}")
        if client.returncode == 0 and done >= kills:
            return done
        if client.returncode == 0:  # done before the last kill: some of it is lost, and made again
            for path in rng.sample(sorted((folder / "shards").glob("*.h5")), 2):
                path.unlink()


def progress(folder: Path) -> int:
    """Return how many shards are there."""
    return len(list((folder / "shards").glob("[0-9]*.h5")))
