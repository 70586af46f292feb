"""Emulators on disk: what goes with the weights, and where names lead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emulators import Emulator, Grid, available, card, load, measure_errors
from emulators.error_model import ErrorModel


def test_card_and_errors_travel_with_the_emulator(
    emulator: Emulator, grid: Grid, tmp_path: Path
) -> None:
    emulator.card, emulator.errors = card(emulator, grid), measure_errors(emulator, grid)
    again = load(emulator.save(tmp_path))
    assert again.card == json.loads(json.dumps(emulator.card))
    assert again.errors is not None
    assert again.errors.errors.shape == (12, 200)
    assert torch.equal(again.errors.labels, torch.as_tensor(grid.labels[4::5]))
    flux = again(torch.as_tensor(grid.labels), grid.wavelength)
    assert torch.equal(flux, emulator.freeze()(torch.as_tensor(grid.labels), grid.wavelength))


def test_measuring_errors_leaves_the_identity_of_the_weights(
    emulator: Emulator, grid: Grid, tmp_path: Path
) -> None:
    plain = load(emulator.save(tmp_path / "plain"))
    emulator.errors = measure_errors(emulator, grid)
    assert load(emulator.save(tmp_path / "measured")).sha256 == plain.sha256
    # without them again, nothing of them is left
    plain.save(tmp_path / "measured")
    assert load(tmp_path / "measured").errors is None
    assert not list((tmp_path / "measured").glob("errors-*"))


def test_errors_with_a_changed_byte_are_refused(
    emulator: Emulator, grid: Grid, tmp_path: Path
) -> None:
    emulator.errors = measure_errors(emulator, grid)
    file, = emulator.save(tmp_path).glob("errors-*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"errors-.* is damaged"):
        load(tmp_path)


def test_what_ships_descends_from_what_ships() -> None:
    def ancestors(name: str) -> list[str]:
        found, init = [], load(name).provenance.get("init")
        while init:
            found.append(init["sha256"])
            init = init["provenance"].get("init")
        return found

    assert load("mgb-base").sha256 in ancestors("mgb-fgk")
    assert ancestors("halpha-fgk")[0] == load("mgb-fgk").sha256


def test_saving_again_leaves_one_file_of_weights(emulator: Emulator, tmp_path: Path) -> None:
    first = {p.name for p in emulator.save(tmp_path).iterdir()}
    with torch.no_grad():
        next(emulator.network.parameters()).add_(1.0)
    second = {p.name for p in emulator.save(tmp_path).iterdir()}
    assert len(first) == len(second) == 2
    assert first & second == {"emulator.json"}


def test_a_folder_comes_before_what_ships_under_its_name(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.save(tmp_path / "ships" / "small")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("emulators.storage.shipped", lambda: tmp_path / "ships")
    assert available() == ["small"]
    assert load("small").name == "small"
    emulator.name = "mine"
    emulator.save("small")
    assert load("small").name == "mine"


def test_a_loaded_emulator_asks_for_no_gradients(emulator: Emulator, tmp_path: Path) -> None:
    again = load(emulator.save(tmp_path))
    assert not any(p.requires_grad for p in again.network.parameters())
    assert not again.network.training


def test_errors_of_other_pixels_are_refused(
    emulator: Emulator, grid: Grid, tmp_path: Path
) -> None:
    found = measure_errors(emulator, grid)
    emulator.errors = ErrorModel(found.errors[:, :30], found.labels)
    emulator.save(tmp_path)
    with pytest.raises(ValueError, match=r"shapes \(12, 30\) and \(12, 4\), but 200 pixels"):
        load(tmp_path)


def test_a_whole_emulator_needs_no_base(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a whole emulator: base= goes with adapters"):
        load(emulator.save(tmp_path), base=emulator)
