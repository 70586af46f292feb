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
    modes : (n_spec, n_pix, n_mode) float64, optional
        Q.
    shrinkage : (n_spec, n_mode) float64, optional
        1 - (1 + s^2)^(-1/2).
    """

    weight: Tensor
    correlation: float = 0.0
    modes: Tensor | None = None
    shrinkage: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.correlation < 1.0:
            raise ValueError(f"the correlation of neighbouring pixels is {self.correlation:g}; "
                             "expected 0 <= r < 1")

    def __getitem__(self, stars: Tensor) -> Noise:
        """Return the noise of some of the spectra."""
        if torch.equal(stars, torch.arange(len(self.weight), device=stars.device)):
            return self
        if self.modes is None or self.shrinkage is None:
            return replace(self, weight=self.weight[stars])
        return replace(self, weight=self.weight[stars], modes=self.modes[stars],
                       shrinkage=self.shrinkage[stars])

    @property
    def used(self) -> Tensor:
        """Pixels that count, (n_spec, n_pix) bool."""
        return self.weight > 0

    def with_modes(self, modes: Tensor) -> Noise:
        """Return the noise with modes U (n_spec, n_pix, n_mode), in the unit of the flux."""
        whitened = replace(self, modes=None, shrinkage=None).whiten(modes.double())
        # By way of their few products, since there are many more pixels than modes.
        squares, vectors = torch.linalg.eigh(whitened.transpose(-1, -2) @ whitened)
        squares = squares.clamp(min=SMALLEST)
        q = whitened @ (vectors / torch.sqrt(squares).unsqueeze(-2))
        return replace(self, modes=q, shrinkage=1.0 - 1.0 / torch.sqrt(1.0 + squares))

    def whiten(self, columns: Tensor) -> Tensor:
        """Return columns (n_spec, n_pix, n_column) in units in which noise is white."""
        result = self.weight.unsqueeze(-1) * columns
        if self.correlation > 0:
            result = self._decorrelated(result)
        if self.modes is not None and self.shrinkage is not None:
            inner = self.shrinkage.unsqueeze(-1) * (self.modes.transpose(-1, -2) @ result)
            result = result - self.modes @ inner
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
