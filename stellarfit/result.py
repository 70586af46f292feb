"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulators.notebook import shown
from stellarfit.parameters import STAGES, stage_of
from stellarfit.quality import describe, names_of
from stellarfit.spectrum import Spectrum

if TYPE_CHECKING:
    from astropy.table import Table

Array = NDArray[np.float64]
DESCRIPTIONS = {
    "teff": "effective temperature", "logg": "logarithm of the surface gravity (cgs)",
    "vmic": "microturbulent velocity", "he_frac": "helium fraction N(He)/N(H+He)",
    **{name: text for name, (_, _, text) in STAGES.items()},
    "jitter": "noise in all pixels, a fraction of the continuum",
}


def describe_parameter(name: str) -> str:
    """Return a parameter in words: ``mg_fe`` becomes ``[Mg/Fe]``."""
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name]
    if stage := stage_of(name):
        return f"{DESCRIPTIONS[stage]}, of arm {name.removeprefix(stage + '_')}"
    if not name.endswith(("_h", "_fe", "_m")):
        return name
    first, second = name.rsplit("_", 1)
    return f"abundance ratio [{first.capitalize()}/{second.capitalize()}]"


@dataclass(frozen=True, eq=False)
class ArmFit:
    """One arm of a fit.

    Attributes
    ----------
    spectrum : Spectrum
        Its pixels that overlap the emulator, in its medium.
    name : str
    rv : float
        km/s.
    used : (n_pix,) bool
    model, continuum : (n_pix,) float64
        Best model times continuum, in the unit of the flux, and the continuum alone.
    """

    spectrum: Spectrum
    name: str
    rv: float
    used: NDArray[np.bool_]
    model: Array
    continuum: Array

    @property
    def wavelength(self) -> Array:
        """Angstrom, (n_pix,)."""
        return self.spectrum.wavelength

    @property
    def flux(self) -> Array:
        """Observed, (n_pix,)."""
        return self.spectrum.flux

    @property
    def covered(self) -> slice:
        """From the first pixel used to the last; the emulator may not reach those beyond."""
        places = np.flatnonzero(self.used)
        return slice(places[0], places[-1] + 1) if len(places) else slice(0)


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """Labels of a star, their errors, and all that is needed to judge them.

    Attributes
    ----------
    names : tuple of str
        Free parameters.
    values : (n_free,) float64
    covariance : (n_free, n_free) float64
        Of the free parameters, the continuum marginalised; from the noise as the fit sees it
        (`stellarfit.weighting`) and the priors.  Infinite on the diagonal for a parameter that
        the spectrum says nothing about.
    conditional_errors : (n_free,) float64
        Of each parameter if all the others were known, but for the continuum.
    units : tuple of str
    label_names : tuple of str
        The emulator's labels.
    label_values, label_errors : (n_label,) float64
        All of them, with their errors from the joint covariance; 0 for fixed ones.
    coefficients : (n_term,) float64
        Of the continuum, arm after arm.
    full_covariance : (n_free + n_term, n_free + n_term) float64
        Of the free parameters and the coefficients together.
    verdicts : dict of str to str
        For each free abundance: ``measured``, ``upper limit`` or ``no information``.
    chi2 : float
        Of the pixels, emulator errors and jitter being part of the noise; priors have no part.
    dof : int
    converged : bool
    iterations : int
    flags : int
        Bits of :class:`stellarfit.quality.Flag`.
    spectra : tuple of Spectrum
        Of each arm: the pixels that overlap the emulator, in its medium.
    arms : tuple of str
        Their names.
    rvs : (n_arm,) float64
        Their velocities, km/s.
    used : (n_pix,) bool
        Those of all arms, one after the other, that entered the fit.
    model, continuum : (n_pix,) float64
        Best model times continuum, in the unit of the flux, and the continuum alone.
    provenance : dict
        Emulator and the hash of its weights, settings, seed, version, seconds, and the
        parameters that ended at a limit.
    """

    names: tuple[str, ...]
    values: Array
    covariance: Array
    conditional_errors: Array
    units: tuple[str, ...]
    label_names: tuple[str, ...]
    label_values: Array
    label_errors: Array
    coefficients: Array
    full_covariance: Array
    verdicts: dict[str, str]
    chi2: float
    dof: int
    converged: bool
    iterations: int
    flags: int
    spectra: tuple[Spectrum, ...]
    arms: tuple[str, ...]
    rvs: Array
    used: NDArray[np.bool_]
    model: Array
    continuum: Array
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the star."""
        return next((s.name for s in self.spectra if s.name), "")

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum of the first arm, of the only one mostly."""
        return self.spectra[0]

    @property
    def covered(self) -> int:
        """Number of pixels that the fit reaches, whether they were used or not."""
        return sum(len(arm.wavelength[arm.covered]) for arm in self.by_arm())

    @property
    def snr(self) -> float:
        """Median signal-to-noise ratio per pixel that was used."""
        ratio = np.concatenate([s.flux * np.sqrt(s.ivar) for s in self.spectra])
        return float(np.median(ratio[self.used])) if self.used.any() else 0.0

    def by_arm(self) -> list[ArmFit]:
        """Return the fit of each arm."""
        ends = np.cumsum([len(s) for s in self.spectra])[:-1]
        parts = (np.split(x, ends) for x in (self.used, self.model, self.continuum))
        return [ArmFit(*fields) for fields in
                zip(self.spectra, self.arms, self.rvs.tolist(), *parts, strict=True)]

    def scaled_to_chi2(self) -> FitResult:
        """Return the result with errors enlarged by sqrt(chi2 / dof), where that exceeds 1.

        As if all noise had been given too small by one factor; where it is the model that
        fails, no factor makes errors right.  A result that has been scaled stays as it is.
        """
        if "errors_scaled_by" in self.provenance:
            return self
        factor = max(1.0, self.reduced_chi2)
        return replace(
            self, covariance=self.covariance * factor,
            full_covariance=self.full_covariance * factor,
            conditional_errors=self.conditional_errors * np.sqrt(factor),
            label_errors=self.label_errors * np.sqrt(factor),
            provenance={**self.provenance, "errors_scaled_by": float(np.sqrt(factor))},
        )

    @property
    def labels(self) -> dict[str, float]:
        """Values by name: all labels of the emulator and the free parameters."""
        return {**dict(zip(self.label_names, self.label_values.tolist(), strict=True)),
                **dict(zip(self.names, self.values.tolist(), strict=True))}

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors by name, as `labels`."""
        free = np.sqrt(np.diag(self.covariance)).tolist()
        return {**dict(zip(self.label_names, self.label_errors.tolist(), strict=True)),
                **dict(zip(self.names, free, strict=True))}

    @property
    def correlation(self) -> Array:
        """Correlation matrix of the free parameters; NaN where an error is infinite or zero."""
        sigma = np.sqrt(np.diag(self.covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.covariance / np.outer(sigma, sigma))

    @property
    def rv(self) -> float:
        """Radial velocity, km/s: fitted, fixed, or the mean of the arms' own."""
        return float(self.labels.get("rv", np.mean(self.rvs)))

    @property
    def reduced_chi2(self) -> float:
        """Chi-square per degree of freedom."""
        return self.chi2 / max(1, self.dof)

    @property
    def residual_rms(self) -> float:
        """Robust scatter of (flux - model) / continuum over the pixels used."""
        flux = np.concatenate([s.flux for s in self.spectra])
        return relative_scatter(flux, self.model, self.continuum, self.used)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = [self._line(n, unit, None).split()
                for n, unit in zip(self.names, self.units, strict=True)]
        title, *facts = self._facts
        return shown(title, rows, head=("parameter", "value", "error", "unit"),
                     notes=[*facts, *self.held, *self.limits, *self.flags_in_words])

    def summary(self, truth: dict[str, float] | None = None) -> str:
        """Return the result as a text to read.

        Parameters
        ----------
        truth : dict, optional
            Known values, shown beside the fitted ones with the difference in sigma.
        """
        lines = [
            *self._facts,
            "",
            f"{'parameter':<10s} {'value':>10s} {'error':>9s} {'unit':<5s}"
            + (f" {'truth':>10s} {'off by':>9s} {'sigma':>7s}" if truth else ""),
        ]
        for n, unit in zip(self.names, self.units, strict=True):
            lines.append(self._line(n, unit, truth))
        notes = self.held + self.limits + _left_out(self.provenance.get("left_out", {}))
        if "rv" in self.names:
            frame = self.provenance.get("frame", "unknown")
            notes.append(f"rv is {frame}" if frame != "unknown"
                         else "the file does not say which frame rv is in")
        if jitter := self.provenance.get("jitter"):
            notes.append(f"added to the noise: {100 * jitter:.2f} % of the continuum (without it "
                         f"chi2/dof would be {self.provenance['excess']:.2f})")
        if any(s.noise_estimated for s in self.spectra) and 0 < self.reduced_chi2 < 0.5:
            notes.append("the noise was estimated from the flux, whose lines count as noise where "
                         f"they are narrow: errors are some {self.reduced_chi2 ** -0.5:.1f} times "
                         "too large; give the spectrum's own")
        if factor := self.provenance.get("errors_scaled_by"):
            notes.append(f"errors are scaled to chi2/dof = 1, by {factor:.2f}")
        if notes:
            lines += ["", *notes]
        return "\n".join([*lines, "", *self.flags_in_words])

    @property
    def _facts(self) -> list[str]:
        """Lines on which spectrum was fitted with what, and how well."""
        name = self.name or "spectrum"
        files = [str(s.meta["file"]) for s in self.spectra if s.meta.get("file")]
        name += f" ({', '.join(files)})" if files else ""
        return [
            f"{name}: {'converged' if self.converged else 'NOT converged'} after "
            f"{self.iterations} iterations, {self.provenance.get('seconds', 0.0):.1f} s",
            f"emulator {self.provenance['emulator']}, {self.provenance['instrument']}, "
            f"{int(self.used.sum())} of {self.covered} pixels, "
            f"median S/N {self.snr:.0f}",
            f"chi2/dof {self.reduced_chi2:.2f} ({self.dof} dof), residual scatter "
            f"{100 * self.residual_rms:.2f} % of the continuum",
        ]

    @property
    def held(self) -> list[str]:
        """A sentence on what was fixed, or held at 0 since nobody mentioned it; none if nothing."""
        known = {**self.provenance.get("fixed", {}), **self.provenance.get("held", {})}
        return ["held: " + ", ".join(f"{n} = {v:g}" for n, v in known.items())] if known else []

    @property
    def limits(self) -> list[str]:
        """Sentences on what the errors leave out, and on parameters that are at, or are, limits."""
        found = []
        if at_limit := self.provenance.get("at_limit"):
            found.append(f"at a limit: {', '.join(at_limit)}")
        if self.provenance.get("emulator_errors") == "not known":
            found.append("the emulator's own error is not known, and not in these errors "
                         "(emulators.measure_errors)")
        for verdict in ("upper limit", "no information"):
            if names := [n for n, v in self.verdicts.items() if v == verdict]:
                found.append(f"{verdict}: {', '.join(names)}")
        return found

    @property
    def flags_in_words(self) -> list[str]:
        """The flags as a number, then each in a line."""
        return ["flags: " + (str(self.flags) if self.flags else "none"),
                *(f"  - {text} ({name})" for text, name in
                  zip(describe(self.flags), names_of(self.flags), strict=True))]

    def _line(self, name: str, unit: str, truth: dict[str, float] | None) -> str:
        value, error = self.labels[name], self.errors[name]
        digits = 0 if unit == "K" else 3
        value = round(value, digits) + 0.0  # no -0.000
        line = f"{name:<10s} {value:10.{digits}f} {error:9.{digits + 1}f} {unit:<5s}"
        if truth and name in truth:
            off = self.labels[name] - truth[name]
            line += f" {truth[name]:10.{digits}f} {off:+9.{digits}f} {off / error:+7.1f}"
        return line

    def to_table(self) -> Table:
        """Return one row: each parameter and its error with unit and description."""
        from astropy.table import Column, Table

        table = Table(meta={k: v for k, v in self.provenance.items() if v is not None})
        table["name"] = Column([self.name], description="name of the spectrum")
        for n, unit in zip(self.names, self.units, strict=True):
            text = describe_parameter(n)
            table[n] = Column([self.labels[n]], unit=unit or None, description=text)
            table[f"e_{n}"] = Column([self.errors[n]], unit=unit or None,
                                     description=f"standard error of the {text}")
            if n in self.verdicts:
                table[f"{n}_verdict"] = Column([self.verdicts[n]],
                                               description=f"what the {text} is worth")
        for column, value, text in (
            ("chi2", self.chi2, "chi-square"),
            ("dof", self.dof, "degrees of freedom"),
            ("snr", self.snr, "median signal-to-noise per pixel"),
            ("residual_rms", self.residual_rms, "robust residual scatter / continuum"),
            ("converged", self.converged, "whether the optimiser converged"),
            ("flags", np.int64(self.flags), "bits of stellarfit.quality.Flag"),
        ):
            table[column] = Column([value], description=text)
        return table

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw spectrum, model and residuals; return the figure, or write it to `path`."""
        from stellarfit.plot import plot_fit

        return plot_fit(self, path)

    def save(self, path: str | Path) -> Path:
        """Write the result to an HDF5 file with checksums, whole or not at all.

        Raises
        ------
        OSError
            When it cannot be written; what was there stays.
        """
        from stellarfit.result_file import save_result

        return save_result(self, path)

    @staticmethod
    def load(path: str | Path) -> FitResult:
        """Read what :meth:`save` wrote; as :func:`stellarfit.load_result`."""
        from stellarfit.result_file import load_result

        return load_result(path)


def _left_out(reasons: dict[str, str]) -> list[str]:
    """Say which arms were left out; of an echelle's many orders only which."""
    if len(reasons) > 3:
        return [f"{len(reasons)} arms left out: {', '.join(reasons)}"]
    return [f"arm {name} left out: {why}" for name, why in reasons.items()]


def relative_scatter(
    flux: Array, model: Array, continuum: Array, used: NDArray[np.bool_]
) -> float:
    """Return 1.4826 x the median absolute deviation of (flux - model) / continuum."""
    if not used.any():
        return float("nan")
    return float(1.4826 * np.median(np.abs((flux - model) / continuum)[used]))
