"""One label of a recipe: uniform between limits that may move with other labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulators.labels import unknown_names

KEYS = ("uniform", "on", "at_least", "at_most")


@dataclass(frozen=True)
class Affine:
    """A constant plus multiples of labels."""

    constant: float = 0.0
    coefficients: Mapping[str, float] | None = None

    @property
    def names(self) -> set[str]:
        """The labels it depends on."""
        return set(self.coefficients or {})

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return its value where the labels are known."""
        return self.constant + sum(c * values[n] for n, c in (self.coefficients or {}).items())

    def plus(self, other: Affine) -> Affine:
        """Return the sum."""
        mine, its = dict(self.coefficients or {}), other.coefficients or {}
        for name, coefficient in its.items():
            mine[name] = mine.get(name, 0.0) + coefficient
        return Affine(self.constant + other.constant, mine)

    @classmethod
    def read(cls, value: Any, key: str) -> Affine:
        """Return what a number, a name or a table of coefficients says."""
        if isinstance(value, str):
            return cls(0.0, {value: 1.0})
        if is_number(value):
            return cls(float(value))
        if not isinstance(value, dict) or not all(is_number(v) for v in value.values()):
            raise ValueError(f"{key} must be a number, a label or a table of numbers such as "
                             f"{{ teff = 0.001, constant = 2 }}, got {value!r}")
        terms = {n: float(v) for n, v in value.items() if n != "constant"}
        return cls(float(value.get("constant", 0.0)), terms)


@dataclass(frozen=True)
class Drawn:
    """A label, uniform between the largest of its lower and the smallest of its upper limits."""

    name: str
    key: str
    low: tuple[Affine, ...]
    high: tuple[Affine, ...]
    hidden: bool = False

    @property
    def names(self) -> set[str]:
        """The labels it depends on."""
        return {n for limit in (*self.low, *self.high) for n in limit.names}

    @classmethod
    def read(cls, name: str, value: Any, key: str) -> Drawn:
        """Return what a recipe says of a label."""
        if is_number(value):
            value = {"uniform": [value, value]}
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a number or a table, got {value!r}")
        if wrong := sorted(set(value) - {*KEYS, "hidden"}):
            raise unknown_names(wrong, (*KEYS, "hidden"), f"key in {key}:")
        if not isinstance(hidden := value.get("hidden", False), bool):
            raise ValueError(f"{key}.hidden must be true or false, got {hidden!r}")
        if not {"uniform", "on"} & set(value):
            raise ValueError(f"{key} needs 'uniform' or 'on', or a number that fixes it")
        ends = value.get("uniform", [0.0, 0.0])
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
            raise ValueError(f"{key}.uniform must be two numbers, got {ends!r}")
        if not ends[0] <= ends[1]:
            raise ValueError(f"{key}.uniform must rise, got {ends!r}")
        on = Affine.read(value.get("on", 0.0), f"{key}.on")
        low, high = ([on.plus(Affine(float(end)))] + [
            Affine.read(limit, f"{key}.{which}") for limit in as_list(value.get(which, []))
        ] for end, which in zip(ends, ("at_least", "at_most"), strict=True))
        return cls(name, key, tuple(low), tuple(high), hidden)

    def __call__(self, u: Any, values: Mapping[str, Any]) -> Any:
        """Return the value a fraction `u` of the way from the lower to the upper limit."""
        low = np.max(np.broadcast_arrays(*(limit(values) for limit in self.low)), axis=0)
        high = np.min(np.broadcast_arrays(*(limit(values) for limit in self.high)), axis=0)
        return low + u * (high - low)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
