"""The page of one star: spectrum, labels and their errors, flags in words, correlations."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from stellarfit.posterior.result import Posterior, digits_of
from stellarfit.quality import describe, names_of
from stellarfit.report.correlation import correlation_map
from stellarfit.report.page import page_of
from stellarfit.report.spectrum import spectrum_figures
from stellarfit.result import FitResult, describe_parameter

Rows = list[tuple[str, ...]]


def star_page(star: FitResult | Posterior) -> str:
    """Return the HTML of a star's page.

    Parameters
    ----------
    star : FitResult or Posterior
        Of a posterior the page has medians, intervals and diagnostics too, and the pairs of
        parameters, if matplotlib and corner are there to draw them.
    """
    posterior = star if isinstance(star, Posterior) else None
    fit = star.fit if isinstance(star, Posterior) else star
    rows = _fitted(fit) if posterior is None else _sampled(posterior)
    head = (("", "value", "error", "unit", "", "") if posterior is None else
            ("", "median", "−", "+", "unit", "fit", "ESS", "R̂", ""))
    roots = [spectrum_figures(fit)]
    if len(star.names) > 1:
        roots.append(correlation_map(star.names, _correlation(star)))
    name = fit.name or "spectrum"
    return page_of(
        "star.html", f"{name} · stellarfit", roots, name=name, posterior=posterior is not None,
        files=[str(s.meta["file"]) for s in fit.spectra if s.meta.get("file")],
        facts=_facts(fit), flags=list(zip(names_of(fit.flags), describe(fit.flags), strict=True)),
        limits=fit.limits, verdict="" if posterior is None else posterior.verdict,
        converged=star.converged, head=head, rows=rows,
        numeric=(2, 3) if posterior is None else (2, 3, 4, 6, 7, 8),
        corner="" if posterior is None else _corner(posterior),
        provenance=[(k.replace("_", " "), _said(v)) for k, v in fit.provenance.items()
                    if v not in (None, "", [], {})])


def _facts(fit: FitResult) -> Rows:
    """Return what stands above the spectrum."""
    facts = [
        ("emulator", str(fit.provenance["emulator"])),
        ("instrument", str(fit.provenance["instrument"])),
        ("pixels", f"{int(fit.used.sum())} of {fit.covered}"),
        ("S/N per pixel", f"{fit.snr:.0f}"),
        ("chi2/dof", f"{fit.reduced_chi2:.2f}"),
        ("residual scatter", f"{100 * fit.residual_rms:.2f} %"),
        ("rv", f"{fit.rv:.2f} km/s, {fit.provenance.get('frame', 'unknown')} frame"),
        ("fit", "converged" if fit.converged else "NOT converged"),
    ]
    if jitter := fit.provenance.get("jitter"):
        facts.insert(-1, ("jitter", f"{100 * jitter:.2f} %"))
    return list(facts)


def _fitted(fit: FitResult) -> Rows:
    """Return a row for each free parameter of a fit, then for the fixed ones."""
    at_limit = fit.provenance.get("at_limit") or []
    rows: Rows = []
    for name, unit in zip(fit.names, fit.units, strict=True):
        value, error = fit.labels[name], fit.errors[name]
        verdict = fit.verdicts.get(name, "measured")
        remark = ", ".join(["at a limit"] * (name in at_limit)
                           + [verdict] * (verdict != "measured"))
        rows.append((name, _number(value, error), _error(error), unit,
                     describe_parameter(name), remark))
    for name, value in (fit.provenance.get("fixed") or {}).items():
        rows.append((name, f"{value:g}", "", "", describe_parameter(name), "fixed"))
    for name, value in (fit.provenance.get("held") or {}).items():
        rows.append((name, f"{value:g}", "", "", describe_parameter(name), "held"))
    for name, other in (fit.provenance.get("tied") or {}).items():
        rows.append((name, "", "", "", describe_parameter(name), f"tied to {other}"))
    return rows


def _sampled(posterior: Posterior) -> Rows:
    """Return a row for each parameter of a posterior, then for those that follow from them."""
    d = posterior.diagnosis
    rows: Rows = []
    for i, (name, unit) in enumerate(zip(posterior.names, posterior.units, strict=True)):
        digits = digits_of(*posterior.interval(name)[::2])
        rows.append((name, *_interval(posterior, name), unit,
                     f"{posterior.fitted[i]:.{digits}f}".replace("-", "−"), f"{d.ess[i]:.0f}",
                     f"{d.rhat[i]:.3f}" if np.isfinite(d.rhat[i]) else "",
                     describe_parameter(name)))
    rows += [(name, *_interval(posterior, name), "dex", "", "", "",
              f"{describe_parameter(name)}, derived") for name in posterior.derived]
    return rows


def _interval(posterior: Posterior, name: str) -> tuple[str, str, str]:
    low, median, high = posterior.interval(name)
    digits = digits_of(low, high)
    return (f"{median:.{digits}f}".replace("-", "−"), f"{median - low:.{digits}f}",
            f"{high - median:.{digits}f}")


def _number(value: float, error: float) -> str:
    """Return a value to two figures of its error."""
    digits = digits_of(-error, error) if np.isfinite(error) else 3
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # no -0.000


def _error(error: float) -> str:
    return f"{error:.{digits_of(-error, error)}f}" if np.isfinite(error) else "unconstrained"


def _correlation(star: FitResult | Posterior) -> Any:
    if isinstance(star, FitResult):
        return star.correlation
    if len(star.samples) < 2:
        return np.full((len(star.names),) * 2, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # of a parameter that never moved
        return np.corrcoef(star.samples.T)


def _corner(posterior: Posterior) -> str:
    """Return the pairs of parameters as PNG in base64; nothing where they cannot be drawn."""
    if len(posterior.samples) <= len(posterior.names):
        return ""
    try:
        figure = posterior.corner()
    except ImportError:
        return ""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return base64.b64encode(picture.getvalue()).decode()


def _said(value: Any) -> str:
    """Return a value of the provenance as one reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{k} = {_said(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
