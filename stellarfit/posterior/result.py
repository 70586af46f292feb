"""Samples of a star's parameters, what follows from them, and whether to believe them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.files import atomic_write
from emulators.labels import is_abundance
from emulators.notebook import shown
from stellarfit.hdf5 import in_memory, opened, write_arrays
from stellarfit.posterior.diagnostics import Diagnosis, inside
from stellarfit.posterior.jitter import NAME
from stellarfit.result import FitResult, describe_parameter
from stellarfit.result_file import read_result, write_result

Array = NDArray[np.float64]
FORMAT = "stellarfit posterior 1"
#: of a Gaussian within one sigma
ONE_SIGMA = 0.6827


@dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Samples of a star's parameters, and whether to believe them.

    Attributes
    ----------
    fit : FitResult
        Where sampling began; ``fit.provenance`` says with which sampler and seed it went on.
    chain : (n_chain, n_step, n_walker, n_free) float64
        Of independent chains or ensembles, from the first step on; a jitter, where it was free,
        comes after the parameters of the fit.
    log_probability : (n_chain, n_step, n_walker) float64
        -inf at points that a gradient sampler passed beyond the edge of the prior, which are no
        samples.
    diagnosis : Diagnosis
    predicted : (3, n_pix) float64
        Spectra of some samples, each with its continuum: lower end, median and upper end of the
        68 % interval at every pixel.
    """

    fit: FitResult
    chain: Array
    log_probability: Array
    diagnosis: Diagnosis
    predicted: Array

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        table = self.to_summary_table()
        rows = []
        for name, low, median, high, unit, *quality in table.as_array().tolist():
            digits = digits_of(low, high)
            rows.append([name, *(f"{x:.{digits}f}" for x in (low, median, high)), unit,
                         *(f"{x:.4g}" if np.isfinite(x) else "" for x in quality)])
        word = "converged" if self.converged else "NOT converged"
        return shown(f"Posterior of {self.fit.name or 'spectrum'}: {word}", rows,
                     head=table.colnames, notes=[self.verdict, *self.notes])

    @property
    def names(self) -> tuple[str, ...]:
        """Free parameters."""
        return (*self.fit.names, *(NAME,) * (self.chain.shape[-1] - len(self.fit.names)))

    @property
    def units(self) -> tuple[str, ...]:
        """Of the free parameters, empty for a pure number."""
        return (*self.fit.units, *("",) * (len(self.names) - len(self.fit.units)))

    @property
    def fitted(self) -> Array:
        """The free parameters as fitted, (n_free,)."""
        if self.names == self.fit.names:
            return self.fit.values
        return np.append(self.fit.values, self.fit.provenance["jitter"])

    @property
    def converged(self) -> bool:
        """Whether the samples may be believed."""
        return self.diagnosis.converged

    @property
    def verdict(self) -> str:
        """Why, or why not, in words."""
        return self.diagnosis.verdict

    @cached_property
    def samples(self) -> Array:
        """Samples of the free parameters without the burn-in, (n_sample, n_free)."""
        kept = self.chain[:, self.diagnosis.burn_in:].reshape(-1, self.chain.shape[-1])
        logs = self.log_probability[:, self.diagnosis.burn_in:].reshape(-1)
        return np.asarray(kept[np.isfinite(logs)])

    @cached_property
    def derived(self) -> dict[str, Array]:
        """What follows from the free parameters, sample by sample, (n_sample,) each.

        [X/H] where [X/Fe] was free, and the other way round.
        """
        free = dict(zip(self.names, self.samples.T, strict=True))
        iron = free.get("fe_h", np.full(len(self.samples), self.fit.labels.get("fe_h", np.nan)))
        found = {}
        for name, values in free.items():
            if name == "fe_h" or not np.isfinite(iron).all():
                continue
            if name.endswith("_fe"):
                found[f"{name[:-3]}_h"] = values + iron
            elif is_abundance(name):
                found[f"{name[:-2]}_fe"] = values - iron
        return found

    def of(self, name: str) -> Array:
        """Return the samples (n_sample,) of a free parameter or of what is derived.

        Raises
        ------
        KeyError
            For a name that is neither.
        """
        if name in self.names:
            return np.asarray(self.samples[:, self.names.index(name)])
        if name in self.derived:
            return self.derived[name]
        raise KeyError(f"'{name}' was not sampled; there are {', '.join(self.names)} and, from "
                       f"them, {', '.join(self.derived) or 'nothing'}")

    def interval(self, name: str, level: float = ONE_SIGMA) -> tuple[float, float, float]:
        """Return lower end, median and upper end of a parameter's central interval.

        NaN where there is no sample.

        Raises
        ------
        KeyError
            As :meth:`of`.
        ValueError
            For a level that is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"the level of an interval is between 0 and 1, got {level!r}")
        tails = 50.0 * (1.0 - level)
        if not len(self.samples):
            return np.nan, np.nan, np.nan
        low, median, high = np.percentile(self.of(name), [tails, 50.0, 100.0 - tails])
        return float(low), float(median), float(high)

    def summary(self) -> str:
        """Return medians, 68 % intervals and the verdict as a text to read."""
        d = self.diagnosis
        lines = [
            f"{self.fit.name or 'spectrum'}: "
            f"{'converged' if self.converged else 'NOT converged'}: {self.verdict}",
            f"{self.fit.provenance.get('sampler', 'sampler')}: {len(self.samples)} samples, "
            f"acceptance {d.acceptance:.2f}, emulator {self.fit.provenance['emulator']}", "",
            f"{'parameter':<10s} {'median':>10s} {'-':>9s} {'+':>9s} {'unit':<5s} {'fit':>10s} "
            f"{'tau':>6s} {'ess':>7s}",
        ]
        for i, name in enumerate(self.names):
            digits = digits_of(*self.interval(name)[::2])
            lines.append(f"{self._line(name, self.units[i])} {self.fitted[i]:10.{digits}f} "
                         f"{d.tau[i]:6.1f} {d.ess[i]:7.0f}")
        if self.derived:
            lines += ["", "derived"]
        lines += [self._line(name, "dex").rstrip() for name in self.derived]
        return "\n".join([*lines, "", *self.notes])

    def _line(self, name: str, unit: str) -> str:
        low, median, high = self.interval(name)
        digits = digits_of(low, high)
        return (f"{name:<10s} {median:10.{digits}f} {median - low:9.{digits}f} "
                f"{high - median:9.{digits}f} {unit:<5s}")

    @property
    def flags(self) -> int:
        """The flags of the fit, as in :class:`stellarfit.Flag`."""
        return self.fit.flags

    @property
    def notes(self) -> list[str]:
        """What to know of the parameters before believing their intervals, and the flags."""
        return ["of the fit:", *self.fit.held, *self.fit.limits, *self.fit.flags_in_words]

    def corner(self, path: str | Path | None = None, names: Sequence[str] | None = None) -> Any:
        """Draw all pairs of parameters; return the figure, or write it to `path`."""
        from stellarfit.posterior.plot import plot_corner

        return plot_corner(self, path, names)

    def trace(self, path: str | Path | None = None) -> Any:
        """Draw the chains step by step; return the figure, or write it to `path`."""
        from stellarfit.posterior.plot import plot_trace

        return plot_trace(self, path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the spectrum with what the samples predict; return the figure, or write it."""
        from stellarfit.posterior.plot import plot_predictive

        return plot_predictive(self, path)

    def to_table(self) -> Any:
        """Return an astropy Table of the samples, a column per parameter, derived ones too."""
        from astropy.table import Column, Table

        units = dict(zip(self.names, self.units, strict=True))
        table = Table(meta={**self.fit.provenance, "converged": self.converged,
                            "verdict": self.verdict})
        for name in (*self.names, *self.derived):
            table[name] = Column(self.of(name), unit=units.get(name, "dex") or None,
                                 description=describe_parameter(name))
        return table

    def to_summary_table(self) -> Any:
        """Return an astropy Table with a row per parameter: median, interval, quality."""
        from astropy.table import Table

        d = self.diagnosis
        rows = [(n, *self.interval(n), d.tau[i], d.ess[i], d.rhat[i])
                for i, n in enumerate(self.names)]
        rows += [(n, *self.interval(n), np.nan, np.nan, np.nan) for n in self.derived]
        names = ("parameter", "low", "median", "high", "tau", "ess", "rhat")
        table = Table(rows=rows, names=names)
        units = [*self.units, *("dex",) * len(self.derived)]
        table.add_column(units, name="unit", index=4)
        table.meta.update(self.fit.provenance, converged=self.converged, verdict=self.verdict,
                          notes=self.notes)
        return table

    def to_arviz(self) -> Any:
        """Return the samples as ArviZ takes them: chains are walkers, draws are steps.

        Returns
        -------
        xarray.DataTree or arviz.InferenceData
            Whichever the installed ArviZ has.

        Raises
        ------
        ModuleNotFoundError
            Without ArviZ.
        """
        burn_in = self.diagnosis.burn_in
        logs = self.log_probability[:, burn_in:, :, None]
        both = inside(np.concatenate([self.chain[:, burn_in:], logs], axis=-1), logs[..., 0])
        by_walker = np.moveaxis(both, 2, 1).reshape(-1, both.shape[1], both.shape[3])
        logs = by_walker[..., -1]
        samples = {n: by_walker[..., i] for i, n in enumerate(self.names)}
        attrs = {"provenance": json.dumps(self.fit.provenance, default=str),
                 "converged": int(self.converged), "verdict": self.verdict}
        try:
            from arviz_base import from_dict
        except ModuleNotFoundError:
            try:
                from arviz import from_dict as make
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "to_arviz needs ArviZ: pip install 'stellarfit[bayes]'") from error
            return make(posterior=samples, sample_stats={"lp": logs},
                        attrs=attrs)
        return from_dict({"posterior": samples, "sample_stats": {"lp": logs}},
                         attrs={"/": attrs})

    def save(self, path: str | Path) -> Path:
        """Write by the suffix, whole or not at all.

        ``.h5``: everything, for :func:`load_posterior`; ``.nc``: for ArviZ; others (ECSV, FITS,
        ...): the table of samples, by astropy.

        Raises
        ------
        ValueError
            For a path without a suffix.
        """
        if not Path(path).suffix:
            raise ValueError(f"the suffix of '{path}' should say the format: .h5, .nc, .ecsv, ...")
        if Path(path).suffix in (".h5", ".hdf5"):
            with in_memory(path) as file:
                self._write_into(file)
            return Path(path)
        with atomic_write(path) as temporary:
            if Path(path).suffix == ".nc":
                self.to_arviz().to_netcdf(temporary)
            else:
                self.to_table().write(temporary)
        return Path(path)

    def _write_into(self, file: Any) -> None:
        d = self.diagnosis
        file.attrs["format"] = FORMAT
        told = ("acceptance", "divergences", "stuck", "burn_in", "reasons")
        file.attrs["diagnosis"] = json.dumps({k: getattr(d, k) for k in told})
        write_arrays(file, {
            "chain": self.chain, "log_probability": self.log_probability, "tau": d.tau,
            "ess": d.ess, "rhat": d.rhat, "predicted": self.predicted})
        write_result(self.fit, file.create_group("fit"))


def digits_of(low: float, high: float, figures: int = 2) -> int:
    """Return the decimals that show so many figures of half an interval's width."""
    width = 0.5 * (high - low)
    return int(np.clip(figures - 1 - math.floor(math.log10(width)), 0, 6)) if width > 0 else 3


def load_posterior(path: str | Path) -> Posterior:
    """Read what :meth:`Posterior.save` wrote to an HDF5 file.

    Raises
    ------
    FileNotFoundError
    ValueError
        When the file is damaged or something else.
    """
    with opened(path, "posterior", FORMAT) as file:
        known = json.loads(file.attrs["diagnosis"])
        diagnosis = Diagnosis(**{k: file[k][()] for k in ("tau", "ess", "rhat")},
                              **{**known, "reasons": tuple(known["reasons"])})
        return Posterior(read_result(file["fit"]), file["chain"][()],
                         file["log_probability"][()], diagnosis, file["predicted"][()])
