"""Noise: what makes the residuals of a good fit independent and of unit variance.

The covariance of a spectrum's pixels is

    C = D^(1/2) R D^(1/2) + U U^T,

D the variances, R the correlation of neighbours that a resampling leaves, r^|i - j| (a
first-order autoregression), and U a few modes in which errors of many pixels move together.
:meth:`Noise.whiten` applies a square root of its inverse.  That of the first part is a
difference of neighbours; with Q s V^T the singular values of the modes so whitened, that of
the whole is I - Q [1 - (1 + s^2)^(-1/2)] Q^T after it (Woodbury 1950, in its symmetric
form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: s^2 of modes that do not show above the other noise
SMALLEST = 1e-8


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of spectra on common pixels.

    Attributes
    ----------
    weight : (n_spec, n_pix) float64
        1 / sigma; 0 where a pixel is to be ignored.
    correlation : float
        r, between neighbours; an ignored pixel in between counts as a step.
    modes : sequence of (n_pix, n_mode) float64, optional
        Q of each spectrum.
    shrinkage : sequence of (n_mode,) float64, optional
        1 - (1 + s^2)^(-1/2).
    """

    weight: Tensor
    correlation: float = 0.0
    modes: Sequence[Tensor] = ()
    shrinkage: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.correlation < 1.0:
            raise ValueError(f"the correlation of neighbouring pixels is {self.correlation:g}; "
                             "expected 0 <= r < 1")

    def __getitem__(self, stars: Tensor) -> Noise:
        """Return the noise of some of the spectra."""
        some = stars.tolist() if self.modes else []
        return Noise(self.weight[stars], self.correlation, [self.modes[i] for i in some],
                     [self.shrinkage[i] for i in some])

    def with_rows(self, stars: Tensor, other: Noise) -> Noise:
        """Return the noise with that of some spectra replaced."""
        if len(stars) == len(self.weight):
            return other
        weight = self.weight.clone()
        weight[stars] = other.weight
        modes, shrinkage = list(self.modes), list(self.shrinkage)
        for i, q, s in zip(stars.tolist(), other.modes, other.shrinkage, strict=False):
            modes[i], shrinkage[i] = q, s
        return Noise(weight, self.correlation, modes, shrinkage)

    @property
    def used(self) -> Tensor:
        """Pixels that count, (n_spec, n_pix) bool."""
        return self.weight > 0

    def with_modes(self, modes: Sequence[Tensor] | Tensor) -> Noise:
        """Return the noise with modes U of each spectrum, (n_pix, n_mode), in the flux's unit."""
        diagonal = Noise(self.weight, self.correlation)
        found, shrinkage = [], []
        for i, each in enumerate(modes):
            white = diagonal[torch.tensor([i])].whiten(each[None].double())[0]
            # By way of their few products, since there are many more pixels than modes.
            squares, vectors = torch.linalg.eigh(white.T @ white)
            squares = squares.clamp(min=SMALLEST)
            found.append(white @ (vectors / torch.sqrt(squares)))
            shrinkage.append(1.0 - 1.0 / torch.sqrt(1.0 + squares))
        return replace(self, modes=found, shrinkage=shrinkage)

    def whiten(self, columns: Tensor) -> Tensor:
        """Return columns (n_spec, n_pix, n_column) in units in which noise is white."""
        result = self.weight.unsqueeze(-1) * columns
        if self.correlation > 0:
            result = self._decorrelated(result)
        if self.modes:
            result = torch.stack([
                r - q @ (s.unsqueeze(-1) * (q.T @ r)) if len(s) else r
                for r, q, s in zip(result, self.modes, self.shrinkage, strict=True)])
        return result

    def _decorrelated(self, columns: Tensor) -> Tensor:
        """Take from every used pixel what the used one before it foretells."""
        before, gap = self._predecessors()
        r = torch.where(before >= 0, self.correlation**gap, 0.0).unsqueeze(-1)
        index = before.clamp(min=0).unsqueeze(-1).expand_as(columns)
        return (columns - r * torch.gather(columns, 1, index)) / torch.sqrt(1.0 - r**2)

    def _predecessors(self) -> tuple[Tensor, Tensor]:
        """Return the index of the used pixel before each used one, or -1, and how far it is."""
        place = torch.arange(self.weight.shape[-1], device=self.weight.device)
        last = torch.cummax(torch.where(self.used, place, -1), dim=-1).values
        before = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=-1)
        before = torch.where(self.used, before, -1)
        return before, (place - before).double()
