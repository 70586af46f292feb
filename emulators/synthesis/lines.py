"""Spectral lines: what a synthesis code needs to know of each, in one compact HDF5 file.

::

    /wavelength (n_line,) float64, attrs: unit='Angstrom', medium='air'|'vacuum'
    /species    (n_line,) uint8, attrs: names -> 'Fe 1' is neutral iron, 'MgH 1' a molecule
    /source     (n_line,) uint8, attrs: citations
    /excitation, /log_gf, /log_fraction, /gamma_rad, /gamma_stark, /gamma_vdw
                (n_line,) float32

The damping constants are those of VALD and SME: the logarithms of the widths per second, at
10,000 K per electron or hydrogen atom for Stark and van der Waals; `gamma_vdw` above 20 is
the packed cross section and velocity parameter of Anstee, Barklem and O'Mara (Barklem et al.
2000, A&AS 142, 467); 0 leaves it to the synthesis code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.air import vacuum_to_air
from emulators.files import atomic_write

NUMBERS = ("excitation", "log_gf", "log_fraction", "gamma_rad", "gamma_stark", "gamma_vdw")


@dataclass(frozen=True, eq=False)
class LineList:
    """Spectral lines, by increasing wavelength.

    Attributes
    ----------
    wavelength : (n_line,) float64
        Angstrom, in `medium`.
    species : (n_line,) str
        Element or molecule and stage of ionisation, 1 for neutral: ``Fe 2``, ``MgH 1``.
    excitation : (n_line,) float64
        Of the lower level, eV.
    log_gf : (n_line,) float64
        As if all atoms were of the line's isotope.
    log_fraction : (n_line,) float64
        Decimal logarithm of the fraction that are, on Earth; 0 for lines of all isotopes.
    gamma_rad, gamma_stark, gamma_vdw : (n_line,) float64
        Damping, see the module.
    source : (n_line,) str
        Citation.
    medium : str
        ``air`` or ``vacuum``.
    """

    wavelength: NDArray[np.float64]
    species: NDArray[np.str_]
    excitation: NDArray[np.float64]
    log_gf: NDArray[np.float64]
    log_fraction: NDArray[np.float64]
    gamma_rad: NDArray[np.float64]
    gamma_stark: NDArray[np.float64]
    gamma_vdw: NDArray[np.float64]
    source: NDArray[np.str_]
    medium: str = "air"

    def __post_init__(self) -> None:
        if self.medium not in ("air", "vacuum"):
            raise ValueError(f"the medium of lines must be air or vacuum, got {self.medium!r}")
        shapes = {n: getattr(self, n).shape for n in self._columns()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the columns of a line list differ in length: {shapes}")
        if not (np.diff(self.wavelength) >= 0).all():
            raise ValueError("the wavelengths of a line list must not decrease")

    def __len__(self) -> int:
        return len(self.wavelength)

    @classmethod
    def _columns(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name != "medium"]

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.int64] | slice) -> LineList:
        """Return some of the lines."""
        return replace(self, **{n: getattr(self, n)[which] for n in self._columns()})

    def between(self, low: float, high: float) -> LineList:
        """Return the lines with ``low <= wavelength <= high``, Angstrom."""
        first = np.searchsorted(self.wavelength, low)
        return self[first:np.searchsorted(self.wavelength, high, side="right")]

    def in_air(self) -> LineList:
        """Return the same lines with wavelengths in air."""
        if self.medium == "air":
            return self
        return replace(self, wavelength=vacuum_to_air(self.wavelength), medium="air")

    @classmethod
    def merge(cls, *lists: LineList) -> LineList:
        """Return the lines of several lists in one medium as one list."""
        if len(media := {one.medium for one in lists}) != 1:
            raise ValueError(f"line lists in {' and '.join(sorted(media))} cannot be merged")
        order = np.argsort(np.concatenate([one.wavelength for one in lists]), kind="stable")
        columns = {n: np.concatenate([getattr(one, n) for one in lists])[order]
                   for n in cls._columns()}
        return cls(**columns, medium=media.pop())

    def write(self, path: str | Path) -> None:
        """Write the HDF5 file that :meth:`read` reads."""
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            how = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
            wavelength = file.create_dataset("wavelength", data=self.wavelength, **how)
            wavelength.attrs.update(unit="Angstrom", medium=self.medium)
            for column, attribute in (("species", "names"), ("source", "citations")):
                names, index = np.unique(getattr(self, column), return_inverse=True)
                if len(names) > 256:
                    raise ValueError(f"{len(names)} values of {column} do not fit in a byte")
                stored = file.create_dataset(column, data=index.astype(np.uint8), **how)
                stored.attrs[attribute] = names.tolist()
            for name in NUMBERS:
                file.create_dataset(name, data=getattr(self, name).astype(np.float32), **how)

    @classmethod
    def read(cls, path: str | Path) -> LineList:
        """Read a line list.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When it is not a line list, with what is missing.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no line list at '{path}'")
        try:
            with h5py.File(path) as file:
                if missing := [n for n in cls._columns() if n not in file]:
                    raise ValueError(f"it has no /{', /'.join(missing)}")
                columns = {n: file[n][:].astype(float) for n in ("wavelength", *NUMBERS)}
                for column, attribute in (("species", "names"), ("source", "citations")):
                    names = np.array(file[column].attrs[attribute], dtype=str)
                    columns[column] = names[file[column][:]]
                return cls(**columns, medium=str(file["wavelength"].attrs["medium"]))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' is not a line list: {error}") from error
