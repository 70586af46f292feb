"""HDF5 files of ours: arrays are written with checksums, and a file that is absent, foreign or
damaged says so when it is opened to be read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from emulators.files import atomic_write


def write_arrays(group: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays into an open file or a group of it, each with a checksum."""
    for name, values in arrays.items():
        # what has no elements has no chunks to check either
        checked = {"fletcher32": True, "chunks": values.shape} if values.size else {}
        group.create_dataset(name, data=values, **checked)


@contextmanager
def in_memory(path: str | Path) -> Iterator[Any]:
    """Give a new file, that is written to disk in one go when the block ends well.

    HDF5 takes the process with it when it finds the disk full; so it does not meet the disk.

    Raises
    ------
    OSError
        When it cannot be written; what was there stays.
    """
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def opened(path: str | Path, what: str, format: str) -> Iterator[Any]:
    """Give a file of a format, such as ``stellarfit-result-2``, that holds a ``result``.

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
                found = file.attrs.get("format")
                said = f" (its format is {found!r})" if found else ""
                raise ValueError(f"'{path}' is no {what} of stellarfit's{said}")
            yield file
    except (OSError, LookupError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"'{path}' is not a readable {what}: {error}") from error
