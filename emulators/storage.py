"""Emulators on disk: those that ship, those of a run, and adapters stored on their own.

An emulator is a folder with ``emulator.json`` and its weights.  Adapters are a folder with
``adapter.json`` and the tensors that tell a fine-tuned emulator from its base, whose hash
they name: they can be put on that base and on no other.  Bundles of astro-emulators-toolkit
are read as well (`emulators.bundles`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emulators import lora
from emulators.bundles import is_bundle, read_bundle
from emulators.emulator import FORMAT, FORMAT_VERSION, Emulator
from emulators.error_model import ErrorModel
from emulators.files import (
    read_description,
    read_tensors,
    remove_others,
    shipped_folder,
    write_json,
    write_tensors,
)
from emulators.labels import Domain, LabelSet
from emulators.networks import build
from emulators.parallel import check_device

ADAPTER_FORMAT = "stellarfit-adapter"


def load(
    name: str | Path, *, device: str | torch.device = "cpu", interpolate: bool = False,
    base: Emulator | str | Path | None = None, **told: Any,
) -> Emulator:
    """Load an emulator by the name of one that ships, or by its folder.

    The errors that were measured of it come along, but not with adapters, which have none.

    Parameters
    ----------
    name : str or Path
        One of :func:`available`, or the folder written by :meth:`Emulator.save`, or the
        folder of adapters that a run with ``mode="lora"`` leaves, or a bundle of
        astro-emulators-toolkit.
    device : str or torch.device
    interpolate : bool
        Let a network that knows only its training pixels interpolate between them.
    base : Emulator or name or path, optional
        What adapters are put on; by default the emulator that ships under the name they
        remember.
    **told
        What a bundle does not say of itself, as in `emulators.bundles.read_bundle`:
        `medium`, always; `names`, `scale`, `wavelength` or `channel`, where they are missing.

    Returns
    -------
    Emulator
        Its weights frozen.

    Raises
    ------
    FileNotFoundError
        When nothing of this name exists; the message lists what ships.
    ValueError
        For a device that is not here; when the folder is not an emulator, its weights are
        not those it was saved with, `base` is not the one that the adapters were trained on or
        there are none, or a bundle holds or lacks something that stands in the way.
    """
    check_device(device)
    folder = _folder_of(name)
    if told and _is_ours(folder):
        raise ValueError(f"'{folder}' is no bundle of astro-emulators-toolkit, and nothing else "
                         f"can be loaded with {', '.join(f'{n}=' for n in told)}")
    if base is not None and not (folder / "adapter.json").is_file():
        raise ValueError(f"'{folder}' is a whole emulator: base= goes with adapters")
    if not _is_ours(folder):
        emulator = read_bundle(folder, **told)
    elif (folder / "adapter.json").is_file():
        emulator = _load_adapted(folder, base)
    else:
        state = read_description(folder / "emulator.json", FORMAT, FORMAT_VERSION)
        emulator = _restored(folder, state, read_tensors(folder, state.get("weights")))
        emulator.sha256 = state["weights"]["sha256"]
        if "errors" in state:
            emulator.errors = _errors(folder, read_tensors(folder, state["errors"]), emulator)
    if interpolate:
        emulator.network.interpolate = True  # type: ignore[assignment]
    return emulator.freeze().to(device)


def _restored(folder: Path, state: Mapping[str, Any], tensors: dict[str, Tensor]) -> Emulator:
    """Rebuild an emulator from its description and its tensors."""
    try:
        pixels = tensors.pop("pixels")
        labels = LabelSet.from_dict(state["labels"])
        network = build(state["network"]["kind"], len(labels), pixels,
                        **state["network"]["options"])
        network.load_state_dict(tensors)
        emulator = Emulator(
            network, labels, Domain.from_dict(state["domain"]), pixels.numpy(),
            state["wavelength"]["medium"], name=state["name"],
            provenance=state["provenance"], metrics=state["metrics"],
        )
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"'{folder}' does not hold a usable emulator: {error}") from error
    emulator.card = state.get("card", {})
    return emulator


def _errors(folder: Path, tensors: dict[str, Tensor], emulator: Emulator) -> ErrorModel:
    try:
        found = ErrorModel.from_tensors(tensors)
    except LookupError as error:
        raise ValueError(f"'{folder}' does not hold a usable error model: {error}") from error
    shapes = tuple(found.errors.shape), tuple(found.labels.shape)
    count, n_label, n_pix = len(found.errors), len(emulator.labels), len(emulator.pixels)
    if shapes != ((count, n_pix), (count, n_label)):
        raise ValueError(f"'{folder}' has errors and labels of shapes {shapes[0]} and {shapes[1]}, "
                         f"but {n_pix} pixels and {n_label} labels: measure the errors again")
    return found


def save_adapter(emulator: Emulator, adapters: lora.Lora, folder: Path) -> None:
    """Write what tells an emulator with adapters from the base it was trained from."""
    base = emulator.provenance["init"]
    tensors = lora.adapted(emulator.network)
    kept = emulator.network.state_dict()
    tensors |= {n: kept[n] for n, _ in emulator.network.named_buffers() if n in kept}
    tensors["pixels"] = torch.as_tensor(emulator.pixels)
    weights = write_tensors(folder, tensors)
    write_json(folder / "adapter.json", {
        "format": ADAPTER_FORMAT, "format_version": FORMAT_VERSION, "weights": weights,
        "base": {"name": base["name"], "sha256": base["sha256"]}, "lora": asdict(adapters),
        **emulator.describe(),
    })
    remove_others(folder, weights["file"])


def _load_adapted(folder: Path, base: Emulator | str | Path | None) -> Emulator:
    state = read_description(folder / "adapter.json", ADAPTER_FORMAT, FORMAT_VERSION)
    try:
        source = _base_of(folder, state["base"], base)
        emulator = _restored(folder, state, _adapted(folder, state, source))
        both = source.sha256 + state["weights"]["sha256"]
        emulator.sha256 = hashlib.sha256(both.encode()).hexdigest()
        return emulator
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"'{folder}' does not hold usable adapters: {error}") from error


def _base_of(
    folder: Path, wanted: Mapping[str, str], base: Emulator | str | Path | None
) -> Emulator:
    """Return what adapters in a folder go on, which must be what they were trained on."""
    if base is None:
        if wanted["name"] not in available():
            raise ValueError(
                f"'{folder}' adapts '{wanted['name']}@{wanted['sha256'][:12]}', which does not "
                f"ship: say where it is with base="
            )
        base = wanted["name"]
    source = base if isinstance(base, Emulator) else load(base)
    if source.sha256 != wanted["sha256"]:
        raise ValueError(
            f"'{folder}' adapts '{wanted['name']}@{wanted['sha256'][:12]}', not "
            f"'{source.identity}': say where it is with base="
        )
    return source


def _adapted(folder: Path, state: Mapping[str, Any], source: Emulator) -> dict[str, Tensor]:
    """Return the tensors of an emulator with the adapters in a folder merged."""
    tensors = read_tensors(folder, state.get("weights"))
    pixels = tensors.pop("pixels")
    network = build(state["network"]["kind"], len(state["labels"]["names"]), pixels,
                    **state["network"]["options"])
    own = {n: t for n, t in tensors.items() if n in dict(network.named_buffers())}
    shapes = {n: t.shape for n, t in network.state_dict().items()}
    # Where the labels are others than the base's, the adapters bring what takes them in.
    shared = {n: t for n, t in source.network.state_dict().items() if t.shape == shapes.get(n)}
    network.load_state_dict({**network.state_dict(), **shared, **own})
    lora.apply(network, lora.Lora(**state["lora"]),
               {n: t for n, t in tensors.items() if n not in own})
    return {**network.state_dict(), "pixels": pixels}


def shipped() -> Path:
    """Return the folder of the emulators that come with the package."""
    return shipped_folder("emulators")


def available() -> list[str]:
    """Return the names of the emulators that come with the package."""
    return sorted(p.parent.name for p in shipped().glob("*/emulator.json"))


def _is_ours(folder: Path) -> bool:
    return any((folder / f).is_file() for f in ("emulator.json", "adapter.json"))


def _folder_of(name: str | Path) -> Path:
    for folder in (Path(name), shipped() / name):
        if _is_ours(folder) or is_bundle(folder):
            return folder
    raise FileNotFoundError(
        f"no emulator '{name}': neither a folder with an emulator.json nor one that ships "
        f"({', '.join(available()) or 'none'})"
    )
