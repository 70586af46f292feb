"""One star, its density and its samples, for all tests of posteriors."""

from __future__ import annotations

import pytest

from stellarfit.conclusion import conclude
from stellarfit.fitting import best_of
from stellarfit.posterior.density import Density
from stellarfit.preparing import prepare
from tests.stellarfit.posterior.chains import OPTIONS, STAR, draw


@pytest.fixture(scope="session")
def star(lines, observe):
    return observe(lines, STAR, snr=30.0, seed=3)


@pytest.fixture(scope="session")
def posterior(star, lines):
    return draw(star, lines, max_steps=1500, seed=3)


@pytest.fixture(scope="session")
def density(star, lines):
    problem, solution, gap = best_of(prepare([star], emulator=lines, **OPTIONS))
    return Density(problem, conclude(problem, solution, gap)[0])
