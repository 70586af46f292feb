"""How fast a training step is, and where its time goes: ``python -m benchmarks.training_speed``.

The shipped transformer, 16 spectra of 256 pixels, forward, backward and optimisers, on random
data.  Prints and stores pixels per second in float32 and bfloat16, compiled and not; the rate
of the matrix products against a 2048 x 2048 product measured in the same run; and, from
torch's profiler, the share of the time in matrix products and in the next largest losses.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from emulators import Recipe
from emulators.batches import Batch
from emulators.networks import build
from emulators.objective import Objective, optimisers_of

RESULT = Path(__file__).parent / "results" / "training-speed.json"
PIXELS = 16 * 256
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "mkldnn", "_mkl_linear")


def batch() -> Batch:
    """Return random spectra at random pixels."""
    torch.manual_seed(0)
    wavelength = 5150.0 * torch.exp(0.0287 * torch.rand(16, 256, dtype=torch.float64))
    return Batch(torch.rand(16, 85) * 2 - 1, wavelength, torch.rand(16, 256),
                 torch.ones(16, 256))


def stepper(precision: str, *, compiled: bool) -> Any:
    """Return a function that takes one training step."""
    recipe = Recipe(precision=precision, compile=compiled)
    pixels = 5150.0 * torch.exp(1e-5 * torch.arange(2872, dtype=torch.float64))
    torch.manual_seed(0)
    network = build("transformer", 85, pixels)
    objective, optimisers = Objective(network, recipe), optimisers_of(network, recipe)
    some = batch()

    def step() -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective(some).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()

    return step


def seconds(function: Any, *, repeat: int = 30, warm: int = 5) -> float:
    """Return the median time of a call."""
    times = []
    for i in range(warm + repeat):
        clock = time.perf_counter()
        function()
        if i >= warm:
            times.append(time.perf_counter() - clock)
    return float(np.median(times))


def product_rate(precision: str) -> float:
    """Return the floating-point operations per second of a 2048 x 2048 matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.rand(2048, 2048, dtype=dtype), torch.rand(2048, 2048, dtype=dtype)
    return 2 * 2048**3 / seconds(lambda: a @ b, repeat=5, warm=2)


def shares(step: Any, count: int = 10) -> dict[str, float]:
    """Return the share of the time per kind of operation, the largest first."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(count):
            step()
    spent: dict[str, float] = defaultdict(float)
    for event in trace.key_averages():
        name = event.key.removeprefix("aten::")
        if name in PRODUCTS:
            name = "matrix products"
        elif "CompiledFxGraph" in name:
            name = "fused element-wise kernels"
        spent[name] += event.self_cpu_time_total
    total = sum(spent.values())
    return {k: round(v / total, 3) for k, v in sorted(spent.items(), key=lambda x: -x[1])[:10]}


@click.command(help=__doc__)
def main() -> None:
    """Measure, print, write."""
    with FlopCounterMode(display=False) as counter:
        stepper("float32", compiled=False)()
    work = counter.get_total_flops()
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "flops_per_step": work}
    for precision in ("float32", "bf16"):
        peak = product_rate(precision)
        for compiled in (False, True):
            step = stepper(precision, compiled=compiled)
            duration = seconds(step)
            result[f"{precision}{', compiled' if compiled else ''}"] = {
                "pixels_per_second": round(PIXELS / duration),
                "of_the_product_rate": round(work / duration / peak, 3),
                "shares": shares(step),
            }
        result[f"{precision}_product_rate"] = round(peak / 1e9, 1)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
