"""Spectra per second against the closest peers: ``python -m benchmarks.forward_speed``.

One network with random weights (width 128, 8 blocks, 16 tokens, heads of 32) is written as a
bundle by astro-emulators-toolkit and read by ours, so that both make the same fluxes; one of the
same shape by transformer-payne is timed beside them.  The peers run jitted in environments and
processes of their own (``python -m benchmarks.peers.install`` first) and take turns with ours,
in float32, bfloat16 and, with ``--compiled``, compiled.  The first call, which compiles, is told
apart.  The products of a network per second are set against a 2048 x 2048 product in the same
run.  Writes ``benchmarks/results/forward-speed.json``; ``--quick`` writes nothing.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import emulators
from benchmarks.peers.install import FOLDER, python_of
from benchmarks.training_speed import product_rate, shares

RESULT = Path(__file__).parent / "results" / "forward-speed.json"
SCRIPTS = Path(__file__).parent / "peers"
SHAPE = {"dim": 128, "no_layers": 8, "no_tokens": 16, "dim_head": 32, "dim_ff_multiplier": 4,
         "min_period": 1e-6, "max_period": 10.0}
TINY = {**SHAPE, "dim": 32, "no_layers": 2, "no_tokens": 4}
N_LABEL = 95
LOG_WAVELENGTH = (3.6, 3.8)
OURS, TOOLKIT, PAYNE = "ours", "astro-emulators-toolkit", "transformer-payne"


class Peer:
    """A peer in a process of its own, which waits while others are timed."""

    def __init__(self, name: str, folder: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [python_of(name, folder), SCRIPTS / command[0], *command[1:]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()["versions"]

    def ask(self, **request: str) -> float:
        """Return the seconds that a request took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise click.ClickException("a peer ended before it answered; what it said is above")
        return json.loads(line)


def write_bundle(out: Path, folder: Path, shape: dict[str, Any]) -> Path:
    """Let the toolkit write a bundle with random weights whose labels run from 0 to 1."""
    spec = {"name": "random", "params": shape, "names": [f"x{i}" for i in range(N_LABEL)],
            "low": [0.0] * N_LABEL, "high": [1.0] * N_LABEL, "at": [0.5] * N_LABEL,
            "pixels": np.logspace(*LOG_WAVELENGTH, 100).tolist()}
    subprocess.run([python_of(TOOLKIT, folder), SCRIPTS / "toolkit.py", "write", out],
                   input=json.dumps(spec), text=True, check=True)
    return out


def products_of_theirs(shape: dict[str, Any], stars: int, pixels: int) -> float:
    """Return the floating-point operations of the textbook's attention and the rest."""
    d, t, wide = shape["dim"], shape["no_tokens"], shape["dim_ff_multiplier"] * shape["dim"]
    pixel = shape["no_layers"] * (2 * d * d + 2 * t * d + 2 * d * wide) + d * d + d
    star = N_LABEL * d + t * d * d + shape["no_layers"] * 2 * t * d * d
    return 2.0 * stars * (pixels * pixel + star)


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    clock = time.perf_counter()
    call()
    return time.perf_counter() - clock


def quartiles(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles, four digits of each."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {k: float(f"{v:.4g}") for k, v in (("median", middle), ("low", low), ("high", high))}


def race(
    ours: dict[str, emulators.Emulator], peers: dict[str, Peer], shape: dict[str, Any],
    stars: int, pixels: int, repeat: int, scratch: Path,
) -> dict[str, Any]:
    """Let all make the same spectra in turn."""
    labels = np.random.default_rng(0).random((stars, N_LABEL), dtype=np.float32)
    log_wavelength = np.linspace(*LOG_WAVELENGTH, pixels)
    work = scratch / f"{stars}-{pixels}.npz"
    np.savez(work, labels=labels, log_wavelength=log_wavelength)
    at, grid = torch.tensor(labels).double(), torch.tensor(10.0**log_wavelength)

    def caller(emulator: emulators.Emulator) -> Callable[[], torch.Tensor]:
        return lambda: emulator.flux(at, grid)

    calls = {name: caller(emulator) for name, emulator in ours.items()}
    first = {n: timed(c) for n, c in calls.items()}
    first |= {n: p.ask(work=str(work), flux=str(scratch / f"{n}.npy")) for n, p in peers.items()}
    theirs = np.load(scratch / f"{TOOLKIT}.npy")
    seconds: dict[str, list[float]] = {name: [] for name in first}
    for _ in range(repeat):
        for name, call in calls.items():
            seconds[name].append(timed(call))
        for name, peer in peers.items():
            seconds[name].append(peer.ask())
    rates = {p: product_rate(p) for p in ("float32", "bf16")}
    with FlopCounterMode(display=False) as counter:
        calls[OURS]()
    work_of = {n: float(counter.get_total_flops()) if n in ours else
               products_of_theirs(shape, stars, pixels) for n in first}
    report: dict[str, Any] = {
        "stars": stars, "pixels": pixels,
        "product_rate": {p: round(r / 1e9, 1) for p, r in rates.items()},
        "profile": shares(calls[OURS], count=3),
    }
    for name, times in seconds.items():
        rate = rates["bf16" if "bf16" in name else "float32"]
        report[name] = {
            "seconds": quartiles(times), "first": float(f"{first[name]:.3g}"),
            "pixels_per_second": round(stars * pixels / np.median(times)),
            "of_the_product_rate": round(work_of[name] / float(np.median(times)) / rate, 3),
            **{f"times_as_fast_as_{peer}": quartiles(
                (np.array(seconds[peer]) / np.array(times)).tolist())
               for peer in peers if name in ours},
        }
        if name in ours:
            off = np.abs(calls[name]().float().numpy() - theirs).max()
            report[name]["largest_difference"] = float(f"{off:.2g}")
    return report


def table(report: dict[str, Any]) -> str:
    """Return the races as text."""
    lines = ["stars  pixels  who                          ms (quartiles)          of GEMM  "
             "toolkit's time / its"]
    for case in report["cases"]:
        for name in [n for n in case if isinstance(case[n], dict) and "seconds" in case[n]]:
            row, ms = case[name], {k: 1e3 * v for k, v in case[name]["seconds"].items()}
            ratio = row.get(f"times_as_fast_as_{TOOLKIT}", {}).get("median", "")
            lines.append(f"{case['stars']:5d}  {case['pixels']:6d}  {name:26s} {ms['median']:8.1f} "
                         f"({ms['low']:.1f}-{ms['high']:.1f})  {row['of_the_product_rate']:12.2f}"
                         f"  {ratio}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--peers", "folder", default=FOLDER, show_default=True,
              type=click.Path(file_okay=False, path_type=Path))
@click.option("--cores", default=2, show_default=True)
@click.option("--repeat", default=20, show_default=True)
@click.option("--compiled", is_flag=True, help="Ours compiled as well.")
@click.option("--quick", is_flag=True, help="A small network and little work, to try it.")
def main(folder: Path, cores: int, repeat: int, compiled: bool, quick: bool) -> None:
    """Write the bundle, start the peers, race."""
    for name in (TOOLKIT, PAYNE):
        if not python_of(name, folder).exists():
            raise click.ClickException(f"no {name} in {folder}: run python -m "
                                       "benchmarks.peers.install")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the peers inherit it
    torch.set_num_threads(cores)
    shape, counts = (TINY, (1, 2)) if quick else (SHAPE, (1, 16))
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        scratch = Path(temporary)
        bundle = write_bundle(scratch / "random", folder, shape)
        ours = {OURS: emulators.load(bundle, medium="vacuum")}
        ours[f"{OURS}, bf16"] = copy.deepcopy(ours[OURS]).to(torch.bfloat16)
        for name, emulator in list(ours.items()) if compiled else []:
            ours[f"{name}, compiled"] = emulator.compiled()
        payne = {**shape, "input_dim": N_LABEL, "out_dim": 1}
        peers = {TOOLKIT: Peer(TOOLKIT, folder, "toolkit.py", "serve", str(bundle)),
                 PAYNE: Peer(PAYNE, folder, "payne.py", json.dumps(payne))}
        cases = [race(ours, peers, shape, stars, pixels, 2 if quick else repeat, scratch)
                 for stars in counts for pixels in ((100, 300) if quick else (1_000, 10_000))]
        versions = {"torch": torch.__version__.split("+")[0],
                    **{n: peer.versions for n, peer in peers.items()}}
        for peer in peers.values():
            peer.close()
    report = {"shape": shape, "n_label": N_LABEL, "cores": cores, "repeat": repeat,
              "versions": versions, "cases": cases}
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
