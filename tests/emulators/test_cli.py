"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner, Result

from emulators import Emulator, Grid, LabelSet, Recipe, evaluate, load
from emulators.cli import main
from emulators.metrics import DESCRIPTIONS

SMALL = ["--option", "dim=8", "--option", "heads=2", "--option", "layers=1",
         "--steps", "4", "--batch", "4", "--set", "pixels=20"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def folder(emulator: Emulator, tmp_path: Path) -> Path:
    return emulator.save(tmp_path / "ships" / "saved")


def test_train_writes_an_emulator(grid_path: Path, tmp_path: Path) -> None:
    result = run("train", grid_path, "-o", tmp_path / "run", "--seed", 4, "--set", "precision=bf16",
                 "--learning-rate", "1e-4", "--option", "periods=[1e-4, 0.01]", *SMALL)
    assert result.exit_code == 0, result.output
    emulator = load(tmp_path / "run" / "best")
    assert emulator.sha256[:12] in result.stdout
    assert DESCRIPTIONS["maxae"] in result.stdout
    recipe = emulator.provenance["recipe"]
    assert (recipe["seed"], recipe["steps"], recipe["precision"]) == (4, 4, "bf16")
    assert recipe["learning_rate"] == 1e-4
    assert emulator.network.config["periods"] == [1e-4, 0.01]
    assert emulator.network.config["dim"] == 8


def test_train_goes_on_only_when_told_to(grid_path: Path, tmp_path: Path) -> None:
    command = ["train", grid_path, "-o", tmp_path / "run", *SMALL]
    assert run(*command).exit_code == 0
    again = run(*command)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr.startswith(f"Error: '{tmp_path / 'run'}' holds a run already")
    assert run(*command, "--resume").exit_code == 0


def test_train_fine_tunes(grid_path: Path, folder: Path, tmp_path: Path) -> None:
    result = run("train", grid_path, "-o", tmp_path / "run", "--init", folder, "--steps", 2)
    assert result.exit_code == 0, result.output
    tuned = load(tmp_path / "run" / "best")
    assert tuned.provenance["init"]["sha256"] == load(folder).sha256


def test_train_adapts(grid_path: Path, folder: Path, tmp_path: Path) -> None:
    result = run("train", grid_path, "-o", tmp_path / "run", "--init", folder, "--mode", "lora",
                 "--lora", "rank=3", "--lora", 'targets=["query", "up"]', "--steps", 2,
                 "--batch", 4, "--set", "pixels=20")
    assert result.exit_code == 0, result.output
    assert "labels: 4 labels matched by name" in result.stdout
    lora = json.loads((tmp_path / "run" / "adapter" / "adapter.json").read_text())["lora"]
    assert (lora["rank"], lora["targets"]) == (3, ["query", "up"])
    flux = [load(path, **base)({"teff": 5000, "logg": 4, "fe_h": 0}, [5170.0]) for path, base in [
        (tmp_path / "run" / "adapter", {"base": folder}), (tmp_path / "run" / "best", {})]]
    assert flux[0] == flux[1]


def test_settings_lists_every_field_of_the_recipe_with_its_default() -> None:
    words = [line.split() for line in run("settings").stdout.splitlines()]
    assert [w[0] for w in words] == [f.name for f in dataclasses.fields(Recipe)]
    assert ["steps", "20000", "int"] in words
    assert ["precision", "'float32'", "str"] in words


def test_set_reaches_every_field_of_the_recipe(grid_path: Path, tmp_path: Path) -> None:
    given = {"accumulate": 2, "optimiser": "adamw", "matrix_rate": 0.02, "warmup": 1,
             "weight_decay": 0.0, "betas": [0.8, 0.9], "clip": 0.5, "ema": 0.5, "emphasis": 2.0,
             "patience": 3, "validate_every": 2, "checkpoint_every": 2}
    words = [w for k, v in given.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    result = run("train", grid_path, "-o", tmp_path / "run", *SMALL, *words)
    assert result.exit_code == 0, result.output
    recipe = load(tmp_path / "run" / "best").provenance["recipe"]
    assert {k: recipe[k] for k in given} == given


@pytest.mark.parametrize("word", ["steps=ten", "pixels=2.5", "betas=0.9", "learning_rate=fast"])
def test_a_setting_of_another_kind_is_one_line_that_names_it(
    grid_path: Path, tmp_path: Path, word: str
) -> None:
    result = run("train", grid_path, "-o", tmp_path / "run", "--set", word)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert word.split("=")[0] in result.stderr
    assert word.split("=")[1] in result.stderr


@pytest.mark.parametrize(("words", "sentence"), [
    (["--set", "grid=x"], "unknown setting 'grid'"),
    (["--set", "network=mlp"], "unknown setting 'network'"),
    (["--option", "dm=3"], "unknown option of transformer 'dm' (did you mean dim?); valid: dim, "),
    (["--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
])
def test_what_a_training_does_not_know_is_one_line(
    grid_path: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    result = run("train", grid_path, "-o", tmp_path / "run", *SMALL, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


def test_tensorboard_that_is_missing_is_one_line(
    grid_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = run("train", grid_path, "-o", tmp_path / "run", *SMALL, "--tensorboard")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: tensorboard=True needs TensorBoard: pip install")


def test_under_torchrun_only_the_first_process_speaks(
    grid_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, lines in (("0", 7), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        result = run("train", grid_path, "-o", tmp_path / rank, *SMALL)
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) == lines


@pytest.mark.parametrize("words", [
    ["--mode", "lora"], ["--network", "mlp"], ["--init", "base"], ["--steps", "3"],
    ["--set", "ema=0.9"], ["--lora", "rank=2"], ["--option", "dim=8"],
])
def test_a_config_file_suffers_no_settings_beside_it(tmp_path: Path, words: list[str]) -> None:
    result = run("train", tmp_path / "runs.toml", "-o", tmp_path, *words)
    assert result.exit_code == 2
    assert "a CONFIG file brings its own settings" in result.stderr


def test_train_scales_labels_with_another_grid(grid_path: Path, tmp_path: Path, write_grid) -> None:
    other = write_grid(seed=11)
    result = run("train", grid_path, "-o", tmp_path / "run", "--scale-with", other, *SMALL)
    assert result.exit_code == 0, result.output
    both = LabelSet.spanning(Grid(grid_path).label_set, Grid(other).label_set)
    assert load(tmp_path / "run" / "best").labels == both


def test_evaluate_prints_the_six_measures_in_words(folder: Path, grid_path: Path) -> None:
    result = run("evaluate", folder, grid_path)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head == f"{load(folder).identity} on 12 validation spectra of small.h5"
    assert [row.split()[0] for row in rows] == list(DESCRIPTIONS)
    assert all(row.endswith(DESCRIPTIONS[row.split()[0]]) for row in rows)
    assert "largest absolute error of a spectrum, mean over spectra" in result.stdout


@pytest.mark.parametrize(("split", "count"), [("validation", 12), ("train", 48)])
def test_evaluate_writes_json(folder: Path, grid_path: Path, split: str, count: int) -> None:
    result = run("evaluate", folder, grid_path, "--split", split, "--json")
    answer = json.loads(result.stdout)
    assert answer["metrics"] == evaluate(load(folder), Grid(grid_path), split=split)
    assert answer["sha256"] == load(folder).sha256
    assert (answer["split"], answer["n_spectra"], answer["grid"]) == (split, count, "small.h5")


def test_list_shows_what_ships(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulators.storage.shipped", lambda: folder.parent)
    sha256 = load(folder).sha256
    assert json.loads(run("list", "--json").stdout) == [{
        "name": "saved", "range": list(load(folder).wavelength_range), "medium": "air",
        "mae": None, "bytes": sum(f.stat().st_size for f in folder.iterdir()), "sha256": sha256,
    }]
    text = run("list").stdout
    assert text.startswith("saved ")
    assert "5160.0-5180.6 Å air" in text
    assert text.endswith(f"sha256 {sha256[:12]}  MAE unknown\n")


def test_a_bad_grid_or_emulator_is_one_line_and_exit_code_1(
    folder: Path, grid_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulators.storage.shipped", lambda: folder.parent)
    (tmp_path / "text.h5").write_text("no grid")
    for command, words in [
        (["evaluate", "nope", grid_path], "no emulator 'nope'"),
        (["evaluate", folder, tmp_path / "absent.h5"], "no grid at"),
        (["evaluate", folder, tmp_path / "text.h5"], "is not an HDF5 file"),
        (["train", grid_path, "-o", tmp_path / "r", "--option", "width=3"], "unknown option"),
        (["train", grid_path, "-o", tmp_path / "r", "--set", "step=3"], "did you mean steps?"),
        (["train", grid_path, "-o", tmp_path / "r", "--mode", "lora"], "say which with init="),
        (["train", grid_path, "-o", tmp_path / "r", "--init", folder, "--mode", "lora",
          "--lora", "ranks=3"], "unknown setting of lora 'ranks' (did you mean rank?)"),
        (["train", tmp_path / "absent.toml", "-o", tmp_path / "r"], "no configuration file"),
    ]:
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [
    ["train"], ["train", "grid.h5"], ["evaluate", "name"], ["cook"],
    ["train", "grid.h5", "-o", "run", "--steps", "0"],
    ["train", "grid.h5", "-o", "run", "--network", "forest"],
    ["train", "grid.h5", "-o", "run", "--option", "dim"],
    ["train", "grid.h5", "-o", "run", "--init", "base", "--option", "dim=8"],
    ["train", "grid.h5", "-o", "run", "--set", "precision"],
    ["train", "grid.h5", "-o", "run", "--pixels", "20"],  # of the past: now --set pixels=20
    ["train", "grid.h5", "-o", "run", "--init", "base", "--network", "mlp"],
    ["train", "grid.h5", "-o", "run", "--init", "base", "--mode", "half"],
    ["train", "grid.h5", "-o", "run", "--init", "base", "--lora", "rank=2"],
    ["train", "grid.h5", "-o", "run", "--only", "base"],
    ["train", "grid.h5", "-o", "run", "--grids", "elsewhere"],
    ["evaluate", "name", "grid.h5", "--split", "dev"],
])
def test_a_wrong_command_line_is_exit_code_2(command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "list", "settings"])
def test_help_gives_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    example = "train grid.h5 -o run --set" if command == "settings" else f"{command} "
    assert f"emulators {example}" in result.stdout.split("Example", 1)[1]


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys, emulators.cli; print('torch' in sys.modules, 'h5py' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                            check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_version_is_that_of_the_package() -> None:
    try:
        expected = version("stellarfit")
    except PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert run("--version").stdout == f"emulators, version {expected}\n"


def test_errors_are_measured_and_kept_with_the_emulator(folder: Path, grid_path: Path) -> None:
    before = load(folder)
    assert before.errors is None
    done = run("measure-errors", folder, grid_path, "--split", "train")
    assert done.exit_code == 0, done.output
    assert "errors of 48 spectra" in done.output
    after = load(folder)
    assert after.errors is not None
    assert after.sha256 == before.sha256


def test_errors_are_not_kept_with_adapters(grid_path: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.json").write_text("{}")
    said = run("measure-errors", tmp_path, grid_path)
    assert said.exit_code == 1
    assert "holds adapters, which keep no errors: give the folder of the whole" in said.stderr


def test_a_grid_of_counts_is_refused_before_anything_is_learnt(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_grid()
    with h5py.File(path, "a") as file:
        del file["flux"].attrs["scale"], file["flux"].attrs["offset"]
    said = run("train", path, "-o", tmp_path / "run")
    assert said.exit_code == 1
    assert "divide them by their continuum" in said.stderr
    assert not (tmp_path / "run").exists()
