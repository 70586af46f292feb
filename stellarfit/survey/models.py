"""Results in full, best models included: an HDF5 file with a group for each star."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stellarfit.hdf5 import in_memory, opened
from stellarfit.result import FitResult
from stellarfit.result_file import read_result, write_result
from stellarfit.survey.engine import Outcome
from stellarfit.survey.folder import Survey

FORM = "stellarfit-models-1"


@contextmanager
def keeping(
    path: str | Path | None, *, others: bool = False
) -> Iterator[Callable[[int, Outcome], None]]:
    """Give a function that keeps what became of a star, by its number; of none, if no path.

    With `others`, stars of the file as it was that are not given again stay in it.
    """
    if path is None:
        yield lambda number, outcome: None
        return
    import h5py

    path = Path(path)
    with in_memory(path) as file:
        file.attrs["format"] = FORM
        given = set()

        def keep(number: int, outcome: Outcome) -> None:
            given.add(str(number))
            if isinstance(outcome, FitResult):
                write_result(outcome, file.create_group(str(number)))

        yield keep
        if others and path.exists():
            with h5py.File(path, "r") as before:
                for name in set(before) - given:
                    before.copy(name, file)


def result(source: str | Path, index: int) -> FitResult:
    """Return the result of a star in full.

    Parameters
    ----------
    source : path
        The folder of a survey that was run with models, or the file of `fit_many`'s.
    index : int
        Of the catalogue's row.

    Raises
    ------
    FileNotFoundError
        When there are no models.
    ValueError
        For a star that has none, or a damaged file.
    """
    path = Path(source)
    if path.is_dir():
        survey = Survey.open(path)
        if not 0 <= index < survey.count:
            raise ValueError(f"no star {index}: the survey in '{path}' has {survey.count}, from 0")
        if not survey.settings.get("models"):
            raise FileNotFoundError(f"the survey in '{path}' was run without models (--models)")
        path = survey.models_of(index // survey.size)
    with opened(path, "file of models", FORM) as file:
        if str(index) not in file:
            raise ValueError(f"'{path}' has no result of a star {index}; the catalogue says why")
        return read_result(file[str(index)])
