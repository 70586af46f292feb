"""astro-emulators-toolkit 0.1.0, run by the interpreter of its own environment.

``python toolkit.py write FOLDER < SPEC``: write a released bundle with random weights.
``python toolkit.py serve FOLDER``: answer requests for the spectra of a bundle (`serving`).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.update(JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
import jax
import numpy as np
from astro_emulators_toolkit import Emulator
from astro_emulators_toolkit.bundle import prepare_bundle_release
from astro_emulators_toolkit.presets import transformer_payne_intensity
from serving import serve


def write(folder: Path, spec: dict[str, Any]) -> None:
    """Write a bundle with the ``params`` of a network, its ``names``, ``low`` and ``high``.

    The release stores the outputs for one star, at the labels ``at`` scaled to [0, 1] and the
    ``pixels``, Angstrom.  ``noise`` is added to every weight, so that no bias is zero.
    """
    platform.platform = platform.system  # a bundle for others tells nothing of where it was made
    names, pixels = spec["names"], np.asarray(spec["pixels"])
    config = transformer_payne_intensity(channels=spec["params"].get("channels", 1),
                                         init_hints={"parameter_dim": len(names)})
    config = config.with_updates(
        model=replace(config.model, params={**config.model.params, **spec["params"]}),
        io=replace(config.io, outputs=None))
    emulator = Emulator.from_config(config)
    rng = np.random.default_rng(0)
    emulator.params = jax.tree.map(
        lambda w: w + spec.get("noise", 0.0) * rng.standard_normal(w.shape).astype(w.dtype),
        emulator.params)
    log_pixels = np.log10(pixels)
    box = {f"{end}_tree": {"parameters": spec[key], "wavelengths": float(log_pixels[i])}
           for end, key, i in (("min", "low", 0), ("max", "high", -1))}
    scales = {f"{end}_tree": {**box[f"{end}_tree"], "wavelengths": x}
              for end, x in (("min", spec.get("zero", 0.0)), ("max", spec.get("one", 1.0)))}
    channels = spec.get("channels")
    description: dict[str, Any] = {
        "inputs": {"structure_tree": {"parameters": None, "wavelengths": None},
                   "channel_names_tree": {"parameters": names, "wavelengths": None},
                   "leaf_units_tree": {"parameters": None, "wavelengths": "log10(Angstrom)"}},
        "outputs": {"structure_tree": {"flux": None}, "channel_names_tree": {"flux": channels}},
        "reference_scaling_inputs": scales, "input_domain": box,
    }
    if "flux" in spec:
        description["reference_scaling_outputs"] = {
            f"{end}_tree": {"flux": limit}
            for end, limit in zip(("min", "max"), spec["flux"], strict=True)}
    scaled = (log_pixels - scales["min_tree"]["wavelengths"]) / (
        scales["max_tree"]["wavelengths"] - scales["min_tree"]["wavelengths"])
    with tempfile.TemporaryDirectory() as draft:
        os.chdir(draft)
        emulator.save_bundle(draft, spec=description, extras={"wavelength_angstrom": pixels})
        prepare_bundle_release(
            draft, path=folder, release_name=spec["name"], release_version="1",
            fingerprint_inputs={"parameters": np.asarray([spec["at"]], dtype=np.float32),
                                "wavelengths": scaled[None]})


def prepare_with(emulator: Emulator) -> Any:
    """Return what makes a function of work: all spectra at once, jitted."""
    apply = emulator.make_frozen_apply(jit=True)

    def prepare(labels: Any, log_wavelength: Any) -> Any:
        inputs = {"parameters": jax.numpy.asarray(labels),
                  "wavelengths": jax.numpy.tile(log_wavelength, (len(labels), 1))}
        return lambda: apply(inputs)["flux"].block_until_ready()

    return prepare


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2]).resolve()
    if task == "write":
        write(where, json.load(sys.stdin))
    else:
        import astro_emulators_toolkit

        serve(prepare_with(Emulator.from_bundle(where)),
              {"astro-emulators-toolkit": astro_emulators_toolkit.__version__,
               "jax": jax.__version__})
