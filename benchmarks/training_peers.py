"""Training steps per second against the closest peer: ``python -m benchmarks.training_peers``.

One network (width 128, 8 blocks, 16 tokens, heads of 32) with random weights, written by
astro-emulators-toolkit and read by ours; 16 spectra of 256 wavelengths each, forward, backward,
clipping and AdamW.  The peer's step is jitted, in an environment and process of its own (``python
-m benchmarks.peers.install`` first); ours runs in float32 and bfloat16, and with ``--compiled``
compiled.  They take turns.  The first losses say that the networks are the same.  The products of
a step per second are set against a 2048 x 2048 product in the same run.  Our own network, which is
smaller: `benchmarks.training_speed`.  Writes ``benchmarks/results/training-peers.json``;
``--quick`` writes nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import emulators
from benchmarks.forward_speed import (
    LOG_WAVELENGTH,
    N_LABEL,
    SHAPE,
    TINY,
    TOOLKIT,
    Peer,
    products_of_theirs,
    quartiles,
    timed,
    write_bundle,
)
from benchmarks.peers.install import FOLDER, python_of
from benchmarks.training_speed import product_rate
from emulators import Recipe
from emulators.batches import Batch
from emulators.objective import Objective, optimisers_of

RESULT = Path(__file__).parent / "results" / "training-peers.json"
SPECTRA, PIXELS = 16, 256


def stepper(
    bundle: Path, precision: str, compiled: bool, labels: Any, log_wavelength: Any
) -> Callable[[], float]:
    """Return a function that takes one training step and returns the loss before it."""
    emulator = emulators.load(bundle, medium="vacuum")
    recipe = Recipe(precision=precision, compile=compiled, optimiser="adamw")
    network = emulator.network.train().requires_grad_()
    objective, optimisers = Objective(network, recipe), optimisers_of(network, recipe)
    ones = torch.ones(SPECTRA, PIXELS)
    batch = Batch(emulator.labels.scale(torch.tensor(labels)),
                  torch.tensor(10.0**log_wavelength), ones, ones)

    def step() -> float:
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        for optimiser in optimisers:
            optimiser.step()
        return float(loss.detach())

    return step


@click.command(help=__doc__)
@click.option("--peers", "folder", default=FOLDER, show_default=True,
              type=click.Path(file_okay=False, path_type=Path))
@click.option("--cores", default=2, show_default=True)
@click.option("--repeat", default=30, show_default=True)
@click.option("--compiled", is_flag=True, help="Ours compiled as well.")
@click.option("--quick", is_flag=True, help="A small network and few steps, to try it.")
def main(folder: Path, cores: int, repeat: int, compiled: bool, quick: bool) -> None:
    """Write the bundle, start the peer, take steps in turn."""
    if not python_of(TOOLKIT, folder).exists():
        raise click.ClickException(f"no {TOOLKIT} in {folder}: run python -m "
                                   "benchmarks.peers.install")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # the peer inherits it
    torch.set_num_threads(cores)
    shape, repeat = (TINY, 3) if quick else (SHAPE, repeat)
    rng = np.random.default_rng(0)
    labels = rng.random((SPECTRA, N_LABEL), dtype=np.float32)
    log_wavelength = rng.uniform(*LOG_WAVELENGTH, (SPECTRA, PIXELS))
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        bundle = write_bundle(scratch / "random", folder, shape)
        np.savez(scratch / "work.npz", labels=labels, log_wavelength=log_wavelength)
        peer = Peer(TOOLKIT, folder, "toolkit.py", "train", str(bundle))
        kinds = [(p, c) for p in ("float32", "bf16") for c in ((False, True) if compiled
                                                               else (False,))]
        steps = {f"ours, {p}{', compiled' if c else ''}": stepper(
            bundle, p, c, labels, log_wavelength) for p, c in kinds}
        loss = {name: step() for name, step in steps.items()}
        first = peer.ask(work=str(scratch / "work.npz"), flux=str(scratch / "loss.npy"))
        loss[TOOLKIT] = float(np.load(scratch / "loss.npy"))
        seconds: dict[str, list[float]] = {name: [] for name in loss}
        for _ in range(repeat):
            for name, step in steps.items():
                seconds[name].append(timed(step))
            seconds[TOOLKIT].append(peer.ask())
        rates = {p: product_rate(p) for p in ("float32", "bf16")}
        peer.close()
    with FlopCounterMode(display=False) as counter:
        steps["ours, float32"]()
    work = dict.fromkeys(steps, float(counter.get_total_flops()))
    work[TOOLKIT] = 3.0 * products_of_theirs(shape, SPECTRA, PIXELS)  # backward takes two
    report: dict[str, Any] = {
        "shape": shape, "cores": cores, "versions": {"torch": torch.__version__, **peer.versions},
        "product_rate": {p: round(r / 1e9, 1) for p, r in rates.items()}, "first_call": first,
        "steps": {}}
    print("                            ms per step (quartiles)     pixels/s  of GEMM  "
          "toolkit's time / its  first loss")
    for name, times in seconds.items():
        middle = float(np.median(times))
        report["steps"][name] = case = {
            "seconds": quartiles(times), "pixels_per_second": round(SPECTRA * PIXELS / middle),
            "of_the_product_rate": round(
                work[name] / middle / rates["bf16" if "bf16" in name else "float32"], 3),
            "times_as_fast_as_the_peer": quartiles(
                (np.array(seconds[TOOLKIT]) / np.array(times)).tolist()),
            "first_loss": loss[name]}
        ms = {k: 1e3 * v for k, v in case["seconds"].items()}
        print(f"{name:26s} {ms['median']:9.1f} ({ms['low']:.1f}-{ms['high']:.1f})  "
              f"{case['pixels_per_second']:9d}  {case['of_the_product_rate']:7.2f}  "
              f"{case['times_as_fast_as_the_peer']['median']:20.2f}  {loss[name]:.6f}")
    if not quick:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
