"""Trainings written down: what a file may say, and that it does what Python would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from emulators import Emulator, Grid, LabelSet, Recipe, available, load, train
from emulators.cli import main
from emulators.config import Config
from emulators.storage import shipped

RECIPES = sorted((shipped().parent / "trainings").glob("*.toml"))
TWO = """
[grids]
wide = "wide.h5"
narrow = "narrow.h5"

[defaults]
steps = 12
batch = 8
pixels = 32
warmup = 3
validate_every = 6
checkpoint_every = 6

[train.base]
grid = "wide"
scale = ["narrow", "wide"]
options = { dim = 16, layers = 2, heads = 2, n_period = 16, head = 32 }

[train.tuned]
grid = "narrow"
init = "base"
mode = "lora"
lora = { rank = 2, dropout = 0.2 }
steps = 7
learning_rate = 1e-3
"""


@pytest.fixture
def two(write_grid: Callable[..., Path]) -> Path:
    """A file of two runs, beside its grids."""
    path = write_grid("wide.h5")
    write_grid("narrow.h5", seed=5, n_spec=30)
    (path.parent / "two.toml").write_text(TWO)
    return path.parent / "two.toml"


@pytest.fixture
def edited(two: Path) -> Callable[..., Config]:
    """Read the file of two runs after replacing some text, or adding to it."""
    def read(old: str, new: str) -> Config:
        assert old in TWO
        two.write_text(TWO.replace(old, new, 1))
        return Config.read(two)
    return read


def settings_of(name: str, tmp_path: Path) -> dict[str, Recipe]:
    """The recipes of the runs of a file that ships, whose grids may be elsewhere."""
    path = next(p for p in RECIPES if p.name == name)
    config = Config.read(path, grids=tmp_path)
    fields = Recipe.__dataclass_fields__
    return {n: Recipe(**{k: v for k, v in run.items() if k in fields})
            for n, run in config.runs.items()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_what_ships_can_be_read(path: Path, tmp_path: Path) -> None:
    assert settings_of(path.name, tmp_path)


def test_the_paper_is_written_down(tmp_path: Path) -> None:
    # Rozanski et al. 2023, section 3: 16 layers, a head of 256 neurons, AdamW, 100,000 steps
    # of 64 spectra, then 50,000 of 16
    recipes = settings_of("paper.toml", tmp_path)
    runs = Config.read(next(p for p in RECIPES if p.name == "paper.toml"), grids=tmp_path).runs
    assert {r.optimiser for r in recipes.values()} == {"adamw"}
    assert (recipes["base"].steps, recipes["base"].batch) == (100_000, 64)
    assert (recipes["full"].steps, recipes["full"].batch) == (50_000, 16)
    assert (runs["base"]["options"]["layers"], runs["base"]["options"]["head"]) == (16, 256)
    assert runs["base"]["grid"] == "pretrain"
    assert (runs["full"]["grid"], runs["full"]["init"]) == ("target", "base")
    assert (runs["lora"]["init"], runs["lora"]["mode"]) == ("base", "lora")


def test_what_ships_was_trained_as_its_recipe_says(tmp_path: Path) -> None:
    recipes = settings_of("two-cores.toml", tmp_path)
    for name in available():
        if "teacher" in (history := load(name).provenance):  # `distill` makes those
            continue
        recipe, given = recipes[name], history["recipe"]
        assert {**asdict(recipe), "betas": list(recipe.betas)} == given, name


def test_a_recipe_that_ships_is_found_by_its_name(tmp_path: Path) -> None:
    assert list(Config.read("two-cores.toml", grids=tmp_path).runs) == [
        "mgb-base", "mgb-fgk-first", "mgb-fgk", "halpha-fgk"]
    with pytest.raises(FileNotFoundError, match=r"'none\.toml'; those that ship: paper\.toml, "
                                                r"two-cores\.toml"):
        Config.read("none.toml")


def test_defaults_that_init_brings_are_left_to_it(edited: Callable[..., Config]) -> None:
    config = edited("steps = 12", 'steps = 12\nnetwork = "transformer"\noptions = { dim = 8 }')
    assert config.runs["base"]["network"] == "transformer"
    assert not {"network", "options"} & set(config.runs["tuned"])


def test_defaults_of_adapters_are_for_runs_that_adapt(edited: Callable[..., Config]) -> None:
    config = edited("steps = 12", 'steps = 12\nmode = "lora"\nlora = { rank = 3 }')
    assert not {"mode", "lora"} & set(config.runs["base"])
    assert config.runs["tuned"]["lora"] == {"rank": 2, "dropout": 0.2}
    full = edited('mode = "lora"\nlora = { rank = 2, dropout = 0.2 }', 'mode = "full"')
    assert full.runs["tuned"]["mode"] == "full"


def test_as_many_components_may_be_asked_for_as_a_grid_has_pixels(
    edited: Callable[..., Config]
) -> None:
    config = edited("options = { dim = 16, layers = 2, heads = 2, n_period = 16, head = 32 }",
                    'network = "components"\noptions = { components = 600 }')
    assert config.runs["base"]["options"] == {"components": 600}


def test_runs_follow_one_another_as_in_the_file(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulators.config.train", lambda **settings: settings["name"])
    assert list(Config.read(two).train(tmp_path, only=["tuned", "base"])) == ["base", "tuned"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(folder: Path) -> dict[str, bytes]:
    """All that a run leaves but the log, which tells the time."""
    return {n: c for n, c in contents(folder).items() if not n.endswith("log.csv")}


def test_a_run_starts_from_the_one_above(two: Path, tmp_path: Path) -> None:
    trained = Config.read(two).train(tmp_path / "out", progress=False)
    base, tuned = (load(tmp_path / "out" / n / "best") for n in ("base", "tuned"))
    assert list(trained) == ["base", "tuned"]
    assert [trained[n].sha256 for n in trained] == [base.sha256, tuned.sha256]
    assert tuned.provenance["init"]["sha256"] == base.sha256
    assert (base.name, tuned.name) == ("base", "tuned")
    both = LabelSet.spanning(Grid(two.parent / "narrow.h5").label_set,
                             Grid(two.parent / "wide.h5").label_set)
    assert base.labels == tuned.labels == both
    assert load(tmp_path / "out" / "tuned" / "adapter", base=base).metrics == tuned.metrics


def test_a_run_overrides_the_defaults(two: Path, tmp_path: Path) -> None:
    trained = Config.read(two).train(tmp_path / "out", progress=False)
    recipes = {n: e.provenance["recipe"] for n, e in trained.items()}
    assert {n: r["steps"] for n, r in recipes.items()} == {"base": 12, "tuned": 7}
    assert {n: r["learning_rate"] for n, r in recipes.items()} == {
        "base": Recipe().learning_rate, "tuned": 1e-3}
    assert all(r["batch"] == 8 for r in recipes.values())


def test_a_file_the_command_line_and_python_do_the_same(
    two: Path, tmp_path: Path, same: Callable[[Emulator, Emulator], bool]
) -> None:
    by_file = Config.read(two).train(tmp_path / "file", progress=False)
    answer = CliRunner().invoke(main, ["train", str(two), "-o", str(tmp_path / "cli")])
    assert answer.exit_code == 0, answer.output
    for name, emulator in by_file.items():
        assert f"{emulator!r} in {tmp_path / 'cli' / name / 'best'}" in answer.stdout
    wide, narrow = Grid(two.parent / "wide.h5"), Grid(two.parent / "narrow.h5")
    settings: dict[str, Any] = {"batch": 8, "pixels": 32, "warmup": 3, "validate_every": 6,
                                "checkpoint_every": 6, "progress": False}
    options = {"dim": 16, "layers": 2, "heads": 2, "n_period": 16, "head": 32}
    base = train(wide, labels=LabelSet.spanning(narrow.label_set, wide.label_set), steps=12,
                 options=options, out=tmp_path / "python" / "base", name="base", **settings)
    tuned = train(narrow, init=tmp_path / "python" / "base" / "best", mode="lora", steps=7,
                  lora={"rank": 2, "dropout": 0.2}, learning_rate=1e-3, name="tuned",
                  out=tmp_path / "python" / "tuned", **settings)
    assert same(base, by_file["base"])
    assert same(tuned, by_file["tuned"])
    assert weights(tmp_path / "file") == weights(tmp_path / "cli") == weights(tmp_path / "python")


def test_resuming_leaves_finished_runs_as_they_are(two: Path, tmp_path: Path) -> None:
    config = Config.read(two)
    config.train(tmp_path, progress=False)
    before = contents(tmp_path)
    config.train(tmp_path, resume=True, progress=False)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert not [n for n in before if after[n] != before[n]]
    with pytest.raises(ValueError, match="holds a run already: pass resume=True"):
        config.train(tmp_path, progress=False)


def test_resuming_does_what_was_not_done(two: Path, tmp_path: Path) -> None:
    config = Config.read(two)
    config.train(tmp_path / "straight", progress=False)
    assert list(config.train(tmp_path / "parts", only=["base"], progress=False)) == ["base"]
    assert not (tmp_path / "parts" / "tuned").exists()
    config.train(tmp_path / "parts", resume=True, progress=False)
    assert weights(tmp_path / "parts") == weights(tmp_path / "straight")


def test_grids_may_lie_elsewhere(two: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    moved = two.rename(tmp_path / "sub" / "two.toml")
    with pytest.raises(FileNotFoundError,
                       match=r"no grid at '.*sub/wide.h5', which the run 'base' reads; say "
                             r"with --grids \(grids=\) in which folder"):
        Config.read(moved).train(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = '\n[train.other]\ngrid = "absent"\n'  # whose grid nobody asks for
    moved.write_text(TWO.replace("[grids]", '[grids]\nabsent = "absent.h5"') + other)
    assert Config.read(moved, grids=tmp_path).grids["wide"] == tmp_path / "wide.h5"
    answer = CliRunner().invoke(main, ["train", str(moved), "--grids", str(tmp_path), "--only",
                                       "base", "-o", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ("[grids]", "[grid]", r"unknown table in '.*two\.toml' 'grid' \(did you mean grids\?\); "
                          r"valid: grids, defaults, train"),
    ("steps = 12", "step = 12", r"unknown key in \[defaults\] 'step' \(did you mean steps\?\); "
                                r"valid: grid, scale, .*, checkpoint_every"),
    ("steps = 7", "epochs = 7", r"unknown key in \[train\.tuned\] 'epochs'; valid: grid, scale"),
    ('grid = "wide"', 'grid = "wild"', r"unknown grid in \[train\.base\] 'wild' \(did you mean "
                                       r"wide\?\); valid: wide, narrow"),
    ('["narrow", "wide"]', '["narrow", "all"]', r"unknown grid in \[train\.base\] 'all'.*; valid: "
                                                r"wide, narrow"),
    ('grid = "narrow"', "", r"\[train\.tuned\] has no grid; valid: wide, narrow"),
    ("rank = 2", "ranks = 2", r"unknown key in lora of \[train\.tuned\] 'ranks' \(did you mean "
                              r"rank\?\); valid: rank, alpha, targets, dropout, unfreeze"),
    ("lora = { rank = 2, dropout = 0.2 }", "lora = 2", r"lora of \[train\.tuned\] must be a table"),
    ("rank = 2", "rank = 0", r"\[train\.tuned\]: rank must be an integer of at least 1, got 0"),
    ('mode = "lora"', 'mode = "half"', r"\[train\.tuned\]: unknown mode 'half'; valid: full, lora"),
    ("steps = 7", 'precision = "half"', r"\[train\.tuned\]: unknown precision 'half'; valid: "
                                        r"float32, bf16"),
    ("steps = 7", "steps = 0", r"\[train\.tuned\]: steps must be at least 1, got 0"),
    ("[train.base]", "[train]\nsteps = 5\n[train.base]", r"\[train\.steps\] must be a table of "
                                                        r"keys and values, got 5"),
    ('mode = "lora"', "", r"\[train\.tuned\]: lora= goes with mode='lora'"),
    ('init = "base"', "", r"\[train\.tuned\]: mode='lora' adapts an emulator: say which"),
    ('init = "base"', 'network = "forest"', r"unknown network in \[train\.tuned\] 'forest'; valid: "
                                            r"transformer, mlp, cnn, cannon, components"),
    ("[train.base]", "[training.base]", r"unknown table in .* 'training' \(did you mean train\?\)"),
    ('init = "base"', 'init = "bass"', r"\[train\.tuned\] starts from 'bass', which is neither a "
                                       r"run above it \(base\), nor an emulator that ships"),
    ('options = {', 'init = "tuned"\noptions = {', r"\[train\.base\] starts from 'tuned', which is "
                                                   r"neither a run above it"),
    ("[grids]", "[grids", r"'.*two\.toml' is not TOML: "),
    ("dim = 16", "dims = 16", r"unknown key in options of \[train\.base\] 'dims' \(did you mean "
                              r"dim\?\); valid: dim, layers"),
    ("heads = 2", "heads = 3", r"options of \[train\.base\]: dim must be a multiple of heads, got "
                               r"16 and 3"),
    ("steps = 7", "options = { dim = 8 }", r"\[train\.tuned\] starts from 'base', which brings "
                                           r"its own options: leave that out"),
    ('init = "base"', "init = 3", r"init of \[train\.tuned\] must be a word, got 3"),
    ('scale = ["narrow", "wide"]', 'scale = "wide"', r"scale of \[train\.base\] must be a list"),
])
def test_a_file_that_cannot_be_meant_is_refused(
    edited: Callable[..., Config], old: str, new: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        edited(old, new)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("new", "sentence"), [
    ('steps = "many"', r"\[train\.tuned\]: steps must be .*, got 'many'"),
    ("steps = 2.5", r"\[train\.tuned\]: steps must be .*, got 2\.5"),
    ("betas = 0.9", r"\[train\.tuned\]: betas must be .*, got 0\.9"),
    ('learning_rate = "fast"', r"\[train\.tuned\]: learning_rate must be .*, got 'fast'"),
])
def test_a_setting_of_another_kind_is_named(
    edited: Callable[..., Config], new: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        edited("steps = 7\nlearning_rate = 1e-3", new)


@pytest.mark.parametrize("content", ["", "[grids]\n", "[defaults]\nsteps = 3\n", "[train]\n"])
def test_a_file_without_runs_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "none.toml").write_text(content)
    with pytest.raises(ValueError, match=r"has no \[train.NAME\]: there is nothing to train"):
        Config.read(tmp_path / "none.toml")


@pytest.mark.parametrize(("content", "sentence"), [
    ("grids = 3", r"\[grids\] must be a table of keys and values, got 3"),
    ("grids = ['a.h5']", r"\[grids\] must be a table of keys and values, got \['a\.h5'\]"),
    ("defaults = 'fast'", r"\[defaults\] must be a table of keys and values, got 'fast'"),
    ("train = 3", r"\[train\] must be a table of keys and values, got 3"),
    ("[grids]\na = 3\n[train.x]\ngrid = 'a'", r"a in \[grids\] must be a file name, got 3"),
])
def test_what_should_be_a_table_and_is_not_is_refused(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "odd.toml").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        Config.read(tmp_path / "odd.toml")


def test_a_missing_file_and_an_unknown_run_are_named(two: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no configuration file '.*nowhere\.toml'"):
        Config.read(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match=r"unknown run 'tune' \(did you mean tuned\?\); valid: "
                                         r"base, tuned"):
        Config.read(two).train(tmp_path / "out", only=["tune"])
    answer = CliRunner().invoke(main, ["train", str(two), "--only", "tune", "-o", str(tmp_path)])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("Error: unknown run 'tune'")


def test_a_run_may_start_from_what_ships_or_from_a_folder(
    edited: Callable[..., Config], two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Config.read(two).train(tmp_path / "a", only=["base"], progress=False)["base"].save(
        tmp_path / "ships" / "mgb")
    monkeypatch.setattr("emulators.storage.shipped", lambda: tmp_path / "ships")
    started = [edited('init = "base"', f'init = "{init}"').train(
        tmp_path / out, only=["tuned"], progress=False)["tuned"]
        for out, init in (("b", "mgb"), ("c", folder))]
    assert started[0].provenance["init"]["sha256"] == load(folder).sha256
    assert started[0].sha256 == started[1].sha256
