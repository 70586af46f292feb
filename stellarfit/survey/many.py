"""A catalogue of many stars, fitted here and now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from stellarfit.spectrum import Spectrum
from stellarfit.survey.catalogue import (
    arrays_of,
    check_aliases,
    check_suffix,
    to_table,
    write_table,
)
from stellarfit.survey.engine import Engine, check_options
from stellarfit.survey.folder import provenance_of
from stellarfit.survey.models import keeping
from stellarfit.survey.targets import Files, Target, as_text, find_targets

if TYPE_CHECKING:
    from astropy.table import Table


def fit_many(
    spectra: str | Path | Iterable[Any], *, out: str | Path | None = None,
    models: str | Path | None = None, batch: int = 64, medium: str | None = None,
    single: bool = False, aliases: str | None = None, progress: bool | None = None,
    **options: Any,
) -> Table:
    """Fit many stars and return a catalogue: one row for every input, in its order.

    A star that cannot be read or fitted has a row that says why in ``status`` and ``message``.
    For more stars than a session lasts, or more machines than one, see `stellarfit.survey`.

    Parameters
    ----------
    spectra : path, or sequence
        Files, patterns such as ``survey/*.fits``, folders, files of many stars (a DESI coadd, a
        FITS or Parquet table with a spectrum in every row); or what :func:`stellarfit.fit` takes
        as `spectrum`, such as a :class:`Spectrum` or a mapping of arms, one per star.
    out : path, optional
        Write the catalogue too: ``.fits``, ``.ecsv`` or ``.parquet``.
    models : path, optional
        HDF5 file for the results in full, best models included, in groups named by ``index``.
    batch : int
        Stars side by side; memory grows with it.
    medium : {'air', 'vacuum'}, optional
        Of files that do not say.
    single : bool
        No file holds more than one star.
    aliases : {'galah', 'apogee'}, optional
        Names of columns.
    progress : bool, optional
        Show a bar; by default where there is a terminal.
    **options
        Those of :func:`stellarfit.fit` on instrument, emulator, parameters and noise, one
        velocity and resolution for all arms of a star; and ``device``, such as ``"cuda"``, of an
        emulator given by name or path.

    Returns
    -------
    astropy.table.Table

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For settings that no star could be fitted with, unknown options, a file given twice, and
        when there is no such emulator, or none of the files; never for a star.
    ModuleNotFoundError
        For Parquet without pyarrow.

    Examples
    --------
    >>> table = fit_many("survey/*.fits", resolution=20_000, out="survey.fits")  # doctest: +SKIP
    >>> good = table[table["status"] == 0]                                       # doctest: +SKIP
    """
    if out is not None:
        check_suffix(out)
    check_aliases(aliases)
    check_options(options)
    engine = Engine(batch=batch, **options)
    stars, where = _readers(spectra, medium, single)
    bar = tqdm(total=len(stars), unit="star", disable=None if progress is None else not progress)
    columns = []
    with bar, keeping(models) as keep:
        for first in range(0, len(stars), batch):
            outcomes = engine(stars[first:first + batch])
            for i, outcome in enumerate(outcomes, first):
                keep(i, outcome)
            columns.append(arrays_of(outcomes, engine.parameters))
            bar.update(len(outcomes))
    arrays = {"index": np.arange(len(stars)), **where,
              **{n: np.concatenate([c[n] for c in columns]) for n in columns[0]}}
    table = to_table(arrays, engine.parameters, provenance_of(engine, {
        **options, "batch": batch, **({"medium": medium} if medium else {})}), aliases=aliases)
    if out is not None:
        write_table(table, out)
    return table


def _readers(
    spectra: Any, medium: str | None, single: bool
) -> tuple[list[Callable[[], Any]], dict[str, Any]]:
    """Return what reads each star, and the columns that say where it is from."""
    if isinstance(spectra, (str, Path)):
        spectra = [spectra]
    if isinstance(spectra, (Spectrum, Mapping)):
        raise ValueError("fit_many takes a list of stars; for one, call fit, or give [star]")
    given = [] if spectra is None else list(spectra)
    if not given:
        raise ValueError("no spectra: give files, patterns, folders or spectra")
    files = Files(medium)
    if all(isinstance(s, (str, Path)) for s in given):
        targets = find_targets(given, single=single)
        return [partial(files, t) for t in targets], {
            "file": np.array([as_text(t.file) for t in targets]),
            "star": np.array([t.star for t in targets])}

    def itself(star: Any) -> Any:
        return files(Target(str(star))) if isinstance(star, (str, Path)) else star

    return [partial(itself, s) for s in given], {
        "file": np.array([str(s) if isinstance(s, (str, Path)) else "" for s in given]),
        "star": np.zeros(len(given), dtype=np.int64)}
