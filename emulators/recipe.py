"""How to train: the settings of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How to train; every field can be given to :func:`train` by name.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    batch : int
        Spectra per step.
    pixels : int
        Native pixels drawn at random per spectrum and step; networks that give whole
        spectra always take them all.
    learning_rate : float
        Peak rate of AdamW: linear warm-up, then a cosine to zero.
    warmup : int
        Steps of warm-up.
    weight_decay : float
    betas : (float, float)
    clip : float
        Largest norm of the gradient.
    precision : {"float32", "bf16"}
        ``bf16`` computes with a bfloat16 copy of the float32 weights.
    compile : bool
        Use `torch.compile`; faster after half a minute, needs a C++ compiler on CPU.
    seed : int
    validate_every, checkpoint_every : int
        In steps; the last step does both.
    """

    steps: int = 20_000
    batch: int = 16
    pixels: int = 256
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    validate_every: int = 2_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "pixels", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; valid: float32, bf16")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
