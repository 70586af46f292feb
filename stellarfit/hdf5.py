"""HDF5 files of ours, opened to be read: one that is absent, foreign or damaged says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def opened(path: str | Path, what: str, format: str) -> Iterator[Any]:
    """Give a file of a format, such as ``stellarfit fit 1``, that holds a ``result``.

    Raises
    ------
    FileNotFoundError
    ValueError
        When it is damaged or something else.
    """
    import h5py

    if Path(path).is_dir():
        raise ValueError(f"'{path}' is a folder, not a {what}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {what} at '{path}'")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != format:
                raise ValueError(f"'{path}' is not a {format}")
            yield file
    except (OSError, KeyError) as error:
        raise ValueError(f"'{path}' is not a readable {what}: {error}") from error
