"""How the labels of a grid are drawn, and the polytope that results.

::

    [labels]
    sampling = "sobol"                 # or "random"
    teff = { uniform = [4000, 7000] }
    logg = { uniform = [0.5, 5.0], at_least = { teff = 0.00125, constant = -5.75 } }
    vmic = { uniform = [0.5, 2.5] }
    he_frac = 0.0784                   # fixed
    fe_h = { uniform = [-2.5, 0.5] }
    alpha_fe = { uniform = [-0.2, 0.6], hidden = true }     # drawn, but no label of the grid

    [[elements]]                       # [X/H] of many elements at once
    of = ["O", "Ne", "Mg", "Si", "S", "Ca", "Ti"]
    uniform = [-0.4, 0.4]
    on = { fe_h = 1, alpha_fe = 1 }    # tied: added to what is drawn

    [[elements]]
    of = "others"                      # all that have a solar value and were not named
    uniform = [-0.4, 0.4]
    on = "fe_h"

Each label is uniform between two limits; what a limit or tie may name is an affine function
of other labels: a number, a name, or a table of coefficients and a ``constant``.  `at_least`
and `at_most` (one such function or a list) narrow the interval; where they cross, the
distribution is impossible, and an error.  ``of`` takes symbols and ranges: ``["C", "Ga-U"]``.

A sample is a function of the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.labels import Domain, unknown_names
from emulators.synthesis.drawn import Affine, Drawn, as_list
from emulators.synthesis.elements import ELEMENTS

SAMPLINGS = ("sobol", "random")
UNITS = {"teff": "K", "vmic": "km/s", "he_frac": ""}


class Distribution:
    """What the labels of a grid are drawn from.

    Parameters
    ----------
    drawn : sequence of Drawn
        Hidden ones included.
    sampling : {"sobol", "random"}
        A scrambled Sobol sequence covers the domain evenly, also as a grid is extended.

    Attributes
    ----------
    names, units : tuple of str
        The labels of the grid: as written, then the abundances by atomic number.

    Raises
    ------
    ValueError
        For an unknown name, labels that depend on each other in a circle, and limits that
        cross, with the key.
    """

    def __init__(self, drawn: Sequence[Drawn], sampling: str = "sobol") -> None:
        if sampling not in SAMPLINGS:
            raise ValueError(f"labels.sampling is {sampling!r}; valid: {', '.join(SAMPLINGS)}")
        self.sampling = sampling
        self.drawn = _sorted_by_kind(drawn)
        self.names = tuple(d.name for d in self.drawn if not d.hidden)
        self.units = tuple(UNITS.get(n, "dex") for n in self.names)
        self._order = _dependencies_first(self.drawn)
        self._all = [d.name for d in self.drawn]
        self._faces = _faces(self.drawn)
        self._check_possible()

    def sample(self, index: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.float64]]:
        """Return samples by their numbers, (n_index,) each, hidden labels included."""
        index = np.asarray(index)
        u = dict(zip(self._all, self._uniform(index, seed).T, strict=True))
        values: dict[str, NDArray[np.float64]] = {}
        for drawn in self._order:
            values[drawn.name] = drawn(u[drawn.name], values)
        return values

    def _uniform(self, index: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
        if self.sampling == "random":
            return np.stack([np.random.default_rng([seed, int(i)]).random(len(self._all))
                             for i in index])
        from scipy.stats.qmc import Sobol

        rows = []
        for i in index:
            sequence = Sobol(len(self._all), rng=np.random.default_rng(seed))
            rows.append(sequence.fast_forward(int(i)).random(1)[0] if i else sequence.random(1)[0])
        return np.stack(rows)

    @cached_property
    def domain(self) -> Domain:
        """The polytope of the labels of the grid.

        What hidden labels add to a face is replaced by the most they can, so that a face
        joins visible labels alone.
        """
        A, b = self._faces
        visible = [n in self.names for n in self._all]
        A, b = A.copy(), b.copy()
        for column in np.flatnonzero(np.logical_not(visible)):
            low, high = self.bounds(self._all[column])
            b -= np.minimum(A[:, column] * low, A[:, column] * high)
        A = A[:, visible]
        some = A.any(axis=1)
        A, b = A[some], b[some]
        _, first = np.unique(np.column_stack([A, b]).round(12), axis=0, return_index=True)
        return Domain(A[np.sort(first)], b[np.sort(first)])

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the least and the largest value of a label, hidden or not."""
        return self._extreme({name: 1.0})[name], self._extreme({name: -1.0})[name]

    def extreme(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the labels at the corner of the domain where a weighted sum is largest."""
        return self._extreme({n: -w for n, w in weights.items()})

    def slack(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return how far each label can rise while the others stay."""
        A, b = self._faces
        rest = b - A @ np.array([values[n] for n in self._all])
        with np.errstate(divide="ignore"):
            rise = np.where(A > 0, rest[:, None] / np.where(A > 0, A, 1.0), np.inf).min(axis=0)
        return dict(zip(self._all, rise.clip(min=0.0).tolist(), strict=True))

    def corners(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return the corners of the polytope of some labels alone."""
        names = [n for n in names if n in self._all]
        columns = [self._all.index(n) for n in names]
        A, b = self._faces
        alone = ~np.delete(A, columns, axis=1).any(axis=1)
        A, b = A[alone][:, columns], b[alone]
        found: list[NDArray[np.float64]] = []
        for rows in map(list, combinations(range(len(b)), len(names))):
            if np.linalg.matrix_rank(A[rows]) == len(names):
                point = np.asarray(np.linalg.solve(A[rows], b[rows]), dtype=np.float64)
                if (A @ point <= b + 1e-9 * (1 + np.abs(b))).all() and not any(
                        np.allclose(point, p) for p in found):
                    found.append(point)
        return [dict(zip(names, point.tolist(), strict=True)) for point in found]

    def _extreme(self, cost: Mapping[str, float]) -> dict[str, float]:
        from scipy.optimize import linprog

        A, b = self._faces
        c = np.array([cost.get(n, 0.0) for n in self._all])
        result = linprog(c, A_ub=A, b_ub=b, bounds=(None, None))
        if result.status == 2:
            raise ValueError("the limits of the labels exclude every star")
        return dict(zip(self._all, result.x.tolist(), strict=True))

    def _check_possible(self) -> None:
        """Raise where a lower limit can exceed an upper one."""
        from scipy.optimize import linprog

        # A label is left out of its own test: its faces would hide that they cross.
        before: list[Drawn] = []
        for drawn in self._order:
            for low, high in product(drawn.low, drawn.high):
                gap = high.plus(Affine(-low.constant,
                                       {n: -c for n, c in (low.coefficients or {}).items()}))
                terms = {n: c for n, c in (gap.coefficients or {}).items() if c}
                where: dict[str, float] = {}
                if mentioned := low.names | high.names:
                    A, b = _faces(before)
                    names = [d.name for d in before]
                    result = linprog([terms.get(n, 0.0) for n in names], A_ub=A, b_ub=b,
                                     bounds=(None, None))
                    where = {n: x for n, x in zip(names, result.x, strict=True)
                             if n in mentioned}
                if gap(where) < -1e-9:
                    at = ", ".join(f"{n} = {x:g}" for n, x in where.items())
                    raise ValueError(
                        f"{drawn.key} is impossible{f' where {at}' if at else ''}: its lower "
                        f"limit is {low(where):g}, its upper limit {high(where):g}"
                    )
            before.append(drawn)


def read_distribution(
    labels: Mapping[str, Any], elements: Sequence[Any], solar: NDArray[np.float64]
) -> Distribution:
    """Return the distribution that the tables ``[labels]`` and ``[[elements]]`` describe.

    Parameters
    ----------
    labels, elements
        As TOML gives them.
    solar : (n_element,) float64
        A(X) of the Sun; NaN for elements that cannot be labels.
    """
    labels = dict(labels)
    sampling = labels.pop("sampling", "sobol")
    drawn = [Drawn.read(name, value, f"labels.{name}") for name, value in labels.items()]
    for number, group in enumerate(elements, start=1):
        key = f"elements[{number}]"
        if not isinstance(group, dict) or "of" not in group:
            raise ValueError(f"{key} must be a table with 'of'")
        taken = {d.name for d in drawn}
        rest = {k: v for k, v in group.items() if k != "of"}
        for symbol in _symbols(group["of"], solar, taken, f"{key}.of"):
            name = f"{symbol.lower()}_h"
            if name in taken:
                raise ValueError(f"{key}.of names {symbol}, which has been described already")
            drawn.append(Drawn.read(name, rest, key))
    _check_names(drawn, solar)
    return Distribution(drawn, sampling)


def _symbols(of: Any, solar: NDArray[np.float64], taken: set[str], key: str) -> Iterator[str]:
    known = [s for s, a in zip(ELEMENTS, solar, strict=True)
             if np.isfinite(a) and s not in ("H", "He")]
    if of == "others":
        yield from (s for s in known if f"{s.lower()}_h" not in taken)
        return
    for item in as_list(of):
        first, dash, last = str(item).partition("-")
        ends = [first, last if dash else first]
        if wrong := [s for s in dict.fromkeys(ends) if s not in known]:
            raise ValueError(f"{key}: no solar abundance of {', '.join(map(repr, wrong))}; give "
                             f"symbols, ranges such as \"Ga-U\" or \"others\"")
        low, high = map(ELEMENTS.index, ends)
        if low > high:
            raise ValueError(f"{key}: {item!r} runs backwards; elements rise with atomic number: "
                             f"\"{last}-{first}\"")
        yield from (s for s in known if low <= ELEMENTS.index(s) <= high)


def _check_names(drawn: Sequence[Drawn], solar: NDArray[np.float64]) -> None:
    names = [d.name for d in drawn]
    abundances = {f"{s.lower()}_h" for s, a in zip(ELEMENTS, solar, strict=True)
                  if np.isfinite(a)} - {"h_h", "he_h"}
    valid = ("teff", "logg", "vmic", "he_frac", *sorted(abundances))
    if wrong := [d.name for d in drawn if not d.hidden and d.name not in valid]:
        raise unknown_names(wrong, valid, "label")
    if missing := [n for n in ("teff", "logg", "vmic") if n not in names]:
        raise ValueError(f"labels.{missing[0]} is missing: every star needs one")
    for one in drawn:
        if wrong := sorted(one.names - set(names)):
            raise unknown_names(wrong, names, f"label in {one.key}:")


def _sorted_by_kind(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Return labels as written, then abundances by atomic number."""
    def place(one: Drawn) -> int:
        symbol = one.name.removesuffix("_h").capitalize()
        known = one.name.endswith("_h") and symbol in ELEMENTS
        return 1 + ELEMENTS.index(symbol) if known else 0

    return sorted(drawn, key=place)


def _dependencies_first(drawn: Sequence[Drawn]) -> list[Drawn]:
    order: list[Drawn] = []
    left = list(drawn)
    while left:
        known = {d.name for d in order}
        ready = [d for d in left if d.names <= known]
        if not ready:
            raise ValueError(f"{left[0].key} depends on itself, through "
                             f"{', '.join(sorted(left[0].names - known))}")
        order += ready
        left = [d for d in left if d not in ready]
    return order


def _faces(drawn: Sequence[Drawn]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return A, b of the polytope of all labels, ``A @ values <= b``."""
    names = [d.name for d in drawn]
    rows, limits = [], []
    for one in drawn:
        for sign, bounds in ((1.0, one.high), (-1.0, one.low)):
            for bound in bounds:
                row = np.zeros(len(names))
                row[names.index(one.name)] = sign
                for name, coefficient in (bound.coefficients or {}).items():
                    row[names.index(name)] -= sign * coefficient
                rows.append(row)
                limits.append(sign * bound.constant)
    return np.array(rows), np.array(limits)
