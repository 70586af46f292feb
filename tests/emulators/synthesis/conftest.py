"""A recipe small enough to be made in a second or two."""

from __future__ import annotations

import copy
from typing import Any

import pytest

SMALL: dict[str, Any] = {
    "grid": {"title": "Ten Angstrom of giants", "number": 6, "seed": 5, "validation": 0.3},
    "wavelength": {"windows": [[5165.0, 5175.0]], "resolution": 50_000, "medium": "air"},
    "atmosphere": {"m_h": "fe_h"},
    "lines": {"without": ["CH", "CN", "C2", "NH", "OH"], "select": 0.0},
    "labels": {
        "teff": {"uniform": [4500, 6500]},
        "logg": {"uniform": [1.0, 5.0], "at_least": {"teff": 0.001, "constant": -3.5}},
        "vmic": 1.0,
        "fe_h": {"uniform": [-2.0, 0.0]},
        "alpha_fe": {"uniform": [0.0, 0.4], "hidden": True},
    },
    "elements": [
        {"of": ["Mg", "Ca-Ti"], "on": {"fe_h": 1, "alpha_fe": 1}, "uniform": [-0.1, 0.1]},
        {"of": "others", "on": "fe_h"},
    ],
}


@pytest.fixture
def small() -> dict[str, Any]:
    """Return the tables of a small recipe, to be changed at will."""
    return copy.deepcopy(SMALL)
