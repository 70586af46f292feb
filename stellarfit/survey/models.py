"""Results in full, best models included: an HDF5 file with a group for each star."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stellarfit.hdf5 import in_memory
from stellarfit.result import FitResult
from stellarfit.survey.engine import Outcome


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
        given = set()

        def keep(number: int, outcome: Outcome) -> None:
            given.add(str(number))
            if isinstance(outcome, FitResult):
                outcome.write_into(file.create_group(str(number)))

        yield keep
        if others and path.exists():
            with h5py.File(path, "r") as before:
                for name in set(before) - given:
                    before.copy(name, file)
