"""Which lines matter: those strong enough anywhere in the domain of a recipe.

A line is kept if its opacity reaches a fraction of the continuum's at some corner of the
domain.  The corners are those of (teff, logg), at the least microturbulence, which makes
cores deepest, with three kinds of composition:

- every abundance at its upper limit;
- every abundance low, for the atoms: the fewer electrons metals give, the more transparent
  the continuum, and an element's own lines then scale with how far it can rise alone;
- the atoms of one molecule high and all others low; those of all molecules of carbon
  together, strongest where oxygen, which binds carbon in CO, is rare.

Outside the windows only wings matter, which fall with the square of the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from emulators.apart import EndedError
from emulators.synthesis.abundances import abundances
from emulators.synthesis.atmosphere import Atmosphere, Models
from emulators.synthesis.elements import ELEMENTS, atoms_of
from emulators.synthesis.lines import LineList
from emulators.synthesis.recipe import GridRecipe

# Beyond NEAR (Angstrom) from the window a line must be FAR times as strong as the continuum,
# times the distance over NEAR squared.  A wing's share of the opacity is about ratio x a /
# (sqrt(pi) u^2): with u = 100 Doppler widths at 3 Angstrom and a = 0.03 it is 5e-4 there.
NEAR, FAR = 3.0, 300.0

# atmosphere, A(X), vmic, low, high -> opacity ratio of each line
Strength = Callable[[Atmosphere, NDArray[np.float64], float, float, float], NDArray[np.float64]]


@dataclass(frozen=True)
class Corner:
    """A star at a corner of a domain.

    Attributes
    ----------
    values : dict of str to float
        Its labels, hidden ones included.
    species : tuple of str
        Whose lines it is for.
    rise : dict of str to float
        How much higher each abundance may be, dex.
    """

    values: Mapping[str, float]
    species: tuple[str, ...]
    rise: Mapping[str, float]


def corners(recipe: GridRecipe, species: set[str]) -> Iterator[Corner]:
    """Yield the corners at which the lines of some species are judged."""
    draw = recipe.distribution
    names = [d.name for d in draw.drawn if d.name.endswith("_h")]
    atoms = species & set(ELEMENTS)
    carbon = {m for m in species - atoms if "C" in atoms_of(m)}
    groups = [carbon, *({m} for m in sorted(species - atoms - carbon))]
    kinds = [(species, dict.fromkeys(names, 1.0)), (atoms, dict.fromkeys(names, -1.0))]
    for group in filter(None, groups):
        high = {f"{a.lower()}_h" for m in group for a in atoms_of(m)}
        kinds.append((group, {n: 1.0 if n in high else -1.0 / len(names) for n in names}))
    points = sorted(draw.corners(("teff", "logg", "vmic")),
                    key=lambda p: (p["teff"], p["logg"], p["vmic"]))
    for _, same in groupby(points, key=lambda p: (p["teff"], p["logg"])):
        point = next(same)  # that of least vmic
        for number, (group, weight) in enumerate(kinds):
            values = {**draw.extreme(weight), **point}
            yield Corner(values, tuple(sorted(group)), draw.slack(values) if number == 1 else {})


def select(
    lines: LineList, recipe: GridRecipe, strength: Strength,
    models: Models,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> NDArray[np.bool_]:
    """Return which of the lines matter, (n_line,).

    Parameters
    ----------
    strength
        Gives the opacity at the centre of each of the lines against the continuum's.
    models
        Gives the atmosphere for teff, logg, [M/H] and [alpha/M].
    progress
        Told the corners done and their number.
    """
    far = distance(lines.wavelength, recipe) / NEAR
    threshold = np.where(far <= 1.0, recipe.settings["lines"]["select"], FAR * far**2)
    kinds = np.array([s.split()[0] for s in lines.species])
    low, high = recipe.wavelength[0], recipe.wavelength[-1]
    keep = np.zeros(len(lines), dtype=bool)
    todo = list(corners(recipe, set(kinds.tolist())))
    for done, corner in enumerate(todo, start=1):
        values = corner.values
        model = models(values["teff"], values["logg"], float(recipe.m_h(values)),
                       float(recipe.alpha_m(values)))
        composition = abundances({n: values[n] for n in recipe.distribution.names},
                                 recipe.solar_scale)
        try:
            ratio = strength(model, composition, values["vmic"], low, high)
        except EndedError as error:
            where = ", ".join(f"{n} = {values[n]:g}" for n in (
                "teff", "logg", "fe_h", "c_h", "o_h") if n in values)
            raise RuntimeError(
                f"no lines selected: {error} at the corner of the domain where {where}; give "
                f"labels a narrower domain, or lines.select = 0 to keep all lines") from error
        rise = np.array([corner.rise.get(f"{k.lower()}_h", 0.0) for k in kinds])
        keep |= np.isin(kinds, corner.species) & (ratio * 10.0**rise >= threshold)
        progress(done, len(todo))
    return np.asarray(keep | (kinds == "H"))  # they reach further than their centres tell


def distance(wavelength: NDArray[np.float64], recipe: GridRecipe) -> NDArray[np.float64]:
    """Return how far wavelengths lie outside the windows of a recipe, Angstrom; 0 inside."""
    windows = np.array(recipe.settings["wavelength"]["windows"], dtype=float)
    outside = np.maximum(windows[:, :1] - wavelength, wavelength - windows[:, 1:])
    return np.asarray(outside.min(axis=0).clip(min=0.0))
