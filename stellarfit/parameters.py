"""Which numbers a fit may move, and how they become labels.

A fit's free vector ``theta`` becomes the emulator's labels by ``labels = A theta + b``, and
the parameters of the observing stages (vsini, vmac, epsilon, and rv and resolution of each
arm) by another affine map.  Free, fixed and tied are all said by those two matrices: a
fixed parameter is a part of ``b``, a tied one shares a column, an element that nobody
mentions follows iron, an arm without a velocity of its own has the star's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emulators import Domain, LabelSet
from emulators.labels import is_abundance, unknown_names
from stellarfit.polytope import bounding_box
from stellarfit.priors import Prior, Uniform
from stellarfit.rotation import LIMB_DARKENING

Array = NDArray[np.float64]

#: parameters of the stages: unit, limits, description
STAGES = {
    "vsini": ("km/s", (0.0, 300.0), "projected rotational velocity"),
    "vmac": ("km/s", (0.0, 50.0), "macroturbulent velocity, radial-tangential"),
    "epsilon": ("", (0.0, 1.0), "linear limb-darkening coefficient"),
    "rv": ("km/s", (-2000.0, 2000.0), "radial velocity, positive receding"),
    "resolution": ("", (50.0, 1e7), "wavelength / FWHM of the line-spread function"),
}
#: those that belong to the star as a whole; the others each arm has
SHARED = ("vsini", "vmac", "epsilon")
OF_ARMS = ("rv", "resolution")

#: What a fit frees unless told otherwise, where the emulator has it.  The elements are
#: those that move the flux of the Sun between 5150 and 5300 Å most (and calcium, whose
#: few lines are clean); one held to iron that does not follow it biases log g.
DEFAULT_FREE = (
    "teff", "logg", "vmic", "fe_h", "mg_fe", "c_fe", "ca_fe", "ti_fe", "cr_fe", "mn_fe",
    "co_fe", "ni_fe", "nd_fe", "rv", "vsini",
)
#: Typical sizes: the unit in which steps and distances are measured.
TYPICAL = {"teff": 100.0, "logg": 0.2, "vmic": 0.2, "he_frac": 0.01,
           "rv": 1.0, "vsini": 2.0, "vmac": 2.0, "epsilon": 0.1}
#: a free resolution stays within this factor of the instrument's
RESOLUTION_MARGIN = 2.0


def stage_of(name: str) -> str | None:
    """Return the stage parameter that a name speaks of: ``rv`` for ``rv_red``; None for a label."""
    if name in STAGES:
        return name
    return next((s for s in OF_ARMS if name.startswith(s + "_")), None)


def stages_of(arms: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all stage parameters; several arms have an rv and resolution each."""
    if len(arms) == 1:
        return tuple(STAGES)
    return (*SHARED, *(f"{s}_{a}" for s in OF_ARMS for a in arms))


@dataclass(frozen=True, eq=False)
class Parameters:
    """The affine maps from a fit's free vector, and its limits.

    Attributes
    ----------
    names : tuple of str
        Free parameters, in the order of ``theta``.
    labels : LabelSet
        Of the emulator.
    stages : tuple of str
        The stage parameters (:func:`stages_of`).
    A, b : (n_label, n_free), (n_label,)
        ``labels = A theta + b``.
    stage_A, stage_b : (n_stage, n_free), (n_stage,)
        The same for `stages`.
    G, h : (n_limit, n_free), (n_limit,)
        ``G theta <= h``: the emulator's domain and the limits of the stages.
    resolutions : tuple of float
        Of the arms' instruments.
    """

    names: tuple[str, ...]
    labels: LabelSet
    stages: tuple[str, ...]
    A: Array
    b: Array
    stage_A: Array
    stage_b: Array
    G: Array
    h: Array
    resolutions: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def scale(self) -> Array:
        """Typical size of each free parameter."""
        def typical(name: str) -> float:
            stage = stage_of(name)
            if stage == "resolution":
                row = self.stage_A[-len(self.resolutions):, self.names.index(name)]
                return 0.1 * self.resolutions[int(np.argmax(row != 0))]
            return TYPICAL.get(stage or name, 0.1)

        return np.array([typical(n) for n in self.names])

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """Smallest and largest value of each free parameter."""
        return bounding_box(self.G, self.h)

    @property
    def fixed_stages(self) -> dict[str, float]:
        """Values of the stage parameters that no free one moves."""
        return {n: float(self.stage_b[i]) for i, n in enumerate(self.stages)
                if not self.stage_A[i].any()}

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each free parameter, as astropy spells it; empty for none."""
        return tuple(self.unit_of(n) for n in self.names)

    def unit_of(self, name: str) -> str:
        """Return the unit of a label, a ratio or a stage's parameter."""
        if stage := stage_of(name):
            return STAGES[stage][0]
        return self.labels.units[self.labels.index(name)] if name in self.labels.names else "dex"

    def row_of(self, name: str) -> tuple[Array, float]:
        """Return row, offset of ``value = row @ theta + offset`` of any label, ratio or stage.

        Raises
        ------
        ValueError
            For a name that is none of these.
        """
        if name in self.names:
            return np.eye(len(self))[self.names.index(name)], 0.0
        if name in self.stages:
            i = self.stages.index(name)
            return self.stage_A[i], float(self.stage_b[i])
        labels = self.labels.names
        if name in labels:
            i = labels.index(name)
            return self.A[i], float(self.b[i])
        if name.endswith("_fe") and name[:-2] + "h" in labels and "fe_h" in labels:
            element, iron = labels.index(name[:-2] + "h"), labels.index("fe_h")
            return self.A[element] - self.A[iron], float(self.b[element] - self.b[iron])
        valid = [*labels, *(n[:-2] + "_fe" for n in labels if is_abundance(n) and n != "fe_h"),
                 *self.stages]
        raise unknown_names([name], sorted(set(valid)), what="parameter")

    def value_of(self, name: str, theta: Array) -> float:
        """Return the value of any label, ratio or stage parameter at theta."""
        row, offset = self.row_of(name)
        return float(row @ theta + offset)

    def with_limits(self, name: str, low: float, high: float) -> Parameters:
        """Return the same parameters, a free one limited further; a fixed one is left alone."""
        if name not in self.names:
            return self
        row = self.row_of(name)[0]
        return replace(self, G=np.vstack([self.G, row, -row]), h=np.append(self.h, [high, -low]))

    def with_priors(self, priors: Mapping[str, Prior]) -> Parameters:
        """Return the same parameters within the limits of uniform priors.

        Raises
        ------
        ValueError
            For an unknown name, a prior on what the fit does not move, and limits that
            nothing satisfies.
        """
        result = self
        for name, prior in priors.items():
            row, offset = self.row_of(name)
            if not row.any():
                raise ValueError(f"{name} does not move in this fit: a prior on it says nothing")
            if isinstance(prior, Uniform):
                result = replace(
                    result, G=np.vstack([result.G, row, -row]),
                    h=np.append(result.h, [prior.high - offset, offset - prior.low]),
                )
        if result is not self:
            try:
                _ = result.box
            except ValueError as error:
                raise ValueError(
                    f"the priors on {', '.join(priors)} leave no point of the emulator's domain"
                ) from error
        return result

    def at_limit(self, theta: Array, tolerance: float = 1e-3) -> list[str]:
        """Return the names of the parameters that stand at a limit.

        `tolerance` is in typical sizes; vsini = 0 and vmac = 0 are ends of a scale, not limits
        of what we know, and do not count.
        """
        width = np.abs(self.G) @ self.scale
        rows = (self.h - self.G @ theta) < tolerance * width
        names = {self.names[i] for row in self.G[rows] for i in np.flatnonzero(row)}
        ends = {n for n in ("vsini", "vmac") if n in names and theta[self.names.index(n)] < 1.0}
        return [n for n in self.names if n in names - ends]


def make_parameters(
    labels: LabelSet, domain: Domain, *, free: Sequence[str] | None = None,
    fixed: Mapping[str, float] | None = None, tied: Mapping[str, str] | None = None,
    resolution: float = 1e5, arms: Mapping[str, float] | None = None,
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
        Of the only arm; the value of ``resolution`` unless that is free or fixed.
    arms : mapping of str to float, optional
        Names and resolutions of several arms, whose parameters are ``rv_NAME``, in place of
        the ``rv`` of all, and ``resolution_NAME``.

    Raises
    ------
    ValueError
        For unknown names, listing the valid ones; a parameter both free and fixed; a label
        without a value; limits that nothing satisfies; and an emulator with a label that is a
        stage's parameter.
    """
    if own := [n for n in labels.names if stage_of(n)]:
        raise ValueError(f"the emulator has {', '.join(own)} as a label: a fit broadens and shifts "
                         "spectra itself; train on a grid without it")
    fixed, tied = dict(fixed or {}), dict(tied or {})
    for name, value in fixed.items():
        if not (isinstance(value, (int, float, np.number)) and np.isfinite(value)):
            raise ValueError(f"{name} is fixed at {value!r}; expected a finite number")
    elements = [n for n in labels.names if is_abundance(n) and n != "fe_h"]
    arms = dict(arms or {"": resolution})
    stages = stages_of(tuple(arms))
    known = {*labels.names, *(e[:-2] + "_fe" for e in elements), "rv", *stages}
    if free is None:
        free = [n for n in DEFAULT_FREE if n in known and n not in fixed and n not in tied]
        # An element given as mg_h takes the place of the default mg_fe.
        given = {n.rsplit("_", 1)[0] for n in (*fixed, *tied)}
        free = [n for n in free if not n.endswith("_fe") or n[:-3] not in given]
        if len(arms) > 1 and all(f"rv_{a}" in (*fixed, *tied) for a in arms):
            free = [n for n in free if n != "rv"]
    if wrong := [n for n in (*free, *fixed, *tied, *tied.values()) if n not in known]:
        raise unknown_names(wrong, sorted(known), what="parameter")
    everything = [*free, *fixed, *tied]
    if twice := sorted({n for n in everything if everything.count(n) > 1}):
        raise ValueError(f"{', '.join(twice)}: say it once, as free, fixed or tied")
    if loose := [m for m in tied.values() if m not in free]:
        raise ValueError(f"{', '.join(loose)}: a parameter can only be tied to a free one")
    if any(stage_of(n) == "resolution" for n in tied):
        raise ValueError("resolution cannot be tied: fix it or free it")
    if not free:
        raise ValueError("nothing is free: there is nothing to fit")

    needed = [n for n in labels.names if not is_abundance(n) and n != "he_frac"]
    if missing := [n for n in needed if n not in everything]:
        raise ValueError(
            f"no value for {', '.join(missing)}: free it, or fix it "
            f"(fixed={{'{missing[0]}': ...}}, --fix {missing[0]}=...)"
        )
    own = [f"rv_{a}" for a in arms if f"rv_{a}" in everything]
    if own and "rv" not in everything and (
            still := [f"rv_{a}" for a in arms if f"rv_{a}" not in own]):
        raise ValueError(f"no value for {', '.join(still)}, while {', '.join(own)} has one: free "
                         "or fix it, or rv for the arms without one of their own")
    matrix, offset = _label_map(labels, everything)
    stage, stage_offset = _stage_map(everything, stages, tuple(arms.values()))
    A, b = _reduce(matrix, offset, free, fixed, tied)
    stage_A, stage_b = _reduce(stage, stage_offset, free, fixed, tied)
    if silent := [n for n in free if not A[:, free.index(n)].any()
                  and not stage_A[:, free.index(n)].any()]:
        raise ValueError(f"{', '.join(silent)}: free, but every arm has one of its own")
    G, h = _limits(labels, domain, A, b, stages, stage_A, stage_b)
    parameters = Parameters(tuple(free), labels, stages, A, b, stage_A, stage_b, G, h,
                            tuple(arms.values()))
    for name, nominal in zip(stages[-len(arms):], arms.values(), strict=True):
        parameters = parameters.with_limits(
            name, nominal / RESOLUTION_MARGIN, nominal * RESOLUTION_MARGIN)
    return parameters


def _label_map(labels: LabelSet, names: Sequence[str]) -> tuple[Array, Array]:
    """Return the affine map of all mentioned names to labels, stages having no effect."""
    mine = [n for n in names if stage_of(n) is None]
    part, offset = labels.affine(mine)
    matrix = np.zeros((len(labels), len(names)))
    matrix[:, [names.index(n) for n in mine]] = part
    return matrix, offset


def _stage_map(
    names: Sequence[str], stages: Sequence[str], resolutions: Sequence[float]
) -> tuple[Array, Array]:
    """Return the affine map of all mentioned names to the stages' parameters."""
    matrix, offset = np.zeros((len(stages), len(names))), np.zeros(len(stages))
    defaults = [0.0, 0.0, LIMB_DARKENING, *(0.0 for _ in resolutions), *resolutions]
    for row, (stage, default) in enumerate(zip(stages, defaults, strict=True)):
        # an arm that nobody mentions moves with the star
        source = stage if stage in names else str(stage_of(stage))
        if source in names:
            matrix[row, names.index(source)] = 1.0
        else:
            offset[row] = default
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
    labels: LabelSet, domain: Domain, A: Array, b: Array, stages: Sequence[str],
    stage_A: Array, stage_b: Array,
) -> tuple[Array, Array]:
    """Return G, h of all limits on theta, one row per direction."""
    # Stay inside by the rounding that the domain forgives in float32 labels.
    slack = domain.relative_tolerance * (np.abs(domain.A) @ np.abs(b) + np.abs(domain.b))
    low, high = np.array([STAGES[str(stage_of(n))][1] for n in stages]).T
    G = np.vstack([domain.A @ A, stage_A, -stage_A])
    h = np.concatenate([domain.b + slack - domain.A @ b, high - stage_b, stage_b - low])
    size = np.abs(G).max(axis=1)
    constant = size < 1e-12
    if (broken := constant & (h < 0)).any():
        raise ValueError(_outside(labels, domain, b, stages, stage_b, np.flatnonzero(broken)))
    G, h, size = G[~constant], h[~constant], size[~constant]
    G, h = G / size[:, None], h / size
    # Many faces differ only in the element they speak of: keep the tightest per direction.
    directions, inverse = np.unique(np.round(G, 9), axis=0, return_inverse=True)
    tightest = np.full(len(directions), np.inf)
    np.minimum.at(tightest, inverse.ravel(), h)
    bounding_box(directions, tightest)
    return directions, tightest


def _outside(
    labels: LabelSet, domain: Domain, b: Array, stages: Sequence[str], stage_b: Array,
    broken: NDArray[np.int64],
) -> str:
    """Say in words which limit the fixed values break."""
    faces = broken[broken < len(domain.b)]
    if len(faces):
        fixed = Domain(domain.A[faces], domain.b[faces])
        return ("the fixed values lie outside the emulator's domain: "
                + fixed.describe_excess(b, labels.names))
    stage = (broken[0] - len(domain.b)) % len(stages)
    name = stages[stage]
    unit, (low, high), _ = STAGES[str(stage_of(name))]
    limits = f"{low:g} and {high:g} {unit}".rstrip()
    return f"{name} = {stage_b[stage]:g} is fixed, but must lie between {limits}"
