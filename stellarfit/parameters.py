"""Which numbers a fit may move, and how they become labels.

A fit's free vector ``theta`` becomes the emulator's labels by ``labels = A theta + b``, and
the parameters of the observing stages (rv, vsini, resolution, epsilon) by another affine
map.  Free, fixed and tied are all said by those two matrices: a fixed parameter is a part
of ``b``, a tied one shares a column, an element that nobody mentions follows iron.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emulators import Domain, LabelSet
from emulators.labels import is_abundance, unknown_names
from stellarfit.polytope import bounding_box
from stellarfit.rotation import LIMB_DARKENING

Array = NDArray[np.float64]

#: parameters of the stages: unit, limits, description
STAGES = {
    "rv": ("km/s", (-2000.0, 2000.0), "radial velocity, positive receding"),
    "vsini": ("km/s", (0.0, 300.0), "projected rotational velocity"),
    "resolution": ("", (50.0, 1e7), "wavelength / FWHM of the line-spread function"),
    "epsilon": ("", (0.0, 1.0), "linear limb-darkening coefficient"),
}

#: What a fit frees unless told otherwise, where the emulator has it.  The elements are
#: those that move the flux of the Sun between 5150 and 5300 Å most (and calcium, whose
#: few lines are clean); one held to iron that does not follow it biases log g.
DEFAULT_FREE = (
    "teff", "logg", "vmic", "fe_h", "mg_fe", "c_fe", "ca_fe", "ti_fe", "cr_fe", "mn_fe",
    "co_fe", "ni_fe", "nd_fe", "rv", "vsini",
)
#: Typical sizes: the unit in which steps and distances are measured.
TYPICAL = {"teff": 100.0, "logg": 0.2, "vmic": 0.2, "he_frac": 0.01,
           "rv": 1.0, "vsini": 2.0, "epsilon": 0.1}
#: a free resolution stays within this factor of the instrument's
RESOLUTION_MARGIN = 2.0


@dataclass(frozen=True, eq=False)
class Parameters:
    """The affine maps from a fit's free vector, and its limits.

    Attributes
    ----------
    names : tuple of str
        Free parameters, in the order of ``theta``.
    labels : LabelSet
        Of the emulator.
    A, b : (n_label, n_free), (n_label,)
        ``labels = A theta + b``.
    stage_A, stage_b : (4, n_free), (4,)
        The same for ``STAGES``, in their order.
    G, h : (n_limit, n_free), (n_limit,)
        ``G theta <= h``: the emulator's domain and the limits of the stages.
    resolution : float
        Of the instrument.
    """

    names: tuple[str, ...]
    labels: LabelSet
    A: Array
    b: Array
    stage_A: Array
    stage_b: Array
    G: Array
    h: Array
    resolution: float

    def __len__(self) -> int:
        return len(self.names)

    @property
    def scale(self) -> Array:
        """Typical size of each free parameter."""
        typical = {**TYPICAL, "resolution": 0.1 * self.resolution}
        return np.array([typical.get(n, 0.1) for n in self.names])

    @property
    def fixed_stages(self) -> dict[str, float]:
        """Values of the stages' parameters that no free one moves."""
        return {n: float(self.stage_b[i]) for i, n in enumerate(STAGES)
                if not self.stage_A[i].any()}

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each free parameter, as astropy spells it; empty for none."""
        return tuple(self.unit_of(n) for n in self.names)

    def unit_of(self, name: str) -> str:
        """Return the unit of a label, a ratio or a stage's parameter."""
        if name in STAGES:
            return STAGES[name][0]
        return self.labels.units[self.labels.index(name)] if name in self.labels.names else "dex"

    def with_limits(self, name: str, low: float, high: float) -> Parameters:
        """Return the same parameters, a free one limited further; a fixed one is left alone."""
        if name not in self.names:
            return self
        row = np.eye(len(self))[self.names.index(name)]
        return replace(self, G=np.vstack([self.G, row, -row]), h=np.append(self.h, [high, -low]))

    def at_limit(self, theta: Array, tolerance: float = 1e-3) -> list[str]:
        """Return the names of the parameters that stand at a limit.

        `tolerance` is in typical sizes; vsini = 0 is the end of a scale, not a limit of
        what we know, and does not count.
        """
        width = np.abs(self.G) @ self.scale
        rows = (self.h - self.G @ theta) < tolerance * width
        names = {self.names[i] for row in self.G[rows] for i in np.flatnonzero(row)}
        if "vsini" in names and theta[self.names.index("vsini")] < 1.0:
            names.remove("vsini")
        return [n for n in self.names if n in names]


def make_parameters(
    labels: LabelSet, domain: Domain, *, free: Sequence[str] | None = None,
    fixed: Mapping[str, float] | None = None, tied: Mapping[str, str] | None = None,
    resolution: float = 1e5,
) -> Parameters:
    """Return the parameters of a fit.

    Parameters
    ----------
    labels, domain : LabelSet, Domain
        Of the emulator.
    free : sequence of str, optional
        Labels, ratios such as ``mg_fe`` and stage parameters; ``DEFAULT_FREE`` less what
        is fixed or tied when not given.
    fixed : mapping of str to float, optional
    tied : mapping of str to str, optional
        ``{"ca_fe": "mg_fe"}`` moves calcium with magnesium.
    resolution : float
        Of the instrument; the value of ``resolution`` unless that is free or fixed.

    Raises
    ------
    ValueError
        For unknown names, listing the valid ones; a parameter both free and fixed; a label
        without a value; and limits that nothing satisfies.
    """
    fixed, tied = dict(fixed or {}), dict(tied or {})
    elements = [n for n in labels.names if is_abundance(n) and n != "fe_h"]
    known = {*labels.names, *(e[:-2] + "_fe" for e in elements), *STAGES}
    if free is None:
        free = [n for n in DEFAULT_FREE if n in known and n not in fixed and n not in tied]
        # An element given as mg_h takes the place of the default mg_fe.
        given = {n.rsplit("_", 1)[0] for n in (*fixed, *tied)}
        free = [n for n in free if not n.endswith("_fe") or n[:-3] not in given]
    if wrong := [n for n in (*free, *fixed, *tied, *tied.values()) if n not in known]:
        raise unknown_names(wrong, sorted(known), what="parameter")
    everything = [*free, *fixed, *tied]
    if twice := sorted({n for n in everything if everything.count(n) > 1}):
        raise ValueError(f"{', '.join(twice)}: say it once, as free, fixed or tied")
    if loose := [m for m in tied.values() if m not in free]:
        raise ValueError(f"{', '.join(loose)}: a parameter can only be tied to a free one")
    if "resolution" in tied:
        raise ValueError("resolution cannot be tied: fix it or free it")
    if not free:
        raise ValueError("nothing is free: there is nothing to fit")

    needed = [n for n in labels.names if not is_abundance(n) and n != "he_frac"]
    if missing := [n for n in needed if n not in everything]:
        raise ValueError(
            f"no value for {', '.join(missing)}: free it, or fix it "
            f"(fixed={{'{missing[0]}': ...}}, --fix {missing[0]}=...)"
        )
    matrix, offset = _label_map(labels, everything)
    stage, stage_offset = _stage_map(everything, resolution)
    A, b = _reduce(matrix, offset, free, fixed, tied)
    stage_A, stage_b = _reduce(stage, stage_offset, free, fixed, tied)
    G, h = _limits(labels, domain, A, b, stage_A, stage_b)
    parameters = Parameters(tuple(free), labels, A, b, stage_A, stage_b, G, h, resolution)
    return parameters.with_limits(
        "resolution", resolution / RESOLUTION_MARGIN, resolution * RESOLUTION_MARGIN
    )


def _label_map(labels: LabelSet, names: Sequence[str]) -> tuple[Array, Array]:
    """Return the affine map of all mentioned names to labels, stages having no effect."""
    mine = [n for n in names if n not in STAGES]
    part, offset = labels.affine(mine)
    matrix = np.zeros((len(labels), len(names)))
    matrix[:, [names.index(n) for n in mine]] = part
    return matrix, offset


def _stage_map(names: Sequence[str], resolution: float) -> tuple[Array, Array]:
    defaults = {"rv": 0.0, "vsini": 0.0, "resolution": resolution, "epsilon": LIMB_DARKENING}
    matrix = np.array([[float(n == s) for n in names] for s in STAGES])
    offset = np.array([0.0 if s in names else defaults[s] for s in STAGES])
    return matrix, offset


def _reduce(
    matrix: Array, offset: Array, free: Sequence[str], fixed: Mapping[str, float],
    tied: Mapping[str, str],
) -> tuple[Array, Array]:
    """Move fixed columns into the offset and add tied ones to their masters'."""
    columns = np.split(matrix, np.cumsum([len(free), len(fixed)]), axis=1)
    A = columns[0].copy()
    for column, master in zip(columns[2].T, tied.values(), strict=True):
        A[:, list(free).index(master)] += column
    return A, offset + columns[1] @ np.array(list(fixed.values()), dtype=float)


def _limits(
    labels: LabelSet, domain: Domain, A: Array, b: Array, stage_A: Array, stage_b: Array
) -> tuple[Array, Array]:
    """Return G, h of all limits on theta, one row per direction."""
    # Stay inside by the rounding that the domain forgives in float32 labels.
    slack = domain.relative_tolerance * (np.abs(domain.A) @ np.abs(b) + np.abs(domain.b))
    low, high = np.array([limits for _, limits, _ in STAGES.values()]).T
    G = np.vstack([domain.A @ A, stage_A, -stage_A])
    h = np.concatenate([domain.b + slack - domain.A @ b, high - stage_b, stage_b - low])
    size = np.abs(G).max(axis=1)
    constant = size < 1e-12
    if (broken := constant & (h < 0)).any():
        raise ValueError(_outside(labels, domain, b, stage_b, np.flatnonzero(broken)))
    G, h, size = G[~constant], h[~constant], size[~constant]
    G, h = G / size[:, None], h / size
    # Many faces differ only in the element they speak of: keep the tightest per direction.
    directions, inverse = np.unique(np.round(G, 9), axis=0, return_inverse=True)
    tightest = np.full(len(directions), np.inf)
    np.minimum.at(tightest, inverse.ravel(), h)
    bounding_box(directions, tightest)
    return directions, tightest


def _outside(
    labels: LabelSet, domain: Domain, b: Array, stage_b: Array, broken: NDArray[np.int64]
) -> str:
    """Say in words which limit the fixed values break."""
    faces = broken[broken < len(domain.b)]
    if len(faces):
        fixed = Domain(domain.A[faces], domain.b[faces])
        return ("the fixed values lie outside the emulator's domain: "
                + fixed.describe_excess(b, labels.names))
    stage = (broken[0] - len(domain.b)) % len(STAGES)
    name, (unit, (low, high), _) = list(STAGES.items())[stage]
    limits = f"{low:g} and {high:g} {unit}".rstrip()
    return f"{name} = {stage_b[stage]:g} is fixed, but must lie between {limits}"
