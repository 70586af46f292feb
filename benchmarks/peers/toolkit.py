"""astro-emulators-toolkit 0.1.0, run by the interpreter of its own environment.

``python toolkit.py write FOLDER < SPEC``: write a released bundle with random weights.
``python toolkit.py serve FOLDER``: answer requests for the spectra of a bundle (`serving`).
``python toolkit.py train FOLDER``: the same for steps of training, whose answer is the loss.
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
import jax.numpy as jnp
import numpy as np
import optax
from astro_emulators_toolkit import Emulator
from astro_emulators_toolkit.bundle import prepare_bundle_release
from astro_emulators_toolkit.presets import transformer_payne_intensity
from flax import nnx
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


def train_with(emulator: Emulator) -> Any:
    """Return what makes a function of work: one step towards a flux of 1, jitted as it does.

    Wavelengths are (n_spec, n_pix), each star's own.
    """
    optimiser = optax.chain(optax.clip_by_global_norm(1.0),
                            optax.adamw(2e-3, b1=0.9, b2=0.98, weight_decay=0.01))
    model_state = emulator.model_state

    def prepare(labels: Any, log_wavelength: Any) -> Any:
        inputs = {"parameters": jnp.asarray(labels), "wavelengths": jnp.asarray(log_wavelength)}

        def loss(params: Any) -> Any:
            network = nnx.call((emulator.graphdef, nnx.merge_state(params, model_state)))
            flux = network(inputs, train=True, rngs=nnx.Rngs(dropout=0))[0]["flux"]
            return jnp.mean((flux - 1.0) ** 2)

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimiser.update(gradient, state, params)
            return value, optax.apply_updates(params, updates), state

        now = [emulator.params, optimiser.init(emulator.params)]

        def advance() -> Any:
            value, *now[:] = step(*now)
            return jax.block_until_ready((value, now))[0]

        return advance

    return prepare


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2]).resolve()
    if task == "write":
        write(where, json.load(sys.stdin))
    else:
        import astro_emulators_toolkit

        prepare = {"serve": prepare_with, "train": train_with}[task]
        serve(prepare(Emulator.from_bundle(where)),
              {"astro-emulators-toolkit": astro_emulators_toolkit.__version__,
               "jax": jax.__version__})
