"""Emulators: how they are asked, and that a folder is whole or refused."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import emulators
from emulators import DomainWarning, Emulator, Grid, available, load

SUN = {"teff": 5772.0, "logg": 4.44, "fe_h": 0.0}
HOT = {"teff": 9000.0, "logg": 4.44, "fe_h": 0.0}
PACKAGES = [Path(emulators.__file__).parent, Path(emulators.__file__).parents[1] / "stellarfit"]


@pytest.fixture
def at(emulator: Emulator) -> np.ndarray:
    return np.linspace(*emulator.wavelength_range, 77)


@pytest.fixture
def folder(emulator: Emulator, tmp_path: Path) -> Path:
    emulator.provenance, emulator.metrics = {"seed": 3}, {"mae": 0.01}
    return emulator.save(tmp_path / "saved")


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of torch's own modules
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_a_compiled_copy_gives_the_same_flux(emulator: Emulator, at: np.ndarray) -> None:
    np.testing.assert_allclose(emulator.freeze().compiled()(SUN, at), emulator(SUN, at), atol=1e-5)


def test_names_and_vectors_ask_for_the_same_star(emulator: Emulator, at: np.ndarray) -> None:
    named = emulator({**SUN, "mg_fe": 0.2}, at)
    vector = emulator(torch.tensor([5772.0, 4.44, 0.0, 0.2], dtype=torch.float64), at)
    assert named.shape == (77,)
    assert torch.equal(named, vector)


def test_stars_may_have_any_batch_shape(emulator: Emulator, at: np.ndarray) -> None:
    teff = torch.linspace(5000, 6000, 6).reshape(2, 3)
    flux = emulator({**SUN, "teff": teff}, at)
    assert flux.shape == (2, 3, 77)
    torch.testing.assert_close(flux[1, 2], emulator({**SUN, "teff": 6000.0}, at))


def test_no_stars_have_no_fluxes(emulator: Emulator, at: np.ndarray) -> None:
    assert emulator(torch.empty(0, 4), at).shape == (0, len(at))


def test_flux_is_differentiable_in_the_wavelength(emulator: Emulator, at: np.ndarray) -> None:
    wavelength = torch.tensor(at, requires_grad=True)
    emulator(SUN, wavelength).sum().backward()
    assert wavelength.grad is not None
    assert wavelength.grad.abs().min() > 0


def test_flux_is_differentiable_in_named_labels(emulator: Emulator, at: np.ndarray) -> None:
    iron = torch.tensor(-0.2, dtype=torch.float64, requires_grad=True)
    emulator.to(torch.float64)
    emulator({**SUN, "fe_h": iron}, at).sum().backward()
    step = 1e-6
    up, down = (emulator({**SUN, "fe_h": -0.2 + s}, at).sum() for s in (step, -step))
    assert float(iron.grad) == pytest.approx(float((up - down).detach()) / (2 * step), rel=1e-6)


def test_an_unknown_label_lists_the_valid_ones(emulator: Emulator, at: np.ndarray) -> None:
    with pytest.raises(ValueError, match="unknown label 'ca_h'") as caught:
        emulator({**SUN, "ca_h": 0.1}, at)
    assert all(n in str(caught.value) for n in ("teff", "logg", "fe_h", "mg_h", "mg_fe"))


def test_labels_of_another_length_are_refused(emulator: Emulator, at: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\); 'small' expects \(..., 4\)"):
        emulator(torch.zeros(3), at)


def test_outside_the_domain_it_raises_and_says_why(emulator: Emulator, at: np.ndarray) -> None:
    with pytest.raises(ValueError, match="teff = 9000, but teff must be at most 6500"):
        emulator(HOT, at)
    with pytest.raises(ValueError, match=r"- fe_h \+ mg_h must be at most 0.41"):
        emulator({**SUN, "mg_fe": 0.6}, at)


def test_outside_the_domain_it_can_warn(emulator: Emulator, at: np.ndarray) -> None:
    with pytest.warns(DomainWarning, match="1 of 1 label vectors lie outside"):
        flux = emulator(HOT, at, outside="warn")
    assert flux.shape == (77,)


def test_outside_the_domain_it_can_flag(emulator: Emulator, at: np.ndarray) -> None:
    flux, inside = emulator({**SUN, "teff": np.array([5772.0, 9000.0])}, at, outside="flag")
    assert flux.shape == (2, 77)
    assert inside.tolist() == [True, False]


def test_an_unknown_way_to_treat_outsiders_lists_the_valid_ones(
    emulator: Emulator, at: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="unknown outside='clip'; valid: raise, warn, flag"):
        emulator(SUN, at, outside="clip")  # type: ignore[call-overload]


@pytest.mark.parametrize("shift", [-30.0, 30.0, np.nan])
def test_wavelengths_outside_its_range_are_refused(
    emulator: Emulator, at: np.ndarray, shift: float
) -> None:
    with pytest.raises(ValueError, match=r"'small' covers 5160\.00-5180\.58 Å"):
        emulator(SUN, at + shift)


@pytest.mark.parametrize("shape", [(0,), (2, 5), ()])
def test_wavelengths_are_one_axis(emulator: Emulator, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wavelength must have shape \(n_pix,\)"):
        emulator(SUN, np.full(shape, 5170.0))


def test_a_saved_emulator_gives_identical_fluxes(
    emulator: Emulator, folder: Path, at: np.ndarray
) -> None:
    again = load(folder)
    assert torch.equal(again(SUN, at), emulator.freeze()(SUN, at))
    assert not again(SUN, at).requires_grad
    assert (again.name, again.medium, again.labels) == ("small", "air", emulator.labels)
    assert (again.provenance, again.metrics) == ({"seed": 3}, {"mae": 0.01})
    assert np.array_equal(again.pixels, emulator.pixels)
    assert np.array_equal(again.domain.A, emulator.domain.A)
    assert again.identity == emulator.identity == f"small@{again.sha256[:12]}"


def test_saving_what_was_loaded_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    again = load(folder).save(tmp_path / "again")
    for file in [p.name for p in folder.iterdir()]:
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_the_json_holds_the_hash_of_the_weights(folder: Path) -> None:
    state = json.loads((folder / "emulator.json").read_text())
    content = (folder / state["weights"]["file"]).read_bytes()
    assert state["weights"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert sorted(p.name.split("-")[0] for p in folder.iterdir()) == ["emulator.json", "weights"]


def test_the_weights_are_as_readable_as_the_json(folder: Path) -> None:
    modes = {p.stat().st_mode for p in folder.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_is_refused(folder: Path, place: int) -> None:
    weights = next(folder.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[place] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        load(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = next(folder.glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged"):
        load(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (next(folder.glob("weights-*"))).unlink()
    with pytest.raises(ValueError, match=r"weights-.*' is missing"):
        load(folder)


def test_weights_that_are_not_safetensors_are_refused_even_with_their_hash(folder: Path) -> None:
    (next(folder.glob("weights-*"))).write_bytes(b"\x80\x04pickled")
    digest = hashlib.sha256(b"\x80\x04pickled").hexdigest()
    _edit(folder, lambda state: state["weights"].update(sha256=digest))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("name", [
    "../weights.safetensors", "..", ".", "", "sub/weights.safetensors", "/etc/hostname", 7, None,
])
def test_weights_outside_the_folder_are_never_read(
    folder: Path, name: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit(folder, lambda state: state["weights"].update(file=name))
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    with pytest.raises(ValueError, match="must lie in the folder itself"):
        load(folder)
    assert read == []


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "emulator.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b'{"format": "x"}'])
def test_json_garbage_is_refused(folder: Path, content: bytes) -> None:
    (folder / "emulator.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not JSON|does not describe a stellarfit-emulator"):
        load(folder)


def test_a_later_format_is_refused(folder: Path) -> None:
    _edit(folder, lambda state: state.update(format_version=2))
    with pytest.raises(ValueError, match="format version 2, this release reads 1"):
        load(folder)


def _complaint(key: str) -> str:
    return "names no weights file" if key == "weights" else "does not hold a usable emulator"


@pytest.mark.parametrize("key", ["weights", "network", "labels", "domain", "wavelength"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}])
def test_a_description_with_a_spoilt_entry_is_refused(
    folder: Path, key: str, value: object
) -> None:
    _edit(folder, lambda state: state.update({key: value}))
    with pytest.raises(ValueError, match=_complaint(key)):
        load(folder)


@pytest.mark.parametrize("key", ["weights", "network", "labels", "domain", "name", "metrics"])
def test_a_description_that_lacks_an_entry_is_refused(folder: Path, key: str) -> None:
    _edit(folder, lambda state: state.pop(key))
    with pytest.raises(ValueError, match=_complaint(key)):
        load(folder)


def test_options_that_do_not_fit_the_weights_are_refused(folder: Path) -> None:
    _edit(folder, lambda state: state["network"]["options"].update(dim=32))
    with pytest.raises(ValueError, match="does not hold a usable emulator"):
        load(folder)


@pytest.fixture
def shipping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the saved emulator is the one that ships."""
    monkeypatch.setattr("emulators.storage.shipped", lambda: folder.parent)
    return folder


def test_what_ships_is_loaded_by_name(shipping: Path, at: np.ndarray) -> None:
    assert available() == ["saved"]
    assert torch.equal(load("saved")(SUN, at), load(shipping)(SUN, at))


def test_a_name_that_does_not_exist_lists_what_ships(shipping: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no emulator 'nope'.*one that ships \(saved\)"):
        load("nope")


def test_an_mlp_interpolates_only_when_loaded_to(
    grid: Grid, tmp_path: Path, at: np.ndarray
) -> None:
    from emulators.networks import build

    network = build("mlp", 4, torch.as_tensor(grid.wavelength), hidden=8)
    folder = Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air").save(tmp_path)
    with pytest.raises(ValueError, match="knows only its 200 training pixels"):
        load(folder)(SUN, at)
    assert load(folder, interpolate=True)(SUN, at).shape == (77,)


def _names_in(source: str) -> set[str]:
    tree = ast.parse(source)
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
        if isinstance(node, ast.Attribute | ast.Call):
            names.add(ast.unparse(node.func if isinstance(node, ast.Call) else node))
    return names


def test_nothing_in_the_packages_can_unpickle() -> None:
    files = [f for package in PACKAGES for f in package.rglob("*.py")]
    assert len(files) > 8
    for file in files:
        source = file.read_text()
        names = _names_in(source)
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve"}, file
        assert not names & {"torch.load", "torch.save", "eval", "exec"}, file
        assert "allow_pickle=True" not in source, file


def test_labels_may_be_plain_arrays(emulator: Emulator, at: np.ndarray) -> None:
    vector = emulator.labels.vector({"teff": 5772.0, "logg": 4.44, "fe_h": 0.0})
    torch.testing.assert_close(emulator(vector, at), emulator(SUN, at))
    torch.testing.assert_close(emulator(list(vector), at), emulator(SUN, at))


def test_a_change_of_precision_leaves_the_wavelengths_alone(
    emulator: Emulator, at: np.ndarray
) -> None:
    exact = emulator.freeze()(SUN, at)
    assert (emulator.to(torch.bfloat16)(SUN, at).float() - exact).abs().max() < 0.05
    for module in emulator.network.modules():
        assert all(b.dtype == torch.float64 for b in module.buffers())


def test_a_save_that_is_cut_short_leaves_the_old_pair_whole(
    emulator: Emulator, folder: Path, at: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(folder)(SUN, at)
    with torch.no_grad():
        next(emulator.network.parameters()).add_(1.0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emulators.emulator.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        emulator.save(folder)
    assert torch.equal(load(folder)(SUN, at), before)
