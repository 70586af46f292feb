"""A star and how its posterior is sampled."""

from __future__ import annotations

from stellarfit import sample

OPTIONS = {"resolution": 20_000, "free": ["teff", "fe_h"],
           "fixed": {"logg": 4.5, "vmic": 1.0, "rv": 0.0, "vsini": 0.0}}
STAR = {"teff": 5300.0, "logg": 4.5, "vmic": 1.0, "fe_h": -0.4}
QUICK = {"progress": False, "walkers": 12}


def draw(star, lines, **options):
    return sample(star, emulator=lines, **{**OPTIONS, **QUICK, **options})
