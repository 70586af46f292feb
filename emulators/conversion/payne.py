"""The Payne's training sets: arrays of spectra and labels in one ``.npz`` file.

The repository's own set (``kurucz_training_spectra.npz``) has ``spectra`` (n_spec, n_pix) and
``labels`` transposed, (n_label, n_spec); others have ``training_spectra``, ``training_labels``,
``validation_spectra`` and ``validation_labels``.  The wavelengths stand beside it
(``apogee_wavelength.npz``) or in it.  Labels have no names, and Teff comes in K or in 1000 K.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from emulators.conversion.content import Content, normalised
from emulators.conversion.labels import LabelTable, from_array, from_columns

PAIRS = (("training_labels", "training_spectra"), ("labels", "training_spectra"),
         ("labels", "spectra"), ("labels", "flux"), ("labels", "fluxes"))
VALIDATION = ("validation_labels", "validation_spectra")
WAVELENGTH = ("wavelength", "wavelengths", "wave", "lambda", "wl")


@dataclass(frozen=True)
class TrainingSet:
    """What a file of The Payne's holds.

    Parameters
    ----------
    path : Path
    wavelength : (n_pix,) float64
        In the unit of the file.
    labels : LabelTable
    spectra : list of (n, n_pix) arrays
        Those for training, then perhaps those for validation.
    """

    path: Path
    wavelength: NDArray[np.float64]
    labels: LabelTable
    spectra: list[NDArray[Any]]
    format = "payne"

    @property
    def first(self) -> Content:
        """The first spectrum.  Of unit and medium the file says nothing."""
        return Content(self.wavelength, np.asarray(self.spectra[0][0], dtype=np.float64))

    @property
    def split(self) -> NDArray[np.uint8] | None:
        """0 for training and 1 for validation, where the file tells them apart."""
        if len(self.spectra) == 1:
            return None
        return np.repeat(np.arange(2, dtype=np.uint8), [len(s) for s in self.spectra])

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield one normalised flux after the other, shape (n_pix,)."""
        for number, flux in enumerate(row for array in self.spectra for row in array):
            try:
                yield normalised(Content(self.wavelength, np.asarray(flux, dtype=np.float64)))
            except ValueError as error:
                raise ValueError(f"'{self.path}', spectrum {number}: {error}") from error


def read_payne(
    path: Path, *, names: Sequence[str] | None, wavelength: Path | None = None
) -> TrainingSet:
    """Read a training set.

    Parameters
    ----------
    path : Path
        Its arrays are read as a whole, so they must fit into memory.
    names : sequence of str
        Of its labels, in their order.
    wavelength : Path, optional
        Where the wavelengths are, if not in `path`: ``.npz``, ``.npy`` or text.
    """
    arrays = _load(path)
    pair = next((p for p in PAIRS if set(p) <= arrays.keys()), None)
    if pair is None:
        raise ValueError(f"'{path}' has the arrays {', '.join(arrays)}; expected labels and "
                         "spectra, or training_labels and training_spectra")
    pairs = [pair, VALIDATION] if set(VALIDATION) <= arrays.keys() else [pair]
    scale = _wavelength(arrays, path, wavelength)
    spectra = [_rows(arrays[s], len(scale), s, path) for _, s in pairs]
    values = np.concatenate([from_array(arrays[n], len(s), names)
                             for (n, _), s in zip(pairs, spectra, strict=True)])
    columns = dict(zip(names or (), values.T, strict=True))
    if len(columns) != values.shape[1]:
        raise ValueError(f"label names must be unique, got {', '.join(names or ())}")
    return TrainingSet(path, scale, from_columns(columns, names), spectra)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = {*WAVELENGTH, *VALIDATION, *(n for p in PAIRS for n in p)}
            return {n: file[n] if n in wanted else np.empty(0) for n in file.files}
    except (ValueError, OSError, AttributeError, TypeError, BadZipFile) as error:
        raise ValueError(f"'{path}' is not an .npz file of plain arrays: {error}") from error


def _wavelength(
    arrays: dict[str, NDArray[Any]], path: Path, elsewhere: Path | None
) -> NDArray[np.float64]:
    if elsewhere is not None:
        return _read_wavelength(elsewhere)
    name = next((n for n in WAVELENGTH if n in arrays), None)
    if name is None:
        raise ValueError(
            f"'{path}' has the arrays {', '.join(arrays)}, but no wavelengths: give the file that "
            "has them with wavelength= (--wavelength), such as The Payne's apogee_wavelength.npz"
        )
    return np.asarray(arrays[name], dtype=np.float64).ravel()


def _read_wavelength(path: Path) -> NDArray[np.float64]:
    if not path.is_file():
        raise FileNotFoundError(f"no wavelengths at '{path}'")
    if path.suffix == ".npz":
        return _wavelength(_load(path), path, None)
    values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path)
    return np.asarray(values, dtype=np.float64).ravel()


def _rows(spectra: NDArray[Any], n_pix: int, name: str, path: Path) -> NDArray[Any]:
    """Return spectra as (n_spec, n_pix), whichever way round they are."""
    if spectra.ndim != 2 or n_pix not in spectra.shape:
        raise ValueError(f"'{path}': {name} has shape {spectra.shape}, but there are {n_pix} "
                         "wavelengths; expected (n_spec, n_pix)")
    return spectra if spectra.shape[1] == n_pix else spectra.T
