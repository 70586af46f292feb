"""How to count an emulator's error: how much of it do the modes of its sample hold?

``python -m benchmarks.error_modes GRID``: GRID is the reference grid ``mgb-fgk.h5``.  Each of its
validation stars, of the synthesis code and not of the emulator, is observed as in `benchmarks.sbc`,
and its labels are estimated to first order around the truth, the sample of the emulator's errors
being without its own.  For every share that the modes may hold: the mean logarithm of the Gaussian
probability of what the estimate is off by, the shares of pulls within 68 % and 95 % intervals, and
their robust width.  `stellarfit.weighting.COMMON` is chosen on stars of even number; those of odd
number tell what the choice is worth.  Writes ``benchmarks/results/error-modes.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import norm
from tqdm import tqdm

import emulators
from benchmarks.sbc import PRIOR, STAGES, star_of_grid, telescope
from stellarfit.noise import Noise
from stellarfit.weighting import emulator_noise

RESULTS = Path(__file__).parent / "results"
SHARES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
#: spectra of the same star with other noise
REPEATED = 8


def one(path: str, k: int) -> dict[float, list[tuple[float, list[float]]]]:
    """Return, for every share, log probability and pulls of star k, once per noise."""
    emulator, truth, fixed, snr, rest, rng = star_of_grid(path, k)
    model = telescope(emulator, fixed, **{n: truth[n] for n in STAGES})
    names = model.parameters.names
    theta = torch.tensor([[truth[n] for n in names]], dtype=torch.float64)
    flux, slope = (x[0].double() for x in model.jacobian(theta))
    error = flux - model.through(rest[None, model.pixels], theta[0])[0].double()
    x = torch.linspace(-1.0, 1.0, len(flux), dtype=torch.float64)
    scale = torch.as_tensor(model.parameters.scale)
    columns = torch.cat([slope * scale, flux[:, None] * torch.stack([x**0, x], dim=1)], dim=1)
    noise = torch.as_tensor(rng.standard_normal((len(flux), REPEATED)) / snr)
    found = {}
    for share in SHARES:
        own = emulator_noise(model, theta[0].numpy(), share)
        assert own is not None
        seen = Noise((snr**-2 + own.alone)[None] ** -0.5).with_modes([own.modes.T])
        X, y = (seen.whiten(c[None])[0] for c in (columns, noise - error[:, None]))
        covariance = torch.linalg.inv(X.T @ X)[:len(names), :len(names)]
        off = torch.linalg.lstsq(X, y).solution[:len(names)]
        square = (off * torch.linalg.solve(covariance, off)).sum(0)
        likely = -0.5 * (square + torch.linalg.slogdet(covariance)[1])
        pulls = off / torch.sqrt(torch.diag(covariance))[:, None]
        found[share] = list(zip(likely.tolist(), pulls.T.tolist(), strict=True))
    return found


def judged(each: list[tuple[float, list[float]]]) -> dict[str, Any]:
    """Return what estimates of many stars say together."""
    likely, pulls = (np.array(x) for x in zip(*each, strict=True))
    edges = norm.isf(0.5 * (1.0 - np.array([0.68, 0.95])))
    within = [(np.abs(pulls) < edge).mean(0) for edge in edges]
    width = 0.5 * np.diff(np.percentile(pulls, [15.87, 84.13], axis=0), axis=0)[0]
    return {"log_probability": float(likely.mean()),
            **{f"{name}_{what}": float(f(x)) for name, x in zip(
                ("within_68", "within_95", "width"), (*within, width), strict=True)
               for what, f in (("mean", np.mean), ("least", np.min), ("most", np.max))}}


@click.command(help=__doc__)
@click.argument("grid", type=click.Path(exists=True, dir_okay=False))
@click.option("--stars", default=240, show_default=True)
def main(grid: str, stars: int) -> None:
    """Estimate, then count."""
    each = [one(grid, k) for k in tqdm(range(stars), unit="star")]
    table = {half: {share: judged([row for star in each[first::2] for row in star[share]])
                    for share in SHARES} for first, half in enumerate(("even", "odd"))}
    path = RESULTS / "error-modes.json"
    path.write_text(json.dumps({"emulator": emulators.load("mgb-fgk").identity, "stars": stars,
                                "parameters": [n for n in PRIOR if n not in STAGES],
                                **table}, indent=1) + "\n")
    for half, rows in table.items():
        print(f"\n{half}\n{'share':>6} {'ln p':>7} {'68 %':>18} {'95 %':>18} {'width':>18}")
        for share, m in rows.items():
            print(f"{share:6.2f} {m['log_probability']:7.2f}" + "".join(
                f"  {m[n + '_mean']:.3f} ({m[n + '_least']:.2f}-{m[n + '_most']:.2f})"
                for n in ("within_68", "within_95", "width")))


if __name__ == "__main__":
    main()
