"""A jitter that is sampled with the labels: the noise of a star as a function of it.

A fit holds the jitter j, a fraction of the continuum c that adds to the noise of every pixel, at
its most likely value j_0 (`weighting`).  Where it is a parameter of its own, the variance of a
pixel is

    v(j) = v(j_0) + (j^2 - j_0^2) c^2,

with outliers and continuum as they are at the fit, and the likelihood carries ln det of the noise:
that of the variances and, by the matrix determinant lemma, of the emulator's modes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stellarfit.noise import SMALLEST, Noise
from stellarfit.priors import Prior, Uniform
from stellarfit.problem import Problem
from stellarfit.result import FitResult

NAME = "jitter"
#: of the continuum: the prior is uniform up to here
LARGEST = 0.3


class Jitter:
    """The noise of a star that has been fitted, at other jitters than the fit's.

    Parameters
    ----------
    problem : Problem
        In the noise at the fit.
    best : FitResult
        The star's fit.
    star : int
        Which of the problem's.
    prior : Prior, optional
        Uniform between limits of its own.

    Raises
    ------
    ValueError
        For a prior that is not uniform or allows no jitter, and where the fit has none.
    """

    def __init__(
        self, problem: Problem, best: FitResult, star: int = 0, prior: Prior | None = None
    ) -> None:
        if not problem.weighting.jitter:
            raise ValueError("a free jitter needs jitter=True")
        if problem.weighting.correlation > 0:
            raise ValueError("a free jitter and correlated noise cannot be had together")
        if prior is not None and not isinstance(prior, Uniform):
            raise ValueError(f"the prior of jitter must be uniform, got {prior}")
        self.low, self.high = (0.0, LARGEST) if prior is None else (max(0.0, prior.low), prior.high)
        if not self.low < self.high:
            raise ValueError(f"the prior of jitter allows none: {prior}")
        noise, fitted = problem.data.noise, float(best.provenance["jitter"])
        self.start = float(np.clip(fitted, self.low, self.high))
        self._fitted, self._weight = fitted, noise.weight[star]
        # Zero where nothing counts: what is not finite there would spoil derivatives.
        self._continuum = torch.where(self._weight > 0, torch.as_tensor(
            best.continuum, device=self._weight.device), 0.0)
        self._modes = None
        if noise.modes:
            squares = (1.0 - noise.shrinkage[star]) ** -2.0 - 1.0
            self._modes = noise.modes[star] * torch.sqrt(squares)
        share = ((self._continuum * self._weight) ** 2).cpu().numpy()
        information = 2.0 * (self.start * share) @ (self.start * share)
        flat = float((0.5 * (share**2).sum()) ** -0.25)  # where the likelihood goes as j^4
        #: about how well it is known
        self.sigma = min(flat, information**-0.5 if information > 0 else flat, self.high - self.low)

    def noise(self, jitter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weight (n_pix,), modes, their shrinkage and ln det of the noise at a jitter."""
        used = self._weight > 0
        before = torch.where(used, self._weight, 1.0)
        added = (jitter**2 - self._fitted**2) * self._continuum**2
        weight = torch.where(used, before / torch.sqrt(1.0 + added * before**2), 0.0)
        log_det = -2.0 * torch.log(torch.where(used, weight, 1.0)).sum()
        if self._modes is None:
            return weight, weight[:, None][:, :0], weight[:0], log_det
        white = (weight / before)[:, None] * self._modes
        squares, vectors = torch.linalg.eigh(white.T @ white)
        squares = squares.clamp(min=SMALLEST)
        return (weight, white @ (vectors / torch.sqrt(squares)),
                1.0 - 1.0 / torch.sqrt(1.0 + squares), log_det + torch.log1p(squares).sum())


def noise_of(each: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> tuple[Noise, Tensor]:
    """Return the noise of some spectra as one, and ln det (n_spec,)."""
    weight, modes, shrinkage, log_det = zip(*each, strict=True)
    return Noise(torch.stack(weight), 0.0, modes, shrinkage), torch.stack(log_det)
