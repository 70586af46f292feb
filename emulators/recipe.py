"""How to train: the settings of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

PRECISIONS = ("float32", "bf16")
OPTIMISERS = ("muon", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How to train; every field can be given to :func:`train` by name.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    batch : int
        Spectra per step, over all processes.
    pixels : int
        Native pixels drawn at random per spectrum and step; networks that give whole
        spectra always take them all.
    accumulate : int
        Work through each batch in this many parts: the same gradient in less memory (but
        for the dropout of adapters, which each part draws anew).
    optimiser : {"muon", "adamw"}
        ``muon`` orthogonalises the updates of the weight matrices of hidden layers
        (Jordan et al. 2024, `torch.optim.Muon`) and leaves the rest to AdamW.
    learning_rate : float
        Peak rate of AdamW: linear warm-up, then a cosine to zero.
    matrix_rate : float
        The same for the matrices that Muon updates.
    warmup : int
        Steps of warm-up, at most half of all.
    weight_decay : float
    betas : (float, float)
        Of AdamW.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay per step of the moving average of the weights that is validated and kept
        in their place; 0 for none.
    emphasis : float
        Weight of a line's core: a pixel of flux f counts 1 + emphasis (1 - f).
    patience : int
        Stop after this many validations without a lower MSE; 0 for never.
    precision : {"float32", "bf16"}
        ``bf16`` computes with a bfloat16 copy of the float32 weights.
    compile : bool
        Use `torch.compile`; faster after half a minute, needs a C++ compiler on CPU.
    seed : int
    validate_every, checkpoint_every : int
        In steps; the last step does both.

    Raises
    ------
    ValueError
        For a value of another kind or outside what it can be, and a batch that is no multiple of
        `accumulate`.
    """

    steps: int = 20_000
    batch: int = 16
    pixels: int = 256
    accumulate: int = 1
    optimiser: str = "muon"
    learning_rate: float = 2e-3
    matrix_rate: float = 1e-2
    warmup: int = 300
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.0
    emphasis: float = 0.0
    patience: int = 0
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    validate_every: int = 2_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for field in fields(self):
            self._require_kind(field.name, type(field.default))
        for name in ("steps", "batch", "pixels", "accumulate", "validate_every",
                     "checkpoint_every"):
            self._require(name, at_least=1)
        for name in ("warmup", "weight_decay", "emphasis", "patience", "seed"):
            self._require(name, at_least=0)
        if not self.clip > 0.0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        for name, valid in (("precision", PRECISIONS), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; valid: {', '.join(valid)}"
                )
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch must be a multiple of accumulate, got {self.batch} and {self.accumulate}"
            )

    def _require_kind(self, name: str, kind: type) -> None:
        """Refuse a value of another kind than the default; whole numbers pass for floats."""
        value = getattr(self, name)
        if kind is tuple:
            right = (isinstance(value, list | tuple) and len(value) == 2
                     and all(isinstance(v, Real) for v in value))
        elif kind in (int, float):
            number = Integral if kind is int else Real
            right = isinstance(value, number) and not isinstance(value, bool)
        else:
            right = type(value) is kind
        if not right:
            what = {int: "a whole number", float: "a number", str: "a word",
                    bool: "true or false", tuple: "two numbers"}[kind]
            raise ValueError(f"{name} must be {what}, got {value!r}")
        # numpy's numbers pass, but JSON, which keeps the recipe of a run, knows none of them
        plain = tuple(map(float, value)) if kind is tuple else kind(value)
        object.__setattr__(self, name, plain)

    def _require(self, name: str, *, at_least: int) -> None:
        if not getattr(self, name) >= at_least:
            raise ValueError(f"{name} must be at least {at_least}, got {getattr(self, name)}")

    def schedule(self, step: int) -> float:
        """Return the learning rates of a step, counted from 0, as a fraction of their peaks."""
        warmup = min(self.warmup, self.steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * progress))
