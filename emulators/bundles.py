"""Bundles of astro-emulators-toolkit, read as emulators of ours with the same weights.

Różański's toolkit (https://github.com/RozanskiT/astro-emulators-toolkit, version 0.1.0) writes
an emulator as a folder:

===============================  ==========================================================
``bundle_integrity.json``        the SHA-256 of every other file
``metadata.json``                the network's settings; names, units and scales of what goes
                                 in and comes out, as far as its author gave them
``weights/weights.safetensors``  the weights, ``params/params/core_model/...``
``extras/*.safetensors``         arrays that its author added, such as the training pixels
===============================  ==========================================================

Its network ``transformer_payne`` is our transformer with pre-norm residuals.  Where its formulas
differ from ours, the difference goes into the weights, exactly:

======================  =====================================  ============================
what                    theirs                                 absorbed by
======================  =====================================  ============================
scaled labels           (label - low) / (high - low)           first layer of the labels
tokens                  times alpha_emb before their norm      second layer of the labels
attention               softmax(alpha_att q k / d_h)           keys
increments              times L_ref / L, L blocks              output and down projections
wavelength              sin(2π x / P), x = log10(λ) scaled     periods and phase in ln(λ);
                                                               cosines have weight zero
flux                    low + y (high - low)                   last layer of the head
======================  =====================================  ============================
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from emulators.emulator import Emulator
from emulators.labels import Domain, LabelSet, unknown_names
from emulators.networks.transformer import Transformer

MANIFEST, METADATA = "bundle_integrity.json", "metadata.json"
WEIGHTS = "weights/weights.safetensors"
VERSIONS = {"bundle_format_version": 1, "weights_layout": "params_plus_model_state_v1"}
#: settings that our transformer has no counterpart for, unless they are these
NEEDED = {"activation": "gelu", "output_activation": "linear", "bias_attention": False}
#: what is left of "log10 of Angstrom" without case, blanks and signs
LOG_ANGSTROM = ("log10angstrom", "log10angstroms", "log10aa", "log10a", "dexangstrom")


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle, perhaps an incomplete one."""
    return any((folder / name).is_file() for name in (MANIFEST, METADATA))


def read_bundle(
    folder: Path, *, names: Sequence[str] | None = None,
    scale: tuple[ArrayLike, ArrayLike] | None = None, medium: str | None = None,
    wavelength: ArrayLike | None = None, channel: str | tuple[str, str] | None = None,
) -> Emulator:
    """Read a bundle of astro-emulators-toolkit 0.1.0 that holds a ``transformer_payne``.

    Parameters
    ----------
    folder : Path
    names : sequence of str, optional
        Our names of the labels, in the order of the network's inputs; by default those that the
        bundle gives, under our names where their meaning is beyond doubt.
    scale : (low, high), optional
        Values of the labels, (n_label,) each, that the network sees as 0 and 1; by default the
        bundle's ``reference_scaling_inputs``.
    medium : {'air', 'vacuum'}
        Of the wavelengths; a bundle has no place for it.
    wavelength : (n_pix,) array, optional
        Training pixels, Angstrom; by default the bundle's extra ``wavelength_angstrom``.  Those
        outside the bundle's domain are left out.
    channel : str or (str, str), optional
        Which of several outputs is the normalised flux; or two that are log10 of a spectrum and
        of its continuum, whose ratio is.

    Returns
    -------
    Emulator
        In float32.  Its domain is the box of the bundle's ``input_domain``, or else of the
        scale.

    Raises
    ------
    ValueError
        When a file is missing or damaged, the bundle holds something that our transformer
        cannot express, or neither it nor the caller says what is needed.
    """
    try:
        files = _verified(folder)
        metadata = json.loads(files[METADATA])
        settings = _settings(metadata)
        old = {n.removeprefix("params/params/core_model/"): t.double()
               for n, t in _tensors(files, WEIGHTS).items()}
        labels = _labels(metadata, names, scale, len(old["param_embedding/w0"]))
        pixels = _pixels(metadata, files, wavelength)
        if medium not in ("air", "vacuum"):
            raise ValueError("it does not say whether its wavelengths are in air or in vacuum: "
                             "give emulators.load medium='air' or 'vacuum', not "
                             f"{medium!r}")
        mix, offset, output = _flux(metadata, settings["channels"], channel)
        network = _network(settings, len(labels), pixels, _wavelength_scale(metadata), output)
        state = _state(old, settings, mix, offset)
        network.load_state_dict({n: t.float() for n, t in state.items()})
        domain = Domain.box(*(_limits(metadata, "parameter", "input_domain", len(labels))
                              or (labels.low, labels.high)))
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"'{folder}': its settings and weights do not make a network of "
                         f"astro-emulators-toolkit 0.1.0: {error}") from error
    except ValueError as error:
        raise ValueError(f"'{folder}': {error}") from error
    release = metadata.get("release") or {}
    emulator = Emulator(
        network, labels, domain, pixels, medium, name=release.get("name") or folder.name,
        provenance={"bundle": {
            "of": "astro-emulators-toolkit", "release": release,
            "id": json.loads(files[MANIFEST])["bundle_id"],
            "version": (metadata.get("provenance") or {}).get("toolkit_version"),
        }},
    )
    # Of all that makes the fluxes what they are: the files, and what the caller chose.
    chosen = json.dumps([channel, labels.to_dict(), pixels.tolist()]).encode()
    emulator.sha256 = hashlib.sha256(files[MANIFEST] + chosen).hexdigest()
    return emulator


def _verified(folder: Path) -> dict[str, bytes]:
    """Return the files of a bundle that have the hash in its manifest, by their path in it."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{MANIFEST} is missing, without which nothing tells whether the other "
                         "files are whole: fetch the bundle again")
    files = {MANIFEST: (folder / MANIFEST).read_bytes()}
    manifest = json.loads(files[MANIFEST])
    if (form := (manifest["integrity_format_version"], manifest["algorithm"])) != (1, "sha256"):
        raise ValueError(f"its manifest is of version {form[0]} and {form[1]}, expected 1 and "
                         "sha256")
    if "bundle_id" not in manifest:
        raise ValueError("its manifest has no bundle_id: fetch the bundle again")
    for entry in manifest["tree"]:
        path = Path(entry["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"its manifest names '{path}', which must lie in the folder itself")
        if not (folder / path).is_file():
            raise ValueError(f"{path} is missing: fetch the bundle again")
        content = (folder / path).read_bytes()
        if entry["path"] == METADATA:  # hashed in this form, whatever its blanks
            content = json.dumps(json.loads(content), indent=2, sort_keys=True).encode()
        if (found := hashlib.sha256(content).hexdigest()) != entry["sha256"]:
            raise ValueError(f"{path} is damaged: its SHA-256 is {found[:12]}..., but the manifest "
                             f"has {entry['sha256'][:12]}...; fetch the bundle again")
        files[entry["path"]] = content
    if unlisted := [name for name in (METADATA, WEIGHTS) if name not in files]:
        raise ValueError(f"its manifest lists no {unlisted[0]}: fetch the bundle again")
    return files


def _tensors(files: Mapping[str, bytes], path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(files[path]))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network, or say which of them we cannot express."""
    for name, expected in VERSIONS.items():
        if metadata.get(name) != expected:
            raise ValueError(f"its {name} is {metadata.get(name)!r}, expected {expected!r}")
    model = metadata["resolved"]["model"]
    if model["name"] != "transformer_payne":
        raise ValueError(f"it holds a network of kind {model['name']!r}; only transformer_payne "
                         "can be read")
    settings: dict[str, Any] = model["params"]
    for name, needed in NEEDED.items():
        if str(settings[name]).lower() != str(needed).lower():
            raise ValueError(f"its network has {name}={settings[name]!r}; only {needed!r} can be "
                             "read")
    return settings


def _path(metadata: Mapping[str, Any], leaf: str) -> list[str]:
    """Return where a leaf, ``parameter``, ``wavelength`` or ``output``, stands in the spec."""
    path: str = metadata["runtime_contract"]["role_paths"][f"{leaf}_leaf"]
    return path.split("/")


def _in_spec(metadata: Mapping[str, Any], *path: str) -> Any:
    found = metadata["spec"]
    for key in path:
        if (found := found.get(key)) is None:
            return None
    return found


def _said(metadata: Mapping[str, Any], leaf: str, tree: str) -> Any:
    """Return a leaf's names or units, None where the author gave none."""
    section, *rest = _path(metadata, leaf)
    return _in_spec(metadata, section, tree, *rest)


def _limits(
    metadata: Mapping[str, Any], leaf: str, block: str, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the lower and upper limits, (size,), that a block of the spec has for a leaf."""
    _, *rest = _path(metadata, leaf)
    found = [_in_spec(metadata, block, tree, *rest) for tree in ("min_tree", "max_tree")]
    if None in found:
        return None
    low, high = (np.broadcast_to(np.ravel(np.asarray(x, dtype=float)), size) for x in found)
    return low, high


def _labels(
    metadata: Mapping[str, Any], names: Sequence[str] | None,
    scale: tuple[ArrayLike, ArrayLike] | None, n_label: int,
) -> LabelSet:
    from emulators.conversion.labels import known_label, unit_of

    theirs = _said(metadata, "parameter", "channel_names_tree")
    if names is None and not theirs:
        raise ValueError(f"it does not name its {n_label} labels: give names=[...], in the order "
                         "of its inputs")
    if names is None:
        names = [known_label(n) or re.sub(r"\W+", "_", n.lower()).strip("_") for n in theirs]
    limits = scale or _limits(metadata, "parameter", "reference_scaling_inputs", n_label)
    if limits is None:
        raise ValueError("it does not say how its labels are scaled: give scale=(low, high), the "
                         f"values of the {n_label} labels that its network sees as 0 and 1")
    low, high = (np.asarray(limit, dtype=float).tolist() for limit in limits)
    if not len(names) == len(low) == len(high) == n_label:
        raise ValueError(f"its network takes {n_label} labels, but there are {len(names)} names "
                         f"and {len(low)} and {len(high)} limits of the scale")
    units = _said(metadata, "parameter", "channel_units_tree") or map(unit_of, names)
    return LabelSet(tuple(names), tuple(units), tuple(low), tuple(high))


def _wavelength_scale(metadata: Mapping[str, Any]) -> tuple[float, float]:
    """Return the values of log10(wavelength) that the network sees as 0 and 1."""
    unit = _said(metadata, "wavelength", "leaf_units_tree")
    if unit and re.sub(r"[\W_]", "", unit.lower()) not in LOG_ANGSTROM:
        raise ValueError(f"its wavelengths are in {unit!r}; only log10(Angstrom) can be read")
    limits = _limits(metadata, "wavelength", "reference_scaling_inputs", 1)
    low, high = (float(x[0]) for x in limits) if limits else (0.0, 1.0)
    if high > 10.0:
        raise ValueError(f"its wavelengths are scaled by {low:g} to {high:g}, which is no "
                         "log10(Angstrom), and nothing else can be read")
    return low, high


def _pixels(
    metadata: Mapping[str, Any], files: Mapping[str, bytes], wavelength: ArrayLike | None
) -> NDArray[np.float64]:
    if wavelength is None:
        wavelength = (metadata.get("extras") or {}).get("wavelength_angstrom")
        if isinstance(wavelength, dict):
            wavelength = _tensors(files, wavelength["__aet_sidecar__"]["path"])["value"].numpy()
    if wavelength is None:
        raise ValueError("it has no extra 'wavelength_angstrom': give wavelength=, the pixels "
                         "that it was trained on, in Angstrom")
    pixels = np.asarray(wavelength, dtype=np.float64)
    if pixels.ndim != 1 or len(pixels) < 2 or pixels[0] <= 0 or not (np.diff(pixels) > 0).all():
        raise ValueError("its pixels must be increasing wavelengths in Angstrom, (n_pix,), got "
                         f"shape {pixels.shape}")
    if limits := _limits(metadata, "wavelength", "input_domain", 1):
        low, high = float(limits[0][0]), float(limits[1][0])
        log_pixels, rounding = np.log10(pixels), 1e-9
        pixels = pixels[(log_pixels > low - rounding) & (log_pixels < high + rounding)]
        if len(pixels) < 2:
            raise ValueError(f"its domain, {low:g} to {high:g}, should be in log10(Angstrom), but "
                             f"its pixels run from {log_pixels[0]:.4f} to {log_pixels[-1]:.4f}")
    return pixels


def _flux(
    metadata: Mapping[str, Any], n_channel: int, channel: str | tuple[str, str] | None
) -> tuple[Tensor, float, str]:
    """Return how channels make what our head gives: ``y @ mix + offset``, and what that is."""
    names = _said(metadata, "output", "channel_names_tree") or ["flux"]
    if channel is None and n_channel > 1:
        raise ValueError(f"its network gives {' and '.join(names)}: say with channel= which is "
                         "the normalised flux, or with channel=(line, continuum) which are the "
                         "log10 of a spectrum and of its continuum")
    chosen = [channel] if isinstance(channel, str) else list(channel or names)
    if wrong := [c for c in chosen if c not in names]:
        raise unknown_names(wrong, names, what="channel")
    low, high = (torch.tensor(limit) for limit in _limits(
        metadata, "output", "reference_scaling_outputs", n_channel
    ) or (np.zeros(n_channel), np.ones(n_channel)))
    parts = torch.zeros(n_channel, dtype=torch.float64)
    for name, sign in zip(chosen, (-1.0, 1.0), strict=False):
        parts[names.index(name)] += sign
    output, continuum = ("depth", 1.0) if len(chosen) == 1 else ("log_depth", 0.0)
    return parts * (high - low), continuum + float(parts @ low), output


def _network(
    settings: Mapping[str, Any], n_label: int, pixels: NDArray[np.float64],
    scale: tuple[float, float], output: str,
) -> Transformer:
    dim, unit = settings["dim"], math.log(10.0) * (scale[1] - scale[0])
    return Transformer(
        n_label, torch.as_tensor(pixels), dim=dim, layers=settings["no_layers"],
        heads=dim // settings["dim_head"], tokens=settings["no_tokens"], hidden=dim,
        feedforward=settings["dim_ff_multiplier"], head=dim,
        periods=(unit * settings["min_period"], unit * settings["max_period"]), n_period=dim,
        reference=10.0 ** scale[0], residual="prenorm", output=output,
    )


def _state(
    old: Mapping[str, Tensor], settings: Mapping[str, Any], mix: Tensor, offset: float
) -> dict[str, Tensor]:
    """Return the weights of our transformer, float64, from those of theirs."""
    dim, layers = settings["dim"], settings["no_layers"]
    step = (settings["reference_depth"] or layers) / layers
    keys = settings["alpha_att"] / math.sqrt(settings["dim_head"])

    def weight(name: str) -> Tensor:
        return old[name].T

    def bias(name: str, like: Tensor) -> Tensor:
        return old.get(name, like.new_zeros(len(like)))

    first, second = weight("param_embedding/w0"), weight("param_embedding/w1")
    inner, last = weight("head/proj0/w"), weight("head/proj1/w")
    new = {
        "embed_wavelength.weight": torch.cat([torch.eye(dim), torch.zeros(dim, dim)], dim=1),
        "embed_wavelength.bias": torch.zeros(dim), "final_norm.weight": torch.ones(dim),
        "embed_labels.0.weight": first / 2,
        "embed_labels.0.bias": bias("param_embedding/b0", first) + first.sum(dim=1) / 2,
        "embed_labels.2.weight": settings["alpha_emb"] * second,
        "embed_labels.2.bias": settings["alpha_emb"] * bias("param_embedding/b1", second),
        "embed_labels.4.weight": torch.ones(dim),
        "head.0.weight": inner, "head.0.bias": bias("head/proj0/b", inner),
        "head.2.weight": (mix @ last).unsqueeze(0),
        "head.2.bias": (mix @ bias("head/proj1/b", last) + offset).unsqueeze(0),
    }
    for i in range(layers):
        q, k, v, o = (old[f"attn_layers/{i}/w{x}"] for x in "qkvo")
        if q.shape[-1] != settings["dim_head"]:
            raise ValueError(f"its attention heads are {q.shape[-1]} wide, but its settings say "
                             f"{settings['dim_head']}: fetch the bundle again")
        up, down = (weight(f"ff_layers/{i}/{x}_proj/w") for x in ("in", "out"))
        block = {
            "query.weight": q.flatten(1).T, "key.weight": keys * k.flatten(1).T,
            "value.weight": v.flatten(1).T, "output.weight": step * o.flatten(0, 1).T,
            "up.weight": up, "up.bias": bias(f"ff_layers/{i}/in_proj/b", up),
            "down.weight": step * down,
            "down.bias": step * bias(f"ff_layers/{i}/out_proj/b", down),
            "attention_norm.weight": torch.ones(dim), "feedforward_norm.weight": torch.ones(dim),
        }
        new |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    return new
