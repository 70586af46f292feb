"""How far an emulator is from the synthesis: a sample of its errors.

The sample is the emulator's error, emulated minus true flux, on spectra it was not trained
on.  Errors pass through rotation, line-spread function and pixels exactly as fluxes do
(those stages are linear), so whoever observes with an instrument sends the sample through
the same stages and takes the root mean square there; no assumption about how errors of
neighbouring pixels hang together is needed.

The error depends on the star.  Near labels x the mean runs over the sample with weights

    w_i = exp(-1/2 sum_k ((x_k - x_ik) / h_k)^2),   k over teff, logg, fe_h,

the widths h as wide as needed for `LEAST` spectra to have a say.  Within such a neighbourhood
the size of the errors may still vary a lot, and the worst stars would set it for all: so every
spectrum's errors count at the size that is expected at x.  That size, the rms over pixels, is
the exponential of a polynomial in the same labels, fitted to the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emulators.labels import LabelSet

#: labels that the error is a function of
REGION = ("teff", "logg", "fe_h")
#: effective number of spectra, (sum w)^2 / sum w^2, in a mean
LEAST = 40.0
#: step of stored errors, whose 16 bits reach +-0.5; larger ones are cut there
_UNIT = 0.5 / 32767
#: side of a cell of labels, in standard deviations of the sample: no wider than the narrowest
#: neighbourhood, so that one answer serves a cell
CELL = 0.2
#: share of the mean square error that the principal components left out hold together, at most
NEGLIGIBLE = 0.05
#: the same of the spectra that weigh least: left out before components are sought
UNHEARD = 0.01
#: cells whose components are remembered
KEPT = 128
#: spectra per coefficient that the polynomial needs
PER_TERM = 10


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """A sample of an emulator's errors at its training pixels.

    Parameters
    ----------
    errors : (n_sample, n_pix) float32
        Emulated minus true normalised flux.
    labels : (n_sample, n_label) float64
        Of the stars of the sample, in the order of the emulator's labels.
    """

    errors: Tensor
    labels: Tensor
    #: by cell of the labels, with the size of errors in its middle
    _modes: dict[bytes, tuple[Tensor, float]] = field(default_factory=dict, repr=False)
    #: of the size, by the labels it is a function of
    _polynomials: dict[tuple[int, ...], NDArray[np.float64]] = field(
        default_factory=dict, repr=False)

    def weights(self, labels: NDArray[np.float64], label_set: LabelSet) -> Tensor:
        """Return the weights (n_sample,) of the sample for a star with labels (n_label,).

        Raises
        ------
        ValueError
            For labels that are not finite.
        """
        columns = [label_set.index(n) for n in REGION if n in label_set.names]
        if not np.isfinite(np.asarray(labels)[columns]).all():
            raise ValueError("labels must be finite numbers")
        sample = self.labels[:, columns].numpy()
        spread = np.maximum(sample.std(axis=0), 1e-12)
        distance = np.sum(((sample - np.asarray(labels)[columns]) / spread) ** 2, axis=1)
        least = min(LEAST, 0.5 * len(sample))
        distance -= distance.min()  # a star far from all of them has its nearest
        width = 0.2
        while True:
            w = np.exp(-0.5 * distance / width**2)
            if w.sum() ** 2 / (w**2).sum() >= least:
                return torch.as_tensor(w / w.sum())
            width *= 1.1

    def size(self, labels: NDArray[np.float64], label_set: LabelSet) -> NDArray[np.float64]:
        """Return the expected rms error (n,) over pixels at labels (n, n_label), unnormalised.

        Labels beyond the sample's count as those at its edge.
        """
        columns = [label_set.index(n) for n in REGION if n in label_set.names]
        sample = self.labels[:, columns].numpy()
        low, high = sample.min(axis=0), sample.max(axis=0)
        width = np.where(high > low, 0.5 * (high - low), np.inf)
        degree = next((d for d in (2, 1) if len(sample) >= PER_TERM * math.comb(
            len(columns) + d, d)), 0)

        def terms(x: NDArray[np.float64]) -> NDArray[np.float64]:
            z = (x.clip(low, high) - 0.5 * (low + high)) / width
            each = [np.ones(len(z)), *z.T] if degree else [np.ones(len(z))]
            if degree == 2:
                each += [z[:, i] * z[:, j] for i in range(len(columns)) for j in range(i + 1)]
            return np.column_stack(each)

        key = tuple(columns)
        if key not in self._polynomials:
            self._polynomials[key] = np.asarray(np.linalg.lstsq(
                terms(sample), np.log(self._rms), rcond=None)[0], dtype=np.float64)
        return np.asarray(np.exp(terms(np.atleast_2d(labels)[:, columns])
                                 @ self._polynomials[key]))

    @cached_property
    def _rms(self) -> NDArray[np.float64]:
        """Of each spectrum's errors."""
        rms = np.sqrt(np.mean(self.errors.double().numpy() ** 2, axis=1))
        return np.asarray(rms.clip(min=_UNIT))

    def without(self, star: int) -> ErrorModel:
        """Return the sample without one of its spectra: to judge a fit of that very star."""
        keep = torch.arange(len(self.errors)) != star
        return ErrorModel(self.errors[keep], self.labels[keep])

    def near(self, labels: NDArray[np.float64], label_set: LabelSet) -> Tensor:
        """Return errors (n_sample, n_pix) whose sum of squares is the mean square near a star."""
        return self._share(labels, label_set)[:, None] * self.errors.double()

    def _share(self, labels: NDArray[np.float64], label_set: LabelSet) -> Tensor:
        """Return by what :meth:`near` multiplies the errors of each spectrum (n_sample,)."""
        weights = self.weights(labels, label_set).numpy()
        size = self.size(labels, label_set) / self.size(self.labels.numpy(), label_set)
        return torch.as_tensor(np.sqrt(weights) * size)

    @cached_property
    def _products(self) -> Tensor:
        """Of each spectrum's errors with each other's, summed over pixels."""
        errors = self.errors.double()
        return errors @ errors.T

    def modes(self, labels: NDArray[np.float64], label_set: LabelSet) -> Tensor:
        """Return errors (n_mode, n_pix) float32 whose sum of squares is that of :meth:`near`.

        They are principal components of the sample, those that together hold less than
        `NEGLIGIBLE` of the square left out, and the others made to hold it.  Who has a say in them
        is decided by cells of the labels, so that a survey computes them a few hundred times.
        """
        columns = [label_set.index(n) for n in REGION if n in label_set.names]
        at = np.array(labels, dtype=float)
        if not np.isfinite(at[columns]).all():
            raise ValueError("labels must be finite numbers")
        sample = self.labels[:, columns].numpy()
        cell = CELL * np.maximum(sample.std(axis=0), 1e-12)
        place = np.round((at[columns].clip(sample.min(0), sample.max(0)) - sample[0]) / cell)
        key = place.tobytes()
        if key not in self._modes:
            middle = at.copy()
            middle[columns] = sample[0] + place * cell
            share = self._share(middle, label_set)
            own, order = torch.sort(share**2 * self._products.diagonal())
            some = order[own.cumsum(0) > UNHEARD * own.sum()]
            products = share[some] * self._products[some][:, some] * share[some, None]
            squares, vectors = torch.linalg.eigh(products)           # in rising order
            left_out = own.sum() - squares.sum() + squares.cumsum(0)
            counts = left_out > NEGLIGIBLE * own.sum()
            mixed = vectors[:, counts].T * share[some] * torch.sqrt(
                own.sum() / squares[counts].sum())
            for old in list(self._modes)[:max(0, len(self._modes) - KEPT + 1)]:
                del self._modes[old]
            self._modes[key] = (mixed.float() @ self.errors[some],
                                float(self.size(middle, label_set)[0]))
        modes, size = self._modes[key]
        return modes * (float(self.size(at, label_set)[0]) / size)

    def tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`from_tensors` takes; errors in steps of 1.5e-5."""
        steps = torch.round(self.errors / _UNIT).clamp(-32767, 32767)
        return {"flux": steps.to(torch.int16), "labels": self.labels.float()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ErrorModel:
        """Return the sample that tensors hold."""
        return cls(tensors["flux"].float() * _UNIT, tensors["labels"].double())
