"""What there is to fit: every star of every file, in order, each once."""

from __future__ import annotations

import glob
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellarfit.readers import stars_of
from stellarfit.readers.many import count_stars
from stellarfit.readers.tables import TableOfSpectra, is_table


@dataclass(frozen=True)
class Target:
    """A star in a file.

    Attributes
    ----------
    file : str
    star : int
        Which of the file's stars, from 0.
    """

    file: str
    star: int = 0


def as_text(file: str) -> str:
    """Return the name of a file as text that can be written, whatever its bytes are."""
    return file.encode("utf-8", "backslashreplace").decode()


def find_targets(inputs: str | Path | Iterable[str | Path], *, single: bool = False
                 ) -> list[Target]:
    """Return the stars of files, in the order of the inputs.

    Parameters
    ----------
    inputs : path, or sequence of paths
        Files; patterns (``survey/*.fits``), whose files are taken in alphabetical order, as are
        those of a folder, hidden ones left out.  Folders within a folder are not entered, those
        that match a pattern are.
    single : bool
        No file holds more than one star: they need not be opened, which takes a while where
        there are millions.

    Raises
    ------
    ValueError
        When there is nothing, no input exists, or a file is given twice.
    OSError
        For a folder that cannot be listed.  What is missing among others, unreadable or an empty
        folder is a target all the same: its row will say so.
    """
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    files: list[str] = []
    for one in given:
        files += _files(str(one))
    nothing = not any(files) or (len(files) == 1 and Path(files[0]).is_dir())
    if nothing:
        raise ValueError(f"no spectra in '{', '.join(map(str, given))}': give files, patterns or "
                         "folders")
    if not any(Path(f).exists() or Path(f).is_symlink() for f in files):
        raise ValueError(f"there is no '{files[0]}'"
                         + (f", nor any other of {len(files)} inputs" if len(files) > 1 else ""))
    if twice := next((f for f, n in Counter(files).items() if n > 1), ""):
        raise ValueError(f"'{twice}' is given more than once: every input is one row")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # who is to be fitted is read again
        return [Target(f, k) for f in files for k in range(1 if single else count_stars(Path(f)))]


def _files(name: str) -> list[str]:
    """Return what a path or pattern stands for, links that lead nowhere as well."""
    path = Path(name)
    if name and path.is_dir():
        found = sorted(str(p) for p in path.iterdir()
                       if not p.is_dir() and not p.name.startswith("."))
        return found or [name]
    if any(c in name for c in "*?[") and not path.exists():
        matches = sorted(glob.glob(name, recursive=True))
        if "**" in name:  # which finds what is in a folder by itself
            matches = [m for m in matches if not Path(m).is_dir()]
        if not matches:
            raise ValueError(f"no file matches '{name}'")
        return [f for m in matches for f in (_files(m) if Path(m).is_dir() else [m])]
    return [name]


class Files:
    """Reads targets, and keeps the last file open as long as its stars are asked for.

    Parameters
    ----------
    medium : {'air', 'vacuum'}, optional
        Of files that do not say.
    """

    def __init__(self, medium: str | None = None) -> None:
        self._options: dict[str, Any] = {"medium": medium} if medium else {}
        self._file = ""
        self._stars: Sequence[Any] = ()

    def __call__(self, target: Target) -> Any:
        """Return the spectrum of a target, or its arms, as :func:`stellarfit.fit` takes them."""
        if target.file != self._file:
            self._file, self._stars = "", ()
            self._stars = self._open(Path(target.file))
            self._file = target.file
        if target.star >= len(self._stars):
            raise ValueError(f"'{target.file}' has {len(self._stars)} stars, and none of number "
                             f"{target.star}")
        return self._stars[target.star]

    def _open(self, path: Path) -> Sequence[Any]:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError(f"'{path}' is not a file, or a folder without any")
        if path.is_file() and is_table(path):
            return TableOfSpectra(path, **self._options)
        return list(stars_of(path, **self._options).values())
