"""Training grids: synthetic spectra and their labels in one HDF5 file.

A grid is read lazily.  Rows that fit the memory budget are kept in memory as they are
stored (uint16 for most); more are read row by row as they are asked for, so that a million
spectra can train a network on a laptop.

::

    /wavelength  (n_pix,) float64, attrs: unit='Angstrom', medium='air'|'vacuum',
                 resolution=R of spectra that have been convolved (optional)
    /flux        (n_spec, n_pix) uint16, attrs: scale, offset -> flux = offset + scale*value,
                 or float32 without them
    /labels      (n_spec, n_label) float32, attrs: names, units
    /domain/A, /domain/b   the polytope the labels were drawn from (optional)
    /split       (n_spec,) uint8, 0 train, 1 validation, 2 test (optional)
    /weight      (n_pix,) weight of each pixel in the training loss (optional)
    attrs: provenance, JSON or words; fingerprint, of the recipe it is made from (both optional)

A flux that is unknown is NaN (in a float32 grid): training and metrics leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.files import sha256
from emulators.labels import Domain, LabelSet
from emulators.notebook import several, shown

SPLITS = {"train": 0, "validation": 1, "test": 2}
DIMENSIONS = {"wavelength": 1, "flux": 2, "labels": 2}


class Grid:
    """A grid of normalised synthetic spectra.

    Parameters
    ----------
    path : str or Path
        The HDF5 file.
    memory : float
        Bytes that the rows which training reads again and again may take in memory;
        more are read from disk at each call.

    Attributes
    ----------
    wavelength : (n_pix,) float64
        Angstrom, increasing, in `medium`.
    medium : str
        ``air`` or ``vacuum``.
    labels : (n_spec, n_label) float64
    label_set : LabelSet
        Its scale spans the labels in the file.
    domain : Domain
        As stored; the box around the labels where the file has none.
    split : (n_spec,) uint8
        0 for training, 1 for validation, 2 for testing, others unused; may be set.
    weight : (n_pix,) float64
        Weight of each pixel in the training loss, 1 by default; may be set.
    resolution : float or None
        R = wavelength / FWHM of the Gaussian that the spectra have been convolved with, where
        they have been: the attribute 'resolution' of /wavelength.

    Raises
    ------
    ValueError
        When the file is not a grid, with what is missing or inconsistent.
    FileNotFoundError
        When there is no such file.

    Examples
    --------
    >>> grid = Grid("mgb-fgk.h5")                                    # doctest: +SKIP
    >>> flux = grid.flux(grid.rows("validation")[:8])                # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, memory: float = 2e9) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no grid at '{self.path}'")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"'{self.path}' is not an HDF5 file: {error}") from error
        self._check_datasets()
        flux = self._file["flux"]
        self.n_spec, self.n_pix = flux.shape
        self._offset = float(flux.attrs.get("offset", 0.0))
        self._scale = float(flux.attrs.get("scale", 1.0))
        self._memory = memory
        self._kept: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._cache: NDArray[Any] | None = None

        self.wavelength: NDArray[np.float64] = self._file["wavelength"][:].astype(np.float64)
        self.medium = _as_text(self._file["wavelength"].attrs["medium"])
        self.labels: NDArray[np.float64] = self._file["labels"][:].astype(np.float64)
        self.resolution = _resolution(self._file["wavelength"].attrs.get("resolution"), self.path)
        self.label_set = self._read_label_set()
        self.domain = self._read_domain()
        self.split: NDArray[np.uint8] = (
            self._file["split"][:] if "split" in self._file
            else np.zeros(self.n_spec, dtype=np.uint8)
        )
        self.weight: NDArray[np.float64] = (
            self._file["weight"][:].astype(np.float64) if "weight" in self._file
            else np.ones(self.n_pix)
        )
        self._check_values()

    def _check_datasets(self) -> None:
        missing = [n for n in DIMENSIONS if not isinstance(self._file.get(n), h5py.Dataset)]
        if missing:
            raise ValueError(
                f"'{self.path}' is not a grid: it has no /{', /'.join(missing)}; "
                f"see emulators.grid for the layout"
            )
        for name, n_axis in DIMENSIONS.items():
            shape = self._file[name].shape
            if len(shape) != n_axis or 0 in shape:
                raise ValueError(f"'{self.path}': /{name} has shape {shape}, expected {n_axis}-d")
        unit = _as_text(self._file["wavelength"].attrs.get("unit", "Angstrom"))
        if unit not in ("Angstrom", "AA"):
            raise ValueError(f"'{self.path}' has wavelengths in {unit}, expected Angstrom")
        medium = _as_text(self._file["wavelength"].attrs.get("medium", ""))
        if medium not in ("air", "vacuum"):
            raise ValueError(
                f"'{self.path}' does not say whether its wavelengths are air or vacuum: set "
                f"the attribute 'medium' of /wavelength (got {medium!r})"
            )

    def _check_values(self) -> None:
        shapes = self._file["flux"].shape, self.wavelength.shape, self.labels.shape
        if shapes[0][1:] != shapes[1] or shapes[2][0] != shapes[0][0]:
            raise ValueError(
                f"'{self.path}': flux {shapes[0]}, wavelength {shapes[1]} and labels "
                f"{shapes[2]} do not belong together"
            )
        if not (np.diff(self.wavelength) > 0).all():
            raise ValueError(f"'{self.path}': wavelengths must increase")
        if self.split.shape != (self.n_spec,):
            raise ValueError(f"'{self.path}': /split has shape {self.split.shape}")
        if self.weight.shape != (self.n_pix,) or not (self.weight >= 0).all():
            raise ValueError(
                f"'{self.path}': /weight must be {self.n_pix} numbers of at least 0"
            )
        if self.domain.A.shape[1] != self.labels.shape[1]:
            raise ValueError(
                f"'{self.path}': the domain limits {self.domain.A.shape[1]} labels, but there "
                f"are {self.labels.shape[1]}"
            )

    def _read_label_set(self) -> LabelSet:
        attrs = self._file["labels"].attrs
        if "names" not in attrs:
            raise ValueError(f"'{self.path}': /labels has no attribute 'names'")
        names = tuple(_as_text(n) for n in attrs["names"])
        if len(names) != self.labels.shape[1]:
            raise ValueError(
                f"'{self.path}': {len(names)} label names for {self.labels.shape[1]} columns"
            )
        if not np.isfinite(self.labels).all():
            raise ValueError(f"'{self.path}': some labels are not finite")
        units = tuple(_as_text(u) for u in attrs.get("units", [""] * len(names)))
        low, high = self.labels.min(axis=0), self.labels.max(axis=0)
        return LabelSet(names, units, tuple(low.tolist()), tuple(high.tolist()))

    def _read_domain(self) -> Domain:
        if ("domain/A" in self._file) != ("domain/b" in self._file):
            raise ValueError(f"'{self.path}': /domain needs both A and b")
        if "domain/A" in self._file:
            return Domain(self._file["domain/A"][:].astype(float),
                          self._file["domain/b"][:].astype(float))
        return Domain.box(self.labels.min(axis=0), self.labels.max(axis=0))

    @classmethod
    def convert(cls, source: str | Path, out: str | Path, **options: Any) -> Grid:
        """Write a grid from spectra that were made elsewhere, and open it.

        Parameters
        ----------
        source : str or Path
            A training set of The Payne's (``.npz``), or a folder of FITS, text, Turbospectrum,
            MOOG, iSpec or Korg spectra with a table of labels.
        out : str or Path
            The HDF5 file to write.
        **options
            `format`, `names`, `medium`, `unit`, `resolution`, `labels`, `pattern`,
            `wavelength`, `domain` and `validation`, all described in
            `emulators.conversion.convert`.

        Returns
        -------
        Grid

        Raises
        ------
        ValueError, FileNotFoundError
            As `emulators.conversion.convert`.
        FileExistsError
            When there is such a file already.

        Examples
        --------
        >>> grid = Grid.convert("spectra", "mine.h5", medium="air")  # doctest: +SKIP
        """
        from emulators.conversion import convert

        return convert(source, out, **options)

    @classmethod
    def join(cls, paths: Sequence[str | Path], out: str | Path) -> Grid:
        """Write a grid of the spectra of several, and open it.

        Parameters
        ----------
        paths : sequence of str or Path
            Grids of the same wavelengths and labels.  The first gives the domain and the
            spectra for validation; all spectra of the others are for training, see
            `emulators.grid_join.join`.
        out : str or Path
            The HDF5 file to write.

        Returns
        -------
        Grid

        Raises
        ------
        ValueError, FileNotFoundError
            As `emulators.grid_join.join`.
        FileExistsError
            When there is such a file already.

        Examples
        --------
        >>> grid = Grid.join(["mine.h5", "more.h5"], "both.h5")      # doctest: +SKIP
        """
        from emulators.grid_join import join

        return join(paths, out)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split, ``train``, ``validation`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; valid: {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == SPLITS[split])

    def flux(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the normalised fluxes of some rows, shape (len(rows), n_pix).

        Only these rows (or the HDF5 chunks that hold them) are read, and not even they
        when :meth:`keep` did before.

        Parameters
        ----------
        rows : (n,) int64, or (n_spec,) bool

        Raises
        ------
        ValueError
            For a row that is not there, or a mask of another length.
        """
        stored = self._stored(self._numbers(np.asarray(rows)))
        return np.float32(self._offset) + np.float32(self._scale) * stored.astype(np.float32)

    def _numbers(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return the numbers of rows that are given by number or by a mask."""
        if rows.dtype == bool and rows.shape == (self.n_spec,):
            return np.flatnonzero(rows)
        if rows.dtype == bool or (rows.size and (rows.min() < 0 or rows.max() >= self.n_spec)):
            raise ValueError(f"{self!r} has rows 0 to {self.n_spec - 1}: give their numbers, or a "
                             f"mask of shape ({self.n_spec},)")
        return rows.astype(np.int64)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Read some rows, each once and in increasing order, and keep them if they fit.

        They are kept as they are stored, and only if they take no more than the memory
        given to the grid; larger ones are read as they are asked for.
        """
        stored = self._file["flux"]
        if len(rows) * self.n_pix * stored.dtype.itemsize <= self._memory:
            self._kept, self._cache = np.asarray(rows), stored[rows]

    def _stored(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._cache is not None:
            place = np.searchsorted(self._kept, rows).clip(max=len(self._kept) - 1)
            if (self._kept[place] == rows).all():
                return np.asarray(self._cache[place])
        # HDF5 wants each row once and in increasing order.
        unique, inverse = np.unique(rows, return_inverse=True)
        return np.asarray(self._file["flux"][unique])[inverse]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the file says about its origin, with the SHA-256 of the file itself."""
        text = _as_text(self._file.attrs.get("provenance", "{}"))
        try:
            made_by = json.loads(text)
        except ValueError:
            made_by = text  # in words, then
        own = {} if self.resolution is None else {"resolution": self.resolution}
        return {"grid": self.path.name, "sha256": sha256(self.path),
                "n_train": len(self.rows("train")), "made_by": made_by, **own}

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe it was made from; empty for a grid from elsewhere."""
        return _as_text(self._file.attrs.get("fingerprint", ""))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        low, high = self.wavelength[[0, -1]]
        return (
            f"<Grid '{self.path.name}': {self.n_spec} spectra ({len(self.rows('train'))} train), "
            f"{self.n_pix} pixels, {low:.1f}-{high:.1f} Å {self.medium}, "
            f"{len(self.label_set)} labels>"
        )

    def _repr_html_(self) -> str:
        low, high = self.wavelength[[0, -1]]
        splits = ", ".join(f"{len(self.rows(s))} {s}" for s in SPLITS if len(self.rows(s)))
        return shown(f"Grid {self.path.name}", [
            ("spectra", f"{self.n_spec}: {splits}"),
            ("pixels", f"{self.n_pix}, {low:.1f}-{high:.1f} Å, {self.medium}"),
            ("labels", several(self.label_set.names)),
        ])


def _resolution(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if not (np.ndim(value) == 0 and np.isfinite(value) and value > 0):
        raise ValueError(f"'{path}': the attribute 'resolution' of /wavelength is {value!r}; "
                         "expected R = wavelength / FWHM")
    return float(value)


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
