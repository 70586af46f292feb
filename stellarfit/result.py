"""What a fit returns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulators.files import atomic_write
from stellarfit.parameters import STAGES
from stellarfit.quality import describe
from stellarfit.spectrum import Spectrum

if TYPE_CHECKING:
    from astropy.table import Table

Array = NDArray[np.float64]
FORMAT = "stellarfit-result"
DESCRIPTIONS = {
    "teff": "effective temperature", "logg": "logarithm of the surface gravity (cgs)",
    "vmic": "microturbulent velocity", "he_frac": "helium fraction N(He)/N(H+He)",
    **{name: text for name, (_, _, text) in STAGES.items()},
}


def describe_parameter(name: str) -> str:
    """Return a parameter in words: ``mg_fe`` becomes ``[Mg/Fe]``."""
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name]
    first, second = name.rsplit("_", 1)
    return f"abundance ratio [{first.capitalize()}/{second.capitalize()}]"


@dataclass(frozen=True, eq=False)
class FitResult:
    """Labels of a star, their errors, and all that is needed to judge them.

    Attributes
    ----------
    names : tuple of str
        Free parameters.
    values : (n_free,) float64
    covariance : (n_free, n_free) float64
        Of the free parameters, the continuum marginalised; from the noise alone.  Infinite
        on the diagonal for a parameter that the spectrum says nothing about.
    units : tuple of str
    label_names : tuple of str
        The emulator's labels.
    label_values, label_errors : (n_label,) float64
        All of them, with their errors from the joint covariance; 0 for fixed ones.
    chi2 : float
    dof : int
    converged : bool
    iterations : int
    flags : int
        Bits of :class:`stellarfit.quality.Flag`.
    spectrum : Spectrum
        The pixels that overlap the emulator, in its medium.
    used : (n_pix,) bool
        Those that entered the fit.
    model, continuum : (n_pix,) float64
        Best model times continuum, in the unit of the flux, and the continuum alone.
    provenance : dict
        Emulator and the hash of its weights, settings, seed, version, seconds, and the
        parameters that ended at a limit.
    """

    names: tuple[str, ...]
    values: Array
    covariance: Array
    units: tuple[str, ...]
    label_names: tuple[str, ...]
    label_values: Array
    label_errors: Array
    chi2: float
    dof: int
    converged: bool
    iterations: int
    flags: int
    spectrum: Spectrum
    used: NDArray[np.bool_]
    model: Array
    continuum: Array
    provenance: dict[str, Any]

    @property
    def labels(self) -> dict[str, float]:
        """Values by name: the free parameters, then all labels of the emulator."""
        return {**dict(zip(self.label_names, self.label_values.tolist(), strict=True)),
                **dict(zip(self.names, self.values.tolist(), strict=True))}

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors by name, as `labels`."""
        free = np.sqrt(np.diag(self.covariance)).tolist()
        return {**dict(zip(self.label_names, self.label_errors.tolist(), strict=True)),
                **dict(zip(self.names, free, strict=True))}

    @property
    def rv(self) -> float:
        """Radial velocity, km/s; the fixed one if it was not free."""
        return float(self.labels.get("rv", self.provenance.get("fixed", {}).get("rv", np.nan)))

    @property
    def reduced_chi2(self) -> float:
        """Chi-square per degree of freedom."""
        return self.chi2 / max(1, self.dof)

    @property
    def residual_rms(self) -> float:
        """Robust scatter of (flux - model) / continuum over the pixels used."""
        return relative_scatter(self.spectrum.flux, self.model, self.continuum, self.used)

    def summary(self, truth: dict[str, float] | None = None) -> str:
        """Return the result as a text to read.

        Parameters
        ----------
        truth : dict, optional
            Known values, shown beside the fitted ones with the difference in sigma.
        """
        name, file = self.spectrum.name or "spectrum", self.spectrum.meta.get("file", "")
        name += f" ({file})" if file else ""
        lines = [
            f"{name}: {'converged' if self.converged else 'NOT converged'} after "
            f"{self.iterations} iterations, {self.provenance.get('seconds', 0.0):.1f} s",
            f"emulator {self.provenance['emulator']}, {self.provenance['instrument']}, "
            f"{int(self.used.sum())} of {len(self.used)} pixels, "
            f"median S/N {self.spectrum.snr:.0f}",
            f"chi2/dof {self.reduced_chi2:.2f} ({self.dof} dof), residual scatter "
            f"{100 * self.residual_rms:.2f} % of the continuum",
            "",
            f"{'parameter':<10s} {'value':>10s} {'error':>9s} {'unit':<5s}"
            + (f" {'truth':>10s} {'off by':>9s} {'sigma':>7s}" if truth else ""),
        ]
        for n, unit in zip(self.names, self.units, strict=True):
            lines.append(self._line(n, unit, truth))
        if at_limit := self.provenance.get("at_limit"):
            lines += ["", "at a limit: " + ", ".join(at_limit)]
        lines += ["", "flags: " + (str(self.flags) if self.flags else "none")]
        lines += [f"  - {text}" for text in describe(self.flags)]
        return "\n".join(lines)

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
        table["name"] = Column([self.spectrum.name], description="name of the spectrum")
        for n, unit in zip(self.names, self.units, strict=True):
            text = describe_parameter(n)
            table[n] = Column([self.labels[n]], unit=unit or None, description=text)
            table[f"e_{n}"] = Column([self.errors[n]], unit=unit or None,
                                     description=f"standard error of the {text}")
        for column, value, text in (
            ("chi2", self.chi2, "chi-square"),
            ("dof", self.dof, "degrees of freedom"),
            ("snr", self.spectrum.snr, "median signal-to-noise per pixel"),
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
        """Write the result to an HDF5 file with checksums, whole or not at all."""
        import h5py

        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            # what a header said may be of any type
            file.attrs["state"] = json.dumps(self._state(), default=str)
            for key, values in self._arrays().items():
                file.create_dataset(key, data=values, fletcher32=True, chunks=values.shape)
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> FitResult:
        """Read what :meth:`save` wrote; as :func:`load_result`."""
        return load_result(path)

    def _state(self) -> dict[str, Any]:
        keys = ("names", "units", "label_names", "chi2", "dof", "converged", "iterations",
                "flags", "provenance")
        return {**{k: getattr(self, k) for k in keys},
                "spectrum": {"name": self.spectrum.name, "medium": self.spectrum.medium,
                             "meta": self.spectrum.meta}}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = ("values", "covariance", "label_values", "label_errors", "used", "model",
               "continuum")
        return {**{k: getattr(self, k) for k in own},
                **{f"spectrum_{k}": getattr(self.spectrum, k)
                   for k in ("wavelength", "flux", "ivar", "mask")}}


def load_result(path: str | Path) -> FitResult:
    """Read what :meth:`FitResult.save` wrote.

    Raises
    ------
    FileNotFoundError
    ValueError
        When the file is damaged or something else.
    """
    import h5py

    if not Path(path).is_file():
        raise FileNotFoundError(f"no result at '{path}'")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"'{path}' is not a {FORMAT}")
            state = json.loads(file.attrs["state"])
            arrays = {k: file[k][()] for k in file}
    except (OSError, KeyError) as error:
        raise ValueError(f"'{path}' is not a readable result: {error}") from error
    described = state.pop("spectrum")
    spectrum = Spectrum(
        *(arrays.pop(f"spectrum_{k}") for k in ("wavelength", "flux")),
        ivar=arrays.pop("spectrum_ivar"), mask=arrays.pop("spectrum_mask"), **described,
    )
    # Masked pixels lost their reasons when they were masked; the first count knew them.
    spectrum.meta.update(described["meta"])
    for key in ("names", "units", "label_names"):
        state[key] = tuple(state[key])
    return FitResult(spectrum=spectrum, **state, **arrays)


def relative_scatter(
    flux: Array, model: Array, continuum: Array, used: NDArray[np.bool_]
) -> float:
    """Return 1.4826 x the median absolute deviation of (flux - model) / continuum."""
    if not used.any():
        return float("nan")
    return float(1.4826 * np.median(np.abs((flux - model) / continuum)[used]))
