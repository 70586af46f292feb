"""The command line: files in, files out, exit codes that scripts can trust."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import emulators
from stellarfit.cli import main

FEW = ["--resolution", "40000", "--free", "teff,fe_h,rv", "--fix", "logg=4.5", "--fix", "vmic=1",
       "--fix", "vsini=0"]


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    wavelength = np.arange(5180.0, 5200.0, 0.1)
    labels = {"teff": 5200.0, "logg": 4.5, "vmic": 1.0, "fe_h": -0.3}
    flux = emulators.load("mgb-fgk")(labels, wavelength).detach().numpy()
    path = tmp_path_factory.mktemp("stars") / "star.one.txt"
    np.savetxt(path, np.column_stack([wavelength, flux, np.full(len(flux), 0.01)]))
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_fit_writes_result_table_and_picture(star, tmp_path):
    done = run("fit", star, "--medium", "air", *FEW, "-o", tmp_path / "new" / "out")
    assert done.exit_code == 0, done.output
    assert "teff" in done.output
    assert {p.name for p in (tmp_path / "new" / "out").iterdir()} == {
        "star.one.h5", "star.one.ecsv", "star.one.png"}


def test_json_is_json_and_a_bad_file_does_not_stop_the_others(star, tmp_path):
    bad = tmp_path / "empty.fits"
    bad.touch()
    done = run("fit", bad, star, "--medium", "air", *FEW, "--json", "--no-plot", "-o", tmp_path)
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert "empty" in first["error"]
    assert set(second["labels"]) == {"teff", "fe_h", "rv"}
    assert second["provenance"]["emulator"].startswith("mgb-fgk@")
    assert done.stderr.count("\n") == 1


def test_names_inside_a_file_stay_in_the_output_folder(star, tmp_path):
    from astropy.table import Table

    wavelength, flux, sigma = np.loadtxt(star).T
    names = ["../evil", "NGC 104/12", "NGC/104 12"]
    Table({"wavelength": [wavelength] * 3, "flux": [flux] * 3, "err": [sigma] * 3, "name": names},
          meta={"MEDIUM": "air"}).write(tmp_path / "t.fits")
    out = tmp_path / "deep" / "out"
    done = run("fit", tmp_path / "t.fits", *FEW, "--no-plot", "-o", out)
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.rglob("*.h5")} == {
        "t-.._evil.h5", "t-NGC_104_12.h5", "t-NGC_104_12_.h5"}
    assert len(list(tmp_path.rglob("*.h5"))) == len(list(out.glob("*.h5"))) == 3


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["fit"], 2, "Missing argument"),
    (["fit", "absent.fits", "-R", "2000"], 1, "absent.fits"),
    (["fit", "absent.fits", "-R", "2000", "-e", "nope"], 1, "no emulator 'nope'"),
    (["fit", "absent.fits", "--fix", "teff"], 2, "NAME=VALUE"),
    (["fit", "absent.fits", "--fix", "teff=hot"], 2, "NAME=NUMBER"),
])
def test_errors_are_one_line_and_have_their_exit_code(arguments, code, message):
    done = run(*arguments)
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output


def test_sample_writes_samples(star, tmp_path):
    done = run("sample", star, "--medium", "air", *FEW, "--max-steps", 20, "--walkers", 8,
               "--no-plot", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "NOT converged" in done.output
    assert (tmp_path / "star.one-samples.ecsv").exists()
    assert (tmp_path / "star.one-summary.ecsv").exists()


def test_many_stars_are_sampled_side_by_side_and_a_bad_one_does_not_stop_them(star, tmp_path):
    again, other, bad = (tmp_path / n for n in ("again.txt", "other.txt", "bad.txt"))
    again.write_text(star.read_text())
    other.write_text("\n".join(star.read_text().splitlines()[20:]))
    bad.write_text("no star")
    done = run("sample", "--many", star, bad, other, again, "--medium", "air", *FEW, "--json",
               "--sampler", "importance", "--max-steps", 128, "--no-plot", "-o", tmp_path)
    assert done.exit_code == 1
    rows = {row.get("name", "bad"): row for row in json.loads(done.stdout)}
    assert "error" in rows.pop("bad")
    assert set(rows) == {"star.one", "other", "again"}
    assert {row["provenance"]["sampler"] for row in rows.values()} == {"importance"}
    assert all(row["median"]["teff"] > 4500 for row in rows.values())
    assert (tmp_path / "again-posterior.h5").exists()


def test_many_stars_of_which_one_cannot_be_fitted_are_sampled_apart(star, tmp_path):
    short = tmp_path / "noisy.txt"
    wavelength, flux, error = np.loadtxt(star).T
    np.savetxt(short, np.column_stack([wavelength, np.where(wavelength > 5181.0, np.nan, flux),
                                       error]))
    done = run("sample", "--many", short, star, "--medium", "air", *FEW, "--json",
               "--sampler", "importance", "--max-steps", 128, "--no-plot", "-o", tmp_path)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert "usable pixels" in rows["noisy"]["error"]
    assert rows["star.one"]["converged"] in (True, False)


def test_help_does_not_import_torch():
    code = (
        "import sys; from stellarfit.cli import main; main(['--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_files_that_would_overwrite_each_other_are_refused_before_any_is_fitted(star, tmp_path):
    done = run("fit", star, tmp_path / star.name, *FEW, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "would be written as star.one" in done.output
    assert not (tmp_path / "out").exists()


def test_a_truth_that_is_none_is_named(star, tmp_path):
    (tmp_path / "truth.json").write_text("[1]")
    done = run("fit", star, *FEW, "--truth", tmp_path / "truth.json", "-o", tmp_path)
    assert done.exit_code == 1
    assert "is no truth" in done.output
    assert done.output.count("\n") == 1


def test_files_together_are_arms_of_one_star(star, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(star.read_bytes())
    done = run("fit", star, other, "--together", "--medium", "air", "--free", "teff,fe_h,rv",
               "--fix", "logg=4.5", "--fix", "vmic=1", "--fix", "vsini=0", "-R", "40000,40000",
               "--prior", "teff=gaussian:5200:50", "--continuum", "2", "--json", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["name"] == "star.one"
    assert row["provenance"]["continuum"] == ["chebyshev:2"] * 2
    assert abs(row["labels"]["teff"] - 5200) < 150  # its error and the prior's, three times
    assert {p.name for p in tmp_path.glob("star.one.*")} == {
        "star.one.h5", "star.one.ecsv", "star.one.png"}


def test_a_calibration_is_made_and_used(star, tmp_path):
    mask = tmp_path / "mask.h5"
    done = run("calibrate", star, "--medium", "air", "-R", "40000", "-l", "teff=5200", "-l",
               "logg=4.5", "-l", "vmic=1", "-l", "fe_h=-0.3", "--free", "rv", "-o", mask)
    assert done.exit_code == 0, done.output
    assert mask.exists()
    done = run("fit", star, "--medium", "air", *FEW, "--calibration", mask, "--json", "--no-plot",
               "-o", tmp_path)
    assert json.loads(done.stdout)[0]["provenance"]["calibration"].startswith(
        "star.one with mgb-fgk@")


@pytest.mark.parametrize(("arguments", "message"), [
    (["-R", "2000,x"], "expected a number, or several with commas"),
    (["-R", "2000", "--prior", "teff"], "expected NAME=VALUE"),
    (["-R", "40000", "--prior", "teff=about:5"], "is no prior"),
    (["-R", "40000", "--continuum", "wavy"], "'wavy' is no continuum"),
    (["-R", "40000", "--target", "7"], "no target 7; the file has"),
])
def test_options_that_make_no_sense_are_refused_in_a_line(star, tmp_path, arguments, message):
    done = run("fit", star, "--medium", "air", *arguments, "-o", tmp_path)
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(("program", "words", "begun", "expected"), [
    ("stellarfit", [], "fi", "fit"),
    ("stellarfit", ["fit"], "--instr", "--instrument"),
    ("stellarfit", ["survey"], "", "merge"),
    ("stellarfit", ["fit", "-i"], "har", "harps"),
    ("stellarfit", ["fit", "-e"], "mgb-fgk-", "mgb-fgk-r20k"),
    ("emulators", [], "tr", "train"),
    ("emulators", ["evaluate"], "mgb-b", "mgb-base"),
    ("emulators", ["synthesize"], "halpha", "halpha-fgk"),
])
def test_the_shell_completes_commands_options_and_names(program, words, begun, expected):
    from click.shell_completion import BashComplete

    from emulators.cli import main as of_emulators

    command = main if program == "stellarfit" else of_emulators
    shell = BashComplete(command, {}, program, f"_{program.upper()}_COMPLETE")
    assert expected in [c.value for c in shell.get_completions(words, begun)]


@pytest.mark.parametrize("begun", ["/", "../", "[", "no such name"])
def test_what_is_no_name_completes_to_none(begun):
    from emulators.completion import emulator_names, recipe_names
    from stellarfit.cli_options import instruments

    for complete in (emulator_names, recipe_names, instruments):
        assert complete(None, None, begun) == []


@pytest.mark.parametrize("program", ["stellarfit", "emulators"])
def test_every_command_explains_itself_with_an_example(program):
    from emulators.cli import main as of_emulators

    command = main if program == "stellarfit" else of_emulators
    seen = []

    def walk(command, path):
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, [*path, name])
        if path and not getattr(command, "commands", {}):
            said = CliRunner().invoke(command, ["--help"]).output
            seen.append(path)
            if path != ["settings"]:  # whose example is where they are used
                assert f"{program} {' '.join(path)} " in " ".join(said.split()), path

    walk(command, [])
    assert len(seen) > 3


def test_without_matplotlib_a_fit_is_written_all_the_same(star, tmp_path, monkeypatch):
    import stellarfit.cli_options as options

    monkeypatch.setattr(options, "find_spec", lambda name: None)
    answer = run("fit", star, "--medium", "air", "-o", tmp_path, *FEW)
    assert answer.exit_code == 0
    assert "stellarfit[plot]" in answer.stderr
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".ecsv", ".h5"]
    asked = run("fit", star, "--medium", "air", "-o", tmp_path / "asked", "--plot", *FEW)
    assert asked.exit_code == 1
    assert "stellarfit[plot]" in asked.stderr
    assert not (tmp_path / "asked").exists()
