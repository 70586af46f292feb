"""The catalogue: a row for every input, in the order of the inputs.

Names are those of SDSS-V's Astra (``teff``, ``e_teff``, ``mg_fe``, ``mg_fe_flags``, ...); GALAH's
and APOGEE's to be had on request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulators.files import atomic_write
from stellarfit.parameters import Parameters
from stellarfit.quality import Flag, names_of
from stellarfit.result import FitResult, describe_parameter
from stellarfit.survey.engine import STATUS_MEANINGS, Outcome

if TYPE_CHECKING:
    from astropy.table import Table

Arrays = dict[str, NDArray[Any]]
#: what an abundance is worth, as a number
VERDICTS = {"measured": 0, "upper limit": 1, "no information": 2}
#: of a row that has no fit
MISSING: dict[str, Any] = {"f": np.nan, "i": 0, "b": False, "U": ""}
_FIT = {
    "rv_frame": ("U", "", "whose velocity rv is relative to"),
    "chi2": ("f", "", "chi-square"),
    "dof": ("i", "", "degrees of freedom"),
    "rchi2": ("f", "", "chi-square per degree of freedom"),
    "snr": ("f", "", "median signal-to-noise per pixel"),
    "jitter": ("f", "", "noise in all pixels, a fraction of the continuum"),
    "residual_rms": ("f", "", "robust residual scatter / continuum"),
    "n_pix": ("i", "", "pixels that were used"),
    "rv_gap": ("f", "", "difference of chi-square to the next best velocity"),
    "iterations": ("i", "", "of the optimiser"),
    "converged": ("b", "", "whether the optimiser converged"),
    "flag_warn": ("b", "", "whether any flag is set"),
    "flag_bad": ("b", "", "whether the labels are not to be used"),
}
#: flags of fits that are not to be used
BAD = ("NOT_CONVERGED", "POOR_FIT", "AMBIGUOUS_RV")
_DTYPES = {"f": np.float64, "i": np.int64, "b": np.bool_}
#: how other surveys call things
ALIASES: dict[str, dict[str, str]] = {
    "galah": {"flags": "flag_sp", "rchi2": "chi2_sp", "snr": "snr_px", "rv": "rv_comp_1",
              "e_rv": "e_rv_comp_1"},
    "apogee": {"name": "APOGEE_ID", "flags": "ASPCAPFLAG", "rchi2": "ASPCAP_CHI2", "snr": "SNR",
               "rv": "VHELIO_AVG", "e_rv": "VERR", "vmic": "VMICRO", "vmac": "VMACRO",
               "vsini": "VSINI"},
}


def columns_of(parameters: Parameters) -> dict[str, tuple[str, str, str]]:
    """Return kind, unit and description of each column of a fit, in order."""
    bits = "; ".join(f"{int(s)}: {text}" for s, text in STATUS_MEANINGS.items())
    found = {
        "name": ("U", "", "of the star"),
        "status": ("i", "", f"0 where there is a fit, else bits: {bits}"),
        "message": ("U", "", "why there is no fit"),
        "flags": ("i", "", "bits of stellarfit.Flag"),
    }
    for name, unit in zip(parameters.names, parameters.units, strict=True):
        text = describe_parameter(name)
        found[name] = ("f", unit, text)
        found[f"e_{name}"] = ("f", unit, f"standard error of the {text}")
        if name.endswith(("_fe", "_h")) and name != "fe_h":
            found[f"{name}_flags"] = (
                "i", "", f"of the {text}: 0 measured, 1 upper limit, 2 no information")
    return {**found, **_FIT}


def arrays_of(outcomes: Sequence[Outcome], parameters: Parameters) -> Arrays:
    """Return the columns of some stars."""
    rows = [_row(o, parameters) for o in outcomes]
    found: Arrays = {}
    for column, (kind, _, _) in columns_of(parameters).items():
        values = [r.get(column, MISSING[kind]) for r in rows]
        found[column] = np.array(values, dtype=_DTYPES.get(kind, np.str_))
    return found


def _row(outcome: Outcome, parameters: Parameters) -> dict[str, Any]:
    if not isinstance(outcome, FitResult):
        nothing = {f"{n}_flags": VERDICTS["no information"] for n in parameters.names}
        return {**nothing, "name": outcome.name, "status": int(outcome.status),
                "message": outcome.message, "flags": int(Flag.NO_FIT), "flag_warn": True,
                "flag_bad": True}
    r, said = outcome, outcome.provenance
    labels, errors = r.labels, r.errors
    row: dict[str, Any] = {
        "name": r.name, "flags": int(r.flags), "rv_frame": said.get("frame", ""),
        "chi2": r.chi2, "dof": r.dof, "rchi2": r.reduced_chi2, "snr": r.snr,
        "jitter": said.get("jitter", np.nan), "residual_rms": r.residual_rms,
        "n_pix": int(r.used.sum()), "iterations": r.iterations, "converged": bool(r.converged),
        "rv_gap": np.nan if said.get("runner_up") is None else said["runner_up"],
        "flag_warn": r.flags != 0, "flag_bad": bool(set(BAD) & set(names_of(r.flags))),
    }
    for name in parameters.names:
        row |= {name: labels[name], f"e_{name}": errors[name],
                f"{name}_flags": VERDICTS[r.verdicts.get(name, "measured")]}
    return row


def to_table(
    arrays: Mapping[str, NDArray[Any]], parameters: Parameters, meta: Mapping[str, Any], *,
    aliases: str | None = None,
) -> Table:
    """Return columns as a table with units, descriptions and provenance.

    Parameters
    ----------
    arrays : mapping of str to (n_star,) array
        What the rows are called (``index``, ``file``, ``star``), then of :func:`arrays_of`.
    aliases : {'galah', 'apogee'}, optional

    Raises
    ------
    ValueError
        For other aliases.
    """
    from astropy.table import Column, Table

    check_aliases(aliases)
    known = {"index": ("i", "", "number of the input, from 0"),
             "file": ("U", "", "that holds the spectrum"),
             "star": ("i", "", "which of the file's stars, from 0"), **columns_of(parameters)}
    table = Table(meta=dict(meta))
    for name, (_, unit, text) in known.items():
        table[alias(name, aliases)] = Column(arrays[name], unit=unit or None, description=text)
    return table


def check_aliases(aliases: str | None) -> None:
    """Say so before anything is computed, if there are no such names."""
    if aliases not in (None, *ALIASES):
        raise ValueError(f"unknown aliases {aliases!r}; valid: {', '.join(ALIASES)}")


def alias(name: str, survey: str | None) -> str:
    """Return what a survey calls a column."""
    if survey is None:
        return name
    if name in ALIASES[survey]:
        return ALIASES[survey][name]
    if survey == "galah":
        return f"flag_{name.removesuffix('_flags')}" if name.endswith("_flags") else name
    if name.startswith("e_"):
        return alias(name[2:], survey) + "_ERR"
    return name.removesuffix("_flags").upper() + ("_FLAG" if name.endswith("_flags") else "")


def write_table(table: Table, path: str | Path) -> Path:
    """Write a catalogue whole or not at all, as its suffix says.

    FITS carries CHECKSUM and DATASUM, units in TUNIT, descriptions in TCOMM and the provenance in
    its header; ECSV and Parquet carry the same in their own ways.

    Raises
    ------
    ValueError
        For another suffix.
    ModuleNotFoundError
        For Parquet without pyarrow.
    """
    path = Path(path)
    check_suffix(path)
    with atomic_write(path) as temporary:
        if path.suffix == ".fits":
            _write_fits(table, temporary)
        elif path.suffix == ".ecsv":
            table.write(temporary, format="ascii.ecsv")
        else:
            table.write(temporary, format="parquet")
    return path


def check_suffix(path: str | Path) -> None:
    """Say so before anything is computed, if a catalogue could not be written there."""
    if (suffix := Path(path).suffix) not in (".fits", ".ecsv", ".parquet"):
        raise ValueError(f"a catalogue is .fits, .ecsv or .parquet; got '{path}'")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "pyarrow is not installed: pip install 'stellarfit[survey]'") from error


def _write_fits(table: Table, path: Path) -> None:
    from astropy.io import fits

    # By hand: astropy does not write descriptions.  FITS does not know dex: they say it.
    formats = {"f": "D", "i": "K", "b": "L"}
    columns = []
    for name in table.colnames:
        values = np.asarray(table[name])
        text = values.dtype.kind == "U"
        values = np.char.encode(values, "utf-8") if text else values
        columns.append(fits.Column(
            name, f"{max(1, values.dtype.itemsize)}A" if text else formats[values.dtype.kind],
            unit if (unit := str(table[name].unit or "")) != "dex" else "", array=values))
    hdu = fits.BinTableHDU.from_columns(columns, name="CATALOGUE")
    for i, name in enumerate(table.colnames, 1):
        hdu.header[f"TCOMM{i}"] = table[name].description + (
            ", dex" if table[name].unit == "dex" else "")
    hdu.header.update({k: v for k, v in table.meta.items() if v not in (None, "")})
    # Without the hour at which it was written, so that the same rows are the same file.
    hdus = fits.HDUList([fits.PrimaryHDU(), hdu])
    for each in hdus:
        each.add_datasum(when="data unit checksum")
        each.add_checksum(when="HDU checksum")
    hdus.writeto(path)
