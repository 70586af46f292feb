"""Labels and where they may lie.

A :class:`LabelSet` names the numbers that describe a star, gives their units and the
interval that the networks see as [-1, 1].  A :class:`Domain` is the polytope
``A @ labels <= b`` inside which an emulator was trained and may be asked.

Users rarely state all the labels of a star: they say ``teff``, ``logg``, ``vmic``,
``fe_h`` and perhaps ``mg_fe``.  :meth:`LabelSet.affine` turns such a list of parameters
into the matrix and vector of ``labels = A @ parameters + b``, in which every element that
nobody mentions follows iron.  Everything that maps parameters to labels, here and in
``stellarfit``, is that one affine map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# N(He)/N(H+He) of the Sun in Asplund et al. 2009 (ARA&A 47, 481): A(He) = 10.93, to the
# four digits that the reference grids hold fixed.
SOLAR_HE_FRAC = 0.0784


#: more abundances than these are not listed one by one
MANY = 40


def is_abundance(name: str) -> bool:
    """Whether `name` is a logarithmic abundance relative to hydrogen, such as ``mg_h``."""
    return name.endswith("_h")


def unknown_names(
    names: Sequence[str], valid: Sequence[str], what: str = "label"
) -> ValueError:
    """Return the error that lists the names we do not know beside those we do.

    Of dozens of abundances it says how they are spelled.
    """
    plain = {v.lower(): v for v in valid}
    guesses = [plain[g] for n in names
               for g in get_close_matches(re.sub(r"\W+", "_", n.lower()).strip("_"),  # [Fe/H]
                                          plain, n=1)]
    hint = f" (did you mean {', '.join(guesses)}?)" if guesses else ""
    ratios = [n for n in valid if n != "fe_h" and n.endswith(("_h", "_fe"))]
    listed = list(valid)
    if len(ratios) > MANY:
        listed = [n for n in valid if n not in ratios]
        listed.append(f"{len(ratios)} abundances such as {', '.join(ratios[:3])}")
    return ValueError(
        f"unknown {what}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}{hint}; "
        f"valid: {', '.join(listed)}"
    )


@dataclass(frozen=True)
class LabelSet:
    """The labels of a grid or an emulator: names, units and scaling.

    Parameters
    ----------
    names : tuple of str
        Lower case, in the order of the label vectors: ``teff``, ``logg``, ``mg_h``, ...
    units : tuple of str
        One per label: ``K``, ``dex``, ``km/s``; empty for a dimensionless one.
    low, high : tuple of float
        The values that the networks see as -1 and +1.  They are a choice of scale, not a
        limit; limits are the business of :class:`Domain`.

    Raises
    ------
    ValueError
        When these differ in length, a name comes twice, or `low` is above `high` or either is
        not finite.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.units), len(self.low), len(self.high)}
        if len(lengths) != 1:
            raise ValueError(
                f"names, units, low and high differ in length: {len(self.names)}, "
                f"{len(self.units)}, {len(self.low)}, {len(self.high)}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError("label names must be unique")
        wrong = [n for n, low, high in zip(self.names, self.low, self.high, strict=True)
                 if not -math.inf < low <= high < math.inf]
        if wrong:
            raise ValueError("low must be at most high, both finite, but not of "
                             f"{', '.join(wrong)}")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of `name` in the label vector; an unknown one raises ValueError."""
        if name not in self.names:
            raise unknown_names([name], self.names)
        return self.names.index(name)

    def scale(self, labels: Any) -> Any:
        """Map labels, shape (..., n_label), array or tensor, to about [-1, 1].

        A label whose limits coincide carries no information and becomes 0.
        """
        low, high = np.asarray(self.low), np.asarray(self.high)
        width = np.where(high > low, high - low, np.inf)
        if isinstance(labels, np.ndarray):
            return 2.0 * (labels - 0.5 * (low + high)) / width
        centre = labels.new_tensor(0.5 * (low + high))
        return (labels - centre) * labels.new_tensor(2.0 / width)

    def solar(self) -> dict[str, float]:
        """Return the solar values of the labels that have one in the reference grids."""
        values = {n: 0.0 for n in self.names if is_abundance(n)}
        return {**values, **({"he_frac": SOLAR_HE_FRAC} if "he_frac" in self.names else {})}

    @classmethod
    def spanning(cls, *sets: LabelSet) -> LabelSet:
        """Return the label set whose scale covers all of `sets`, so that they share one network."""
        first = sets[0]
        for other in sets[1:]:
            if other.names != first.names:
                raise ValueError("label sets with different names cannot share a scale")
        low = np.min([s.low for s in sets], axis=0)
        high = np.max([s.high for s in sets], axis=0)
        return cls(first.names, first.units, tuple(low.tolist()), tuple(high.tolist()))

    def affine(
        self, parameters: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return A, b of ``labels = A @ parameters + b``.

        Parameters
        ----------
        parameters : sequence of str
            Labels (``teff``, ``mg_h``) or ratios to iron (``mg_fe``).  A mentioned
            ``x_h`` stands for itself; ``x_fe`` is added on top of ``fe_h``; every other
            abundance follows ``fe_h``, which is solar (0) when not mentioned either.
            Helium is solar unless mentioned.

        Returns
        -------
        A : (n_label, n_parameter) float64
        b : (n_label,) float64

        Raises
        ------
        ValueError
            For a name that is neither a label nor a ratio of one to iron, for an element
            given both ways, and when ``teff``, ``logg`` or another label without a
            default is missing.
        """
        ratios = {n[:-2] + "_fe": n for n in self.names if is_abundance(n) and n != "fe_h"}
        valid = (*self.names, *(ratios if "fe_h" in self.names else ()))
        if wrong := [p for p in parameters if p not in valid]:
            raise unknown_names(wrong, valid)
        targets = [ratios.get(p, p) for p in parameters]
        if twice := sorted({t for t in targets if targets.count(t) > 1}):
            raise ValueError(f"given more than once: {', '.join(twice)}")

        matrix, offset = np.zeros((len(self), len(parameters))), np.zeros(len(self))
        for column, target in enumerate(targets):
            matrix[self.index(target), column] = 1.0
        if "fe_h" in parameters:
            iron = parameters.index("fe_h")
            for row, name in enumerate(self.names):
                if is_abundance(name) and name not in parameters:
                    matrix[row, iron] = 1.0
        for name, value in self.solar().items():
            if name not in parameters:
                offset[self.index(name)] = value
        missing = [
            n for n in self.names
            if not is_abundance(n) and n != "he_frac" and n not in parameters
        ]
        if missing:
            raise ValueError(f"no value for {', '.join(missing)}; every star needs one")
        return matrix, offset

    def vector(self, values: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return the label vectors of stars described by name.

        Parameters
        ----------
        values : mapping of str to float or array
            As in :meth:`affine`; arrays are broadcast against each other.

        Returns
        -------
        (..., n_label) float64

        Examples
        --------
        >>> s = LabelSet(("teff", "fe_h", "mg_h"), ("K", "dex", "dex"),
        ...              (4000., -2., -2.), (7000., 1., 1.))
        >>> s.vector({"teff": 5772., "fe_h": -0.5, "mg_fe": 0.2}).tolist()
        [5772.0, -0.5, -0.3]
        """
        matrix, offset = self.affine(list(values))
        columns = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in values.values()))
        return np.stack(columns, axis=-1) @ matrix.T + offset

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return {"names": list(self.names), "units": list(self.units),
                "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LabelSet:
        """Rebuild a label set from :meth:`to_dict`."""
        return cls(tuple(state["names"]), tuple(state["units"]),
                   tuple(map(float, state["low"])), tuple(map(float, state["high"])))


@dataclass(frozen=True, eq=False)
class Domain:
    """The polytope ``A @ labels <= b`` in which an emulator may be asked.

    Parameters
    ----------
    A : (n_face, n_label) float64
    b : (n_face,) float64

    Raises
    ------
    ValueError
        When the shapes are others.
    """

    A: NDArray[np.float64]
    b: NDArray[np.float64]

    # Grids store labels in float32: a label that sits exactly on a face may miss it by
    # that rounding, which is no reason to refuse it.
    relative_tolerance = 1e-6

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.b.shape != self.A.shape[:1]:
            raise ValueError(
                f"a domain needs A of shape (n_face, n_label) and b of shape (n_face,), "
                f"got {self.A.shape} and {self.b.shape}"
            )

    @classmethod
    def box(cls, low: ArrayLike, high: ArrayLike) -> Domain:
        """Return the domain ``low <= labels <= high``, each of shape (n_label,)."""
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        eye = np.eye(len(low))
        return cls(np.concatenate([eye, -eye]), np.concatenate([high, -low]))

    def excess(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far labels, (..., n_label), lie beyond each face, (..., n_face).

        Positive outside; the rounding of float32 labels is forgiven.
        """
        labels = np.asarray(labels, dtype=float)
        slack = self.relative_tolerance * (
            np.abs(labels) @ np.abs(self.A).T + np.abs(self.b)
        )
        return np.asarray(labels @ self.A.T - self.b - slack)

    def contains(self, labels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each label vector, (..., n_label), lies inside, shape (...)."""
        return np.asarray((self.excess(labels) <= 0).all(axis=-1))

    def describe_excess(self, labels: NDArray[np.float64], names: Sequence[str]) -> str:
        """Say in words which face the worst of the label vectors breaks."""
        labels = np.atleast_2d(labels)
        excess = np.where(np.isnan(e := self.excess(labels)), np.inf, e)
        # 1 K is not 1 dex: how far beyond a face is counted in sizes of its limit.
        worst = np.argmax(excess / (np.abs(self.b) + 1.0))
        star, face = np.unravel_index(worst, excess.shape)
        columns = np.flatnonzero(self.A[face]).tolist()
        terms = " ".join(_term(self.A[face, i], names[i]) for i in columns)
        terms = terms.removeprefix("+ ")
        values = ", ".join(f"{names[i]} = {labels[star, i]:g}" for i in columns)
        return f"{values}, but {terms} must be at most {self.b[face]:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description: per face, its non-zero coefficients by column."""
        rows = [
            {"columns": np.flatnonzero(a).tolist(), "values": a[np.flatnonzero(a)].tolist(),
             "limit": float(b)}
            for a, b in zip(self.A, self.b, strict=True)
        ]
        return {"n_label": self.A.shape[1], "faces": rows}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Domain:
        """Rebuild a domain from :meth:`to_dict`."""
        A = np.zeros((len(state["faces"]), state["n_label"]))
        for row, face in zip(A, state["faces"], strict=True):
            row[face["columns"]] = face["values"]
        return cls(A, np.array([face["limit"] for face in state["faces"]], dtype=float))


def _term(coefficient: float, name: str) -> str:
    """Return one term of a sum as text, such as ``+ logg`` or ``- 0.5 teff``."""
    size = "" if abs(coefficient) == 1 else f"{abs(coefficient):.4g} "
    return f"{'-' if coefficient < 0 else '+'} {size}{name}"
