"""Kill a survey at random moments until it is done, and compare the catalogue.

``python -m benchmarks.survey_faults``: mock stars of a small emulator (`benchmarks.sbc`), a
hundred of their files cut short and a hundred with a bit flipped, are fitted in peace by one
worker, by two with SIGKILLs of them and of the client at random moments, and by two of a dask
scheduler that is killed; each time in shards of another size.  The catalogues must be the same
row for row and bit for bit, else the exit code is 1.  Then a disk that is full, and a folder that
cannot be written to.  Writes ``benchmarks/results/survey-faults.json``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from stellarfit.survey.running import merge, status

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


def mock_files(folder: Path, stars: int, *, cut: int, flipped: int) -> None:
    """Write files of a small emulator's stars, some cut short, some with a bit flipped."""
    import torch
    from astropy.table import Table

    from benchmarks.sbc import PIXELS, STAGES, drawn, quick_emulator, telescope

    emulator = quick_emulator()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    damaged = rng.permutation(stars)[:cut + flipped]
    for k in range(stars):
        path = folder / f"star{k:05}.fits"
        if path.exists():
            continue
        noise, truth, snr = drawn(k)
        model = telescope(emulator, {}, **{n: truth[n] for n in STAGES})
        theta = torch.tensor([[truth[n] for n in model.parameters.names]], dtype=torch.float64)
        flux = model.flux(theta)[0].double().numpy()
        flux = flux + noise.standard_normal(len(flux)) / snr
        table = Table({"wavelength": PIXELS, "flux": flux, "ivar": np.full(len(flux), snr**2)},
                      units={"wavelength": "Angstrom"},
                      meta={"MEDIUM": emulator.medium, "OBJECT": f"s{k}"})
        table.write(path)
        if k in damaged:
            content = bytearray(path.read_bytes())
            place = int(np.random.default_rng([6, k]).integers(len(content)))
            if k in damaged[:cut]:
                content = content[:place]
            else:
                content[place] ^= 1 << (k % 8)
            path.write_bytes(content)


def same(one: Any, other: Any) -> bool:
    """Return whether two catalogues are the same, row for row and bit for bit."""
    return one.colnames == other.colnames and all(
        np.array_equal(np.asarray(one[n]), np.asarray(other[n]),
                       equal_nan=one[n].dtype.kind == "f") for n in one.colnames)


def killed_scheduler(files: Path, folder: Path, emulator: Path, fit: dict[str, Any],
                     kills: int) -> int:
    """Run a survey on a dask cluster of its own processes, whose scheduler is killed."""
    rng, done = random.Random(3), 0
    while True:
        address = f"tcp://127.0.0.1:{rng.randint(20_000, 40_000)}"
        port = address.rsplit(":", 1)[1]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        scheduler = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler",
                                      "--host", "127.0.0.1", "--port", port,
                                      "--no-dashboard"], **quiet)
        workers = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", address,
                                     "--nthreads", "1", "--nworkers", "1", "--no-dashboard",
                                     "--death-timeout", "20"], **quiet) for _ in range(2)]
        client = subprocess.Popen([*command(files, folder, emulator, **fit), "--scheduler",
                                   address], **quiet)
        before = progress(folder)
        while client.poll() is None and (done >= kills or progress(folder) <= before):
            time.sleep(0.05)
        if client.poll() is None:
            time.sleep(rng.uniform(0.0, 1.0))
            scheduler.kill()
            done += 1
        try:
            code = client.wait(timeout=120.0)
        except subprocess.TimeoutExpired:
            client.kill()
            code = -1
        for process in (scheduler, *workers):
            process.kill()
            process.wait()
        if code == 0:
            return done


def full_disk(files: Path, folder: Path, emulator: Path, fit: dict[str, Any]) -> dict[str, Any]:
    """Run a survey whose shards find no room, then one whose folder cannot be written to."""
    import resource

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    few = files / "star000[0-5]*.fits"  # whose list is smaller than their rows
    found = subprocess.run(command(few, folder, emulator, **{**fit, "workers": 1}),
                           capture_output=True, text=True, preexec_fn=no_room)
    blocked = folder.with_name("a-file")
    blocked.write_text("in the way")
    other = subprocess.run(command(files, blocked / "survey", emulator, **fit),
                           capture_output=True, text=True)
    return {"full disk: exit code": found.returncode,
            "full disk: said": found.stderr.strip().splitlines()[-1][:300],
            "full disk: shards": len(list((folder / "shards").iterdir())),
            "no folder: exit code": other.returncode,
            "no folder: said": other.stderr.strip().splitlines()[-1][:300]}


@click.command(help=__doc__)
@click.option("--stars", default=2000, show_default=True)
@click.option("--kills", default=30, show_default=True, help="Of workers and of the client.")
@click.option("--schedulers", default=3, show_default=True, help="Kills of the scheduler.")
@click.option("--folder", default=Path("out") / "survey-faults", type=click.Path(path_type=Path),
              show_default=True)
def main(stars: int, kills: int, schedulers: int, folder: Path) -> None:
    """Fit in peace, then not."""
    from benchmarks.sbc import QUICK

    for old in ("peace", "killed", "scheduler", "full"):
        shutil.rmtree(folder / old, ignore_errors=True)
    mock_files(folder / "spectra", stars, cut=min(100, stars // 10),
               flipped=min(100, stars // 10))
    fit: dict[str, Any] = {"batch": 32, "free": "teff,logg,vmic,fe_h,mg_fe,rv,vsini"}
    clock = time.monotonic()
    subprocess.run(command(folder / "spectra", folder / "peace", QUICK, shard=128, workers=1,
                           **fit), check=True)
    peace = merge(folder / "peace", folder / "peace.fits")
    found: dict[str, Any] = {
        "stars": stars, "seconds_in_peace": time.monotonic() - clock,
        "cut_short": min(100, stars // 10), "bits_flipped": min(100, stars // 10),
        "without_a_fit": status(folder / "peace").failed}
    clock = time.monotonic()
    found["kills"] = killed_until_done(
        folder / "spectra", folder / "killed", QUICK, kills=kills, shard=32, batch=32, seed=8,
        free=fit["free"], fix=())
    found["seconds_killed"] = time.monotonic() - clock
    killed = merge(folder / "killed", folder / "killed.fits")
    found |= {"rows": len(killed), "same": same(killed, peace)}
    found["scheduler_kills"] = killed_scheduler(
        folder / "spectra", folder / "scheduler", QUICK, {**fit, "shard": 64}, schedulers)
    found["scheduler_same"] = same(merge(folder / "scheduler", folder / "s.fits"), peace)
    found |= full_disk(folder / "spectra", folder / "full", QUICK, {**fit, "shard": 32})
    text = json.dumps(found, indent=1).replace(f"{folder}/", "")
    (RESULTS / "survey-faults.json").write_text(text + "\n")
    print(json.dumps(found, indent=1))
    if not (found["same"] and found["scheduler_same"]):
        raise SystemExit("the catalogues differ")


if __name__ == "__main__":
    main()
