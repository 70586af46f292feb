"""Files with one model atmosphere: of MARCS and of ATLAS.

What a file says is checked when it is read
(:meth:`~emulators.synthesis.atmosphere.Atmosphere.check`).
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulators.synthesis.atmosphere import BOLTZMANN, Atmosphere

MARCS = "Gustafsson et al. 2008, A&A 486, 951 (MARCS)"
ATLAS = "Kurucz 2005, MSAIS 8, 14 (ATLAS)"
# [alpha/M] is told by Mg, Si, Ca and Ti against Cr and Ni, which follow iron: their difference
# in the Sun is the same within 0.01 dex from Anders & Grevesse (1989) to Asplund et al. (2009),
# that of iron itself is not.
ALPHA, IRON_PEAK, SOLAR_ALPHA = (12, 14, 20, 22), (24, 28), 0.667
SOLAR_IRON = -4.54  # log N(Fe) / N(H + He)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model atmosphere as a file gives it.

    Attributes
    ----------
    atmosphere : Atmosphere
    m_h, alpha_m : float
        dex.
    citation : str
    gravity : (n_layer,) float64
        Local gravity, cm/s²: it falls outwards where the model is spherical.
    """

    atmosphere: Atmosphere
    m_h: float
    alpha_m: float
    citation: str
    gravity: NDArray[np.float64]

    @property
    def spherical(self) -> bool:
        """Whether it was made in spheres; the use that is made of it is plane-parallel."""
        return bool(np.ptp(self.gravity) > 0)

    @property
    def node(self) -> tuple[float, ...]:
        """Its teff, logg, [M/H] and [alpha/M]."""
        return self.atmosphere.teff, self.atmosphere.logg, self.m_h, self.alpha_m


def read_model(path: str | Path) -> ModelFile:
    """Read one model of MARCS (``.mod``) or ATLAS (a ``READ DECK6`` deck), gzipped or not.

    Raises
    ------
    ValueError
        When it is neither, or what it says is no stellar atmosphere.
    """
    path = Path(path)
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    text = content.decode("latin-1")
    try:
        if "READ DECK" in text:
            model = _read_atlas(text)
        elif "Model structure" in text:
            model = _read_marcs(text)
        elif "MODEL TYPE" in text.upper():
            raise ValueError("it is a condensed .krz, which lists no opacities: take the .mod of "
                             "MARCS or the deck of ATLAS it was made from")
        else:
            raise ValueError("it is neither a .mod of MARCS nor a READ DECK6 deck of ATLAS")
        model.atmosphere.check(model.gravity)
    except (ValueError, IndexError) as error:
        raise ValueError(f"'{path}' is no model atmosphere that can be read: {error}") from error
    return model


def _read_marcs(text: str) -> ModelFile:
    """Return a model of MARCS, whose layers are in two tables under a head of values and words."""
    lines = text.splitlines()

    def said(words: str) -> list[str]:
        found = next((line for line in lines[:30] if words in line.lower()), None)
        if found is None:
            raise ValueError(f"no '{words}' in its head")
        return found.split()

    teff, gravity, radius = (float(said(w)[0]) for w in ("teff [k]", "surface gravity", "radius"))
    m_h, alpha_m = map(float, said("metallicity")[:2])
    count = int(said("number of depth points")[0])
    starts = [i for i, line in enumerate(lines) if line.split()[:2] == ["k", "lgTauR"]]
    layers = {name: column for start in starts[:2]
              for name, column in _table(lines, start, count).items()}
    if missing := [n for n in ("Depth", "T", "Pe", "Pg", "Prad", "KappaRoss", "RHOX")
                   if n not in layers]:
        raise ValueError(f"its layers have no {', '.join(missing)}")
    local = np.full(count, gravity)
    if radius > 10.0:  # that of a plane-parallel model is 1 cm; depth counts from Rosseland 1
        local *= (radius / (radius - layers["Depth"])) ** 2
    # MARCS lists RHOX = (Pg + Prad) / g, Prad with what it is at the top, where its gradient
    # has pressed on nothing yet: only without it does optical depth come out as lgTauR.
    return ModelFile(
        Atmosphere(
            teff, round(float(np.log10(gravity)), 3), layers["RHOX"] - layers["Prad"][0] / local[0],
            layers["T"], layers["Pg"], layers["Pe"] / (BOLTZMANN * layers["T"]),
            layers["KappaRoss"]),
        m_h, alpha_m, MARCS, local)


def _table(lines: list[str], start: int, count: int) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a table by the names in its first line."""
    names = lines[start].split()
    rows = [line.split() for line in lines[start + 1:start + 1 + count]]
    wrong = [i for i, row in enumerate(rows, start=1) if len(row) != len(names)]
    if wrong or len(rows) < count:
        raise ValueError(f"layer {wrong[0] if wrong else len(rows) + 1} of {count} is not whole")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def _read_atlas(text: str) -> ModelFile:
    """Return a model of ATLAS9 or ATLAS12, whose layers follow READ DECK6."""
    head, *decks = re.split(r"READ DECK6?", text)
    star = re.search(r"TEFF\s+([\d.]+)\s+GRAVITY\s+([-\d.]+)", head)
    if len(decks) != 1 or star is None:
        raise ValueError(f"it has {len(decks)} decks under {'a' if star else 'no'} TEFF and "
                         f"GRAVITY: it must be one model")
    title, *rows = decks[0].splitlines()
    count, names = int(title.split()[0]), re.findall(r"[A-Z]+", title)[:5]
    if names != ["RHOX", "T", "P", "XNE", "ABROSS"]:
        raise ValueError(f"its deck lists {', '.join(names)}, not RHOX, T, P, XNE, ABROSS")
    # What comes behind may run together.
    values = [row.split()[:5] for row in rows[:count]]
    if len(values) < count or any(len(row) < 5 for row in values):
        raise ValueError(f"its deck has not the {count} layers it promises")
    rhox, temperature, pressure, electrons, opacity = np.array(values, dtype=float).T
    teff, logg = float(star[1]), float(star[2])
    return ModelFile(Atmosphere(teff, logg, rhox, temperature, pressure, electrons, opacity),
                     *_composition(head), ATLAS, np.full(count, 10.0**logg))


def _composition(head: str) -> tuple[float, float]:
    """Return [M/H] and [alpha/M] of a model of ATLAS from its title and abundances.

    The scale has five decimals, too few for the poorest stars, and a title is often that of the
    model this one was started from: it counts if iron agrees with it.
    """
    found = re.search(r"ABUNDANCE SCALE\s+([\d.E+-]+)", head)
    scale = float(np.log10(max(float(found[1]) if found else 1.0, 3e-6)))
    listed = {int(z): float(value) for z, value in
              re.findall(r"(\d+)\s*(-\d+\.\d+)", head.partition("ABUNDANCE CHANGE")[2])}
    iron = scale + listed.get(26, SOLAR_IRON) - SOLAR_IRON
    title = re.search(r"\[\s*([+-]?\d*\.\d+)", head)
    choices = [round(float(title[1]), 3)] if title else []
    m_h = next((c for c in (*choices, round(scale, 3)) if abs(c - iron) < 0.2), None)
    if m_h is None:
        raise ValueError(f"its [M/H] is {iron:+.2f} by the iron it lists, but {scale:+.2f} by "
                         f"ABUNDANCE SCALE" + (f" and {choices[0]:+g} by TITLE" if title else ""))
    if not set(ALPHA + IRON_PEAK) <= set(listed):
        return m_h, 0.4 if re.search(r"\[\s*[+-]?\d*\.\d+a", head) else 0.0
    excess = np.mean([listed[z] for z in ALPHA]) - np.mean([listed[z] for z in IRON_PEAK])
    return m_h, round(20 * float(excess - SOLAR_ALPHA)) / 20
