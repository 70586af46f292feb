"""The Gaussian of a fit against samples of the posterior, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import skew

from stellarfit.posterior.result import Posterior
from stellarfit.result import FitResult

#: differences that samples of this effective size could not tell from none, in their own error
NOTICED = 3.0
#: beyond it, whoever uses the fit should know: of the centre in sigma, of the width as a ratio
CENTRE, WIDTH, SKEWNESS = 0.2, 0.1, 0.3


@dataclass(frozen=True)
class Difference:
    """How a parameter's samples differ from the fit's Gaussian.

    Attributes
    ----------
    name : str
    shift : float
        Mean of the samples minus the fit, in the fit's sigma; NaN, as the width, without one.
    width : float
        Standard deviation of the samples over the fit's sigma.
    skewness : float
    words : str
    """

    name: str
    shift: float
    width: float
    skewness: float
    words: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    differences : tuple of Difference
        Of each parameter that is free in both.
    converged : bool
        Whether the samples are to be believed at all.
    left_out : tuple of str
        Parameters that were sampled and not free in the fit.
    """

    differences: tuple[Difference, ...]
    converged: bool
    left_out: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether the fit's Gaussian will do for every parameter."""
        return self.converged and all(d.words == "agree" for d in self.differences)

    def __repr__(self) -> str:
        lines = [] if self.converged else ["the samples have not converged: no judgement"]
        lines.append(f"{'parameter':<10s} {'shift':>8s} {'width':>7s} {'skew':>7s}")
        lines += [self._line(d) for d in self.differences]
        if self.left_out:
            lines.append(f"not free in the fit: {', '.join(self.left_out)}")
        return "\n".join(lines)

    def _line(self, d: Difference) -> str:
        gaussian = (f"{d.shift:+7.2f}σ {d.width:7.2f}" if np.isfinite(d.width) else " " * 16)
        words = d.words if self.converged else ""
        return f"{d.name:<10s} {gaussian} {d.skewness:+7.2f}  {words}".rstrip()


def compare(posterior: Posterior, fit: FitResult | None = None) -> Comparison:
    """Compare samples with the Gaussian that a fit gives (Laplace's approximation).

    Parameters
    ----------
    posterior : Posterior
    fit : FitResult, optional
        Of the same star; the one that sampling began at by default.

    Returns
    -------
    Comparison
        Per parameter the shift, the ratio of widths, the skewness, and a sentence.

    Raises
    ------
    ValueError
        When the two are something else, of other stars, have no parameter in common, or there
        are no samples.
    """
    if fit is None and isinstance(posterior, Posterior):
        fit = posterior.fit
    if not (isinstance(posterior, Posterior) and isinstance(fit, FitResult)):
        raise ValueError(f"got a {type(posterior).__name__} and a {type(fit).__name__}; expected "
                         "a Posterior and a FitResult")
    if _of_another_star(posterior.fit, fit):
        raise ValueError(f"nothing to compare: the fit of '{fit.name}' is to other fluxes than "
                         f"the samples of '{posterior.fit.name}'")
    common = [n for n in posterior.names if n in fit.names]
    if not common:
        raise ValueError(f"nothing to compare: the samples are of {', '.join(posterior.names)}, "
                         f"the fit is of {', '.join(fit.names)}")
    if not len(posterior.samples):
        raise ValueError(f"nothing to compare: there are no samples ({posterior.verdict})")
    ess = dict(zip(posterior.names, posterior.diagnosis.ess, strict=True))
    found = []
    for name in common:
        values, sigma = posterior.of(name), fit.errors[name]
        if not np.isfinite(sigma):
            found.append(Difference(name, np.nan, np.nan, float(skew(values)),
                                    "the fit gives no error; the samples do"))
            continue
        shift = float((values.mean() - fit.labels[name]) / sigma)
        width, skewness = float(values.std() / sigma), float(skew(values))
        found.append(Difference(name, shift, width, skewness,
                                _words(shift, width, skewness, float(ess[name]))))
    return Comparison(tuple(found), posterior.converged,
                      tuple(n for n in posterior.names if n not in common))


def _of_another_star(one: FitResult, other: FitResult) -> bool:
    """Return whether two fits are to other fluxes at the same wavelengths."""
    return any(np.array_equal(a.wavelength, b.wavelength) and not np.array_equal(a.flux, b.flux)
               for a, b in zip(one.spectra, other.spectra, strict=False))


def _words(shift: float, width: float, skewness: float, ess: float) -> str:
    """Say what differs by more than matters and than the number of samples leaves open."""
    own = NOTICED / np.sqrt(max(ess, 1.0))
    parts = []
    if abs(shift) > max(CENTRE, own):
        parts.append(f"the fit is {abs(shift):.1f}σ too {'low' if shift > 0 else 'high'}")
    if abs(width - 1.0) > max(WIDTH, own):
        parts.append(f"its error is {100 * abs(1 - 1 / width):.0f} % too "
                     f"{'small' if width > 1 else 'large'}")
    if abs(skewness) > max(SKEWNESS, own * np.sqrt(6.0)):
        parts.append(f"the posterior leans to {'high' if skewness > 0 else 'low'} values")
    return "; ".join(parts) or "agree"
