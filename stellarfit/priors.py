"""What is known of a star before its spectrum is looked at.

A Gaussian prior on any label, ratio or stage parameter is one more measurement, a row

    (row @ theta - value) / sigma

beside the pixels.  A colour is a measurement of temperature at a metallicity, linearised
where the fit stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from emulators.labels import unknown_names


@dataclass(frozen=True)
class Gaussian:
    """A parameter known as ``mean`` with standard deviation ``sigma``."""

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.sigma < math.inf):
            raise ValueError(f"a Gaussian prior needs a mean and a positive sigma, "
                             f"got {self.mean} and {self.sigma}")

    def linearised(self, name: str, labels: Mapping[str, float]
                   ) -> tuple[dict[str, float], float, float]:
        """Return the prior itself: it is linear already."""
        return {name: 1.0}, self.mean, self.sigma


@dataclass(frozen=True)
class Uniform:
    """A parameter known to lie between ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"a uniform prior needs finite numbers, low < high, got {self.low} "
                             f"and {self.high}")


@dataclass(frozen=True)
class Relation:
    """A colour-temperature relation: coefficients b, colours it holds for, scatter in K."""

    b: tuple[float, float, float, float, float, float]
    colours: tuple[float, float]
    scatter: float

    def temperature(self, colour: float, fe_h: float) -> float:
        """Return Teff: 5040 / Teff = b0 + b1 C + b2 C^2 + b3 F + b4 F^2 + b5 F C, F = [Fe/H]."""
        b = self.b
        return 5040.0 / (b[0] + b[1] * colour + b[2] * colour**2
                         + b[3] * fe_h + b[4] * fe_h**2 + b[5] * fe_h * colour)

    def slopes(self, colour: float, fe_h: float) -> tuple[float, float]:
        """Return the derivatives of Teff with respect to colour and [Fe/H]."""
        b, factor = self.b, -self.temperature(colour, fe_h) ** 2 / 5040.0
        return (factor * (b[1] + 2 * b[2] * colour + b[5] * fe_h),
                factor * (b[3] + 2 * b[4] * fe_h + b[5] * colour))


#: Mucciarelli, Bellazzini & Massari 2021, A&A 653, A90, eq. 1 and table 1: dwarfs, giants
RELATIONS = {
    "bp_rp": (
        Relation((0.4929, 0.5092, -0.0353, 0.0192, -0.0020, -0.0395), (0.39, 1.50), 61.0),
        Relation((0.5323, 0.4775, -0.0344, -0.0110, -0.0020, -0.0009), (0.33, 1.81), 83.0),
    ),
}
#: below this log g a star is a giant to the relations
GIANT = 3.5


@dataclass(frozen=True)
class Colour:
    """Teff from a colour, with the error of the colour and the scatter of the relation.

    Parameters
    ----------
    value : float
        Dereddened colour, mag.
    error : float
        Its standard error, that of the reddening included.
    colour : {"bp_rp"}
        Gaia's BP - RP (Mucciarelli, Bellazzini & Massari 2021, A&A 653, A90).

    Raises
    ------
    ValueError
        For an unknown colour, or a value where no relation holds.
    """

    value: float
    error: float
    colour: str = "bp_rp"

    def __post_init__(self) -> None:
        if self.colour not in RELATIONS:
            raise unknown_names([self.colour], list(RELATIONS), what="colour")
        low = min(r.colours[0] for r in RELATIONS[self.colour])
        high = max(r.colours[1] for r in RELATIONS[self.colour])
        if not low <= self.value <= high:
            raise ValueError(f"{self.colour} = {self.value:g} lies outside {low:g}-{high:g}, "
                             "where its relation to Teff is known")
        if not 0 <= self.error < math.inf:
            raise ValueError(f"the error of {self.colour} is {self.error}; expected 0 or more")

    def linearised(self, name: str, labels: Mapping[str, float]
                   ) -> tuple[dict[str, float], float, float]:
        """Return Teff as a function of [Fe/H], a tangent at that of `labels`."""
        if name != "teff":
            raise ValueError(f"a colour is a prior on teff, not on {name}")
        fe_h = labels.get("fe_h", 0.0)
        dwarf, giant = RELATIONS[self.colour]
        low, high = dwarf.colours
        # Where the dwarfs' relation does not reach, that of the giants is the nearest to it.
        cool = labels.get("logg", 4.5) < GIANT or not low <= self.value <= high
        relation = giant if cool else dwarf
        by_colour, by_iron = relation.slopes(self.value, fe_h)
        sigma = math.hypot(relation.scatter, by_colour * self.error)
        value = relation.temperature(self.value, fe_h) - by_iron * fe_h
        return {"teff": 1.0, "fe_h": -by_iron}, value, sigma


Prior = Gaussian | Uniform | Colour


def as_prior(text: str | Prior) -> Prior:
    """Return a prior from ``gaussian:MEAN:SIGMA``, ``uniform:LOW:HIGH`` or ``bp_rp:VALUE:ERROR``.

    Raises
    ------
    ValueError
        For anything else, and numbers that make no prior.
    """
    if isinstance(text, (Gaussian, Uniform, Colour)):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no prior; expected a Gaussian, Uniform or Colour of "
                         "stellarfit.priors, or its spelling")
    kind, *words = text.split(":")
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        numbers = []
    if len(numbers) == 2 and kind in ("gaussian", "uniform", *RELATIONS):
        if kind == "gaussian":
            return Gaussian(*numbers)
        return Uniform(*numbers) if kind == "uniform" else Colour(numbers[0], numbers[1], kind)
    raise ValueError(f"'{text}' is no prior; expected gaussian:MEAN:SIGMA, uniform:LOW:HIGH or "
                     f"{' or '.join(RELATIONS)}:VALUE:ERROR")
