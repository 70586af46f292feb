"""Whether a star's chi-square is best projected on its student's components once.

``python -m benchmarks.projected STUDENT``: with flux = m + B c(labels) and a linear instrument L,
the chi-square of a star is a quadratic form in c, whose matrix (L B)^T W (L B) can be made once and
then serves every step, as long as velocity and rotation stay.  Times, on one thread and for one
star of a batch, that projection and the step that fits take instead, which sends the flux and its
derivatives through the instrument: so many steps it would have to serve, were those with it free.
Writes ``benchmarks/results/projected.json``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import emulators
from benchmarks.survey_load import FREE, PIXELS, RESOLUTION
from stellarfit import optimize
from stellarfit.arm import Arm
from stellarfit.continuum import as_continuum
from stellarfit.forward import ForwardModel
from stellarfit.instrument import instrument_for
from stellarfit.noise import Noise
from stellarfit.parameters import make_parameters

RESULTS = Path(__file__).parent / "results"
#: around which the stars of a batch lie
STAR = {"teff": 5500.0, "logg": 4.0, "vmic": 1.2, "fe_h": -0.3, "vsini": 8.0}
#: stars of a batch, and times that each is timed
STARS, TIMES = 64, 7


def milliseconds(work: Callable[[], Any], stars: int) -> float:
    """Return the median time of a star, in ms, after one call that warms up."""
    work()
    times = []
    for _ in range(TIMES):
        clock = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - clock) / stars)
    return statistics.median(times)


@click.command(help=__doc__)
@click.argument("student")
def main(student: str) -> None:
    """Time both."""
    torch.set_num_threads(1)
    emulator = emulators.load(student)
    network: Any = emulator.network
    continuum = as_continuum(4)
    arm = Arm(PIXELS, instrument_for(None, RESOLUTION), continuum)
    parameters = make_parameters(emulator.labels, emulator.domain, free=FREE,
                                 resolution=RESOLUTION)
    model = ForwardModel(emulator, parameters, [arm])
    rng = np.random.default_rng(0)
    theta = np.array([STAR.get(n, 0.0) for n in parameters.names]) + (
        0.1 * parameters.scale * rng.standard_normal((STARS, len(parameters))))
    at = torch.as_tensor(theta)
    terms = torch.as_tensor(continuum.terms(PIXELS, emulator.wavelength_range))
    flux = model.evaluate(at).double()
    weight = torch.full_like(flux, 50.0)
    none = np.empty((STARS, 0))
    data = optimize.Data(flux, Noise(weight), terms, torch.ones(len(PIXELS), dtype=torch.float64),
                         parameters.G, np.tile(parameters.h, (STARS, 1)),
                         none[:, :, None].repeat(len(parameters), 2), none)
    stars = np.arange(STARS)
    columns = network.decoder.weight.detach().T[:, model.pixels]

    def project() -> torch.Tensor:
        seen = model.through(columns, at[0]) * weight[0].float()
        return seen @ seen.T

    places = (theta + 1e-6 * k * parameters.scale for k in count())

    def step() -> None:
        place = next(places)  # not one that the model remembers
        optimize.chi_square(model, data, place, stars)
        optimize.normal_equations(model, data, place, stars)

    with torch.no_grad():
        found = {
            "student": emulator.identity, "components": len(columns), "pixels": len(PIXELS),
            "projection_ms": milliseconds(project, 1),
            "step_ms": milliseconds(step, STARS),
        }
    found["steps_it_must_serve"] = found["projection_ms"] / found["step_ms"]
    (RESULTS / "projected.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
