"""From what is given, files or results, to pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulators.files import atomic_write
from stellarfit.hdf5 import opened
from stellarfit.naming import stem_of
from stellarfit.posterior.result import FORMAT as POSTERIOR
from stellarfit.posterior.result import Posterior, load_posterior
from stellarfit.report.catalogue import catalogue_page, column_of
from stellarfit.report.links import folder_of, links_to, page_name, stems_of
from stellarfit.report.page import check_installed
from stellarfit.report.star import star_page
from stellarfit.result import FitResult
from stellarfit.result_file import load_result

if TYPE_CHECKING:
    from astropy.table import Table

TABLES = (".fits", ".ecsv", ".parquet")
RESULTS = (".h5", ".hdf5")


def write_report(sources: Any, path: str | Path) -> Path:
    """Write a page to look at: of a star, of several, or of a survey's catalogue.

    The page is one HTML file that carries all it needs.  Of one result it is the page of that
    star.  Of a catalogue, or of several results, it is a table with plots; the pages of the
    results given are written into a folder beside it, ``stars/`` for ``stars.html``, and rows lead
    to the pages that are there.

    Parameters
    ----------
    sources : path, FitResult, Posterior or Table, or a sequence of them
        Results and posteriors, or the ``.h5`` files that they were saved to; at most one
        catalogue: the table that :func:`stellarfit.fit_many` returns, or the ``.fits``, ``.ecsv``
        or ``.parquet`` of ``stellarfit survey merge``.
    path : str or Path
        Of the page, ``.html``.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ValueError
        For a path that is not ``.html``, no source or two catalogues, and files that are
        something else.
    FileNotFoundError
    ModuleNotFoundError
        Without Bokeh.

    Examples
    --------
    >>> write_report(result, "star.html")                                 # doctest: +SKIP
    >>> write_report(["catalogue.fits", "out/star05.h5"], "catalogue.html")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"a report is an HTML page, got '{path}': give a name like report.html")
    check_installed()
    stars, tables = _sorted(sources)
    if len(stars) == 1 and not tables:
        return _write(path, star_page(next(iter(stars.values()))))
    if len(tables) > 1 or not (stars or tables):
        raise ValueError(f"got {len(tables)} catalogues and {len(stars)} results; expected one "
                         "result, several, or one catalogue with any number of them")
    folder = folder_of(path)
    for stem, star in stars.items():
        _write(folder / page_name(stem), star_page(star))
    if tables:
        title, table = next(iter(tables.items()))
        stems = stems_of(*(_texts(table, n) for n in ("file", "name")))
    else:
        title, table, stems = path.stem, _stacked(stars), list(stars)
    return _write(path, catalogue_page(table, title=title, links=links_to(folder, stems)))


def _write(path: Path, page: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _sorted(
    sources: Any
) -> tuple[dict[str, FitResult | Posterior], dict[str, Table]]:
    """Return the stars by what their pages are called, and the catalogues by their names."""
    from astropy.table import Table

    one = isinstance(sources, (str, Path, FitResult, Posterior, Table))
    if not (one or isinstance(sources, Iterable)):
        raise ValueError(f"got a {type(sources).__name__}; expected files, results or a catalogue")
    given: Iterable[Any] = [sources] if one else sources
    stars: dict[str, FitResult | Posterior] = {}
    tables: dict[str, Table] = {}
    for source in given:
        if isinstance(source, (str, Path)):
            name = Path(source).name if Path(source).suffix in TABLES else (
                stem_of(source).removesuffix("-posterior"))
            content = read(source)
        else:
            content = source
            fit = source.fit if isinstance(source, Posterior) else source
            name = "catalogue" if isinstance(source, Table) else getattr(fit, "name", "")
        if isinstance(content, Table):
            tables[_unique(name, tables)] = content
        elif isinstance(content, (FitResult, Posterior)):
            stars[_unique(name or "star", stars)] = content
        else:
            raise ValueError(f"cannot report a {type(source).__name__}: expected a FitResult, a "
                             "Posterior, a catalogue's Table, or a path to one")
    return stars, tables


def read(path: str | Path) -> Any:
    """Return what a file holds: a FitResult, a Posterior or the Table of a catalogue.

    Raises
    ------
    FileNotFoundError
    ValueError
        For a file that is something else, or damaged.
    """
    path = Path(path)
    if path.suffix in TABLES:
        return _read_table(path)
    if path.suffix not in RESULTS:
        raise ValueError(f"'{path}' cannot be reported: expected a result or posterior "
                         f"({', '.join(RESULTS)}) or a catalogue ({', '.join(TABLES)})")
    try:
        with opened(path, "result", POSTERIOR):
            pass
    except ValueError:
        return load_result(path)
    return load_posterior(path)


def _read_table(path: Path) -> Table:
    from astropy.table import Table

    if not path.is_file():
        raise FileNotFoundError(f"no catalogue at '{path}'")
    form = {".ecsv": "ascii.ecsv"}.get(path.suffix, path.suffix[1:])
    try:
        table = Table.read(path, format=form, **({"hdu": 1} if form == "fits" else {}))
        table.convert_bytestring_to_unicode()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pyarrow is not installed: pip install 'stellarfit[survey]'") from error
    except Exception as error:  # a broken file may raise anything
        raise ValueError(f"'{path}' is not a readable catalogue: {error}") from error
    return table


def _unique(name: str, taken: dict[str, Any]) -> str:
    """Return the name, numbered if there is one like it."""
    number, found = 1, name
    while page_name(found) in {page_name(t) for t in taken}:
        number += 1
        found = f"{name}-{number}"
    return found


def _stacked(stars: dict[str, FitResult | Posterior]) -> Table:
    """Return several results as a catalogue, a row for each; of a posterior that of its fit."""
    from astropy.table import Column, vstack

    tables = []
    for stem, star in stars.items():
        table = (star.fit if isinstance(star, Posterior) else star).to_table()
        table.meta.clear()
        table.add_column(Column([stem], description="that holds the result"), name="file", index=1)
        tables.append(table)
    return vstack(tables)


def _texts(table: Table, name: str) -> Sequence[str]:
    column = column_of(table, name)
    return [""] * len(table) if column is None else [str(x) for x in table[column]]
