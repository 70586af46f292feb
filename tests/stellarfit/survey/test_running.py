"""A survey on disk: the same rows however it is made, whatever is killed, and no holes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from click.testing import CliRunner

import emulators
import stellarfit
from emulators.workers import Workers
from stellarfit import survey
from stellarfit.cli import main
from stellarfit.survey import running
from stellarfit.survey.engine import Status
from stellarfit.survey.folder import OtherSurveyError, Survey
from stellarfit.survey.running import IncompleteError, Maker, clear_temporaries, merge, run, status
from stellarfit.survey.targets import find_targets
from tests.stellarfit.survey.conftest import SETTINGS, write

pytest.importorskip("distributed", reason="needs the extra [survey]")


@pytest.fixture
def settings(cannon: Path) -> dict[str, Any]:
    return {"emulator": cannon, "batch": 8, "progress": False, **SETTINGS}


@pytest.fixture
def catalogue(files: Path, settings: dict[str, Any], tmp_path: Path) -> bytes:
    """What a survey by one process, in one shard, makes of the files."""
    run(files, tmp_path / "plain", workers=1, **settings)
    merge(tmp_path / "plain", tmp_path / "plain.fits")
    return (tmp_path / "plain.fits").read_bytes()


@pytest.mark.filterwarnings("ignore")  # dask's own
@pytest.mark.parametrize(("workers", "shard"), [(1, 8), (2, 16)])
def test_workers_and_shards_change_not_a_bit(
    workers: int, shard: int, files: Path, settings: dict[str, Any], catalogue: bytes,
    tmp_path: Path
) -> None:
    state = run(files, tmp_path / "s", workers=workers, shard=shard, **settings)
    assert (state.done, state.failed, state.done_shards) == (40, 2, state.shards)
    merge(tmp_path / "s", tmp_path / "s.fits")
    assert (tmp_path / "s.fits").read_bytes() == catalogue


def test_the_same_rows_as_from_fit_many(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    run(files, tmp_path / "s", workers=1, shard=16, **settings)
    table = merge(tmp_path / "s", tmp_path / "s.fits")
    direct = stellarfit.fit_many(files, **settings)
    for name in direct.colnames:
        assert np.array_equal(np.asarray(table[name]), np.asarray(direct[name]),
                              equal_nan=direct[name].dtype.kind == "f"), name


def test_merge_refuses_holes_and_damage_and_a_second_run_mends_them(
    files: Path, settings: dict[str, Any], catalogue: bytes, tmp_path: Path
) -> None:
    folder, out = tmp_path / "s", tmp_path / "s.fits"
    run(files, folder, workers=1, shard=8, **settings)
    shards = sorted((folder / "shards").glob("*.h5"))
    untouched = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    content = bytearray(shards[2].read_bytes())
    content[len(content) // 2] ^= 4
    shards[2].write_bytes(content)
    shards[3].write_bytes(shards[3].read_bytes()[:-100])
    shutil.copy(shards[0], shards[4])
    with pytest.raises(IncompleteError, match=r"\d of 5 shards are missing or damaged"):
        merge(folder, out)
    assert not out.exists()
    assert status(folder).done < 40
    run(None, folder, workers=1, progress=False)
    merge(folder, out)
    assert out.read_bytes() == catalogue
    assert shards[0].stat().st_mtime_ns == untouched


def test_failed_stars_are_tried_again_when_asked(
    files: Path, settings: dict[str, Any], stars: tuple[list[Any], dict[str, Any]],
    tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    run(files, folder, workers=1, shard=16, models=True, **settings)
    write(stars[0][5], files / "star05.fits", "s5")
    assert run(None, folder, workers=1, progress=False).failed == 2
    assert run(None, folder, workers=1, retry_failed=True, progress=False).failed == 1
    assert survey.result(folder, 5).name == "s5"
    assert survey.result(folder, 30).name == "s30"
    with pytest.raises(ValueError, match="no result of a star 21"):
        survey.result(folder, 21)
    table = merge(folder, tmp_path / "s.fits")
    assert table["status"][5] == 0
    # as if it had never been broken
    fresh = tmp_path / "fresh"
    run(files, fresh, workers=1, shard=40, models=True, **settings)
    merge(fresh, tmp_path / "fresh.fits")
    assert (tmp_path / "s.fits").read_bytes() == (tmp_path / "fresh.fits").read_bytes()


def test_a_folder_holds_one_survey(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    targets = find_targets(files)
    plain = {k: v for k, v in settings.items() if k != "progress"}
    first = Survey.begin(tmp_path / "s", targets, plain, size=16)
    assert Survey.begin(tmp_path / "s", targets, plain, size=99).size == first.size == 16
    with pytest.raises(OtherSurveyError, match="another survey"):
        Survey.begin(tmp_path / "s", targets[:-1], plain)
    with pytest.raises(OtherSurveyError, match="another survey"):
        Survey.begin(tmp_path / "s", targets, {**plain, "resolution": 19_000.0})
    with pytest.raises(ValueError, match="names, numbers and paths"):
        Survey.begin(tmp_path / "t", targets, {**plain, "emulator": object()})
    with pytest.raises(FileNotFoundError, match="no survey in"):
        Survey.open(tmp_path / "nowhere")


def test_a_survey_goes_on_from_another_folder(
    files: Path, settings: dict[str, Any], catalogue: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("spectra", "s", workers=1, shard=16, **settings)
    (tmp_path / "s" / "shards" / "0000001.h5").unlink()
    monkeypatch.chdir(tmp_path.parent)
    run(None, tmp_path / "s", workers=1, retry_failed=True, progress=False)
    merge(tmp_path / "s", tmp_path / "s.fits")
    assert (tmp_path / "s.fits").read_bytes() == catalogue
    with pytest.raises(ValueError, match="under different names"):
        Survey.begin(tmp_path / "t", [*find_targets(files), *find_targets(
            os.path.relpath(files / "star00.fits"))],
            {k: v for k, v in settings.items() if k != "progress"})


def test_a_survey_does_not_go_on_with_what_has_changed(
    files: Path, settings: dict[str, Any], cannon: Path, tmp_path: Path
) -> None:
    lsf, emulator = tmp_path / "lsf.txt", tmp_path / "cannon"
    lsf.write_text("5000 20000\n5300 20000\n")
    shutil.copytree(cannon, emulator)
    own = {**settings, "instrument": lsf, "resolution": None, "emulator": emulator}
    run(files, tmp_path / "s", workers=1, shard=40, **own)
    lsf.write_text("5000 7000\n5300 7000\n")
    running._engines.clear()
    with pytest.raises(OtherSurveyError, match="FILES changed"):
        merge(tmp_path / "s", tmp_path / "s.fits")
    with pytest.raises(OtherSurveyError, match="other: FILES"):
        run(files, tmp_path / "s", workers=1, **own)
    lsf.write_text("5000 20000\n5300 20000\n")
    merge(tmp_path / "s", tmp_path / "s.fits")
    other = emulators.load(emulator)
    with torch.no_grad():
        for tensor in other.network.state_dict().values():
            tensor.mul_(1.001)
    other.save(emulator)
    running._engines.clear()
    with pytest.raises(OtherSurveyError, match="TENSORS"):
        merge(tmp_path / "s", tmp_path / "s.fits")


class DeadlyMaker(Maker):
    """For whom one star takes its process with it."""

    def fit(self, numbers: Any) -> Any:
        if 9 in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(numbers)


def test_a_star_that_kills_its_process_has_a_row_and_the_others_their_labels(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = {k: v for k, v in settings.items() if k != "progress"}
    opened = Survey.begin(tmp_path / "s", find_targets(files), plain, size=16)
    with Workers(DeadlyMaker(opened), 1, patience=2) as pool:
        made = list(pool.make([np.array([n]) for n in range(opened.shards)]))
    assert [m.error for m in made] == [""] * 3
    table = merge(tmp_path / "s", tmp_path / "s.fits")
    assert table["status"][9] == Status.CRASHED
    assert table["message"][9] == "it killed its process"
    assert np.flatnonzero(table["status"]).tolist() == [5, 9, 21]


@pytest.mark.filterwarnings("ignore")  # dask's own
@pytest.mark.usefixtures("catalogue")
def test_kills_lose_nothing(files: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    """The short form of ``benchmarks/survey_faults.py``."""
    from benchmarks.survey_faults import killed_until_done

    kills = killed_until_done(
        files, tmp_path / "s", settings["emulator"], kills=3, shard=8, batch=8, seed=1)
    assert kills == 3
    table = merge(tmp_path / "s", tmp_path / "s.fits")
    peaceful = Table.read(tmp_path / "plain.fits")
    assert table.colnames == peaceful.colnames
    for name in table.colnames:
        values, kind = np.asarray(table[name]), table[name].dtype.kind
        assert np.array_equal(values, np.asarray(peaceful[name]).astype(values.dtype),
                              equal_nan=kind == "f"), name
    assert status(tmp_path / "s").done == 40


def test_threads_of_one_worker_do_not_swap_stars(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    run(files, tmp_path / "one", workers=1, shard=8, **settings)
    plain = {k: v for k, v in settings.items() if k != "progress"}
    opened = Survey.begin(tmp_path / "s", find_targets(files), plain, size=8)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Maker(opened), [np.array([n]) for n in range(opened.shards)]))
    merge(tmp_path / "one", tmp_path / "one.fits")
    merge(tmp_path / "s", tmp_path / "s.fits")
    assert (tmp_path / "s.fits").read_bytes() == (tmp_path / "one.fits").read_bytes()


def test_what_kills_left_is_cleared_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    for name in (".old.h5", ".new.h5", "0000000.h5"):
        (tmp_path / name).write_text("")
        if name != ".new.h5":
            os.utime(tmp_path / name, (0, 0))
    clear_temporaries(tmp_path, tmp_path / "absent")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".new.h5", "0000000.h5"]


def test_a_full_disk_is_said_and_what_is_done_stays(
    files: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {k: v for k, v in settings.items() if k != "progress"}
    opened = Survey.begin(tmp_path / "s", find_targets(files), plain, size=16)
    Maker(opened)(np.array([0]))
    import stellarfit.survey.folder as folder_module

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_arrays", full)
    made = Maker(opened)(np.array([1]))
    assert made.fatal
    assert "No space left" in made.error
    assert status(tmp_path / "s").done == 16
    assert sorted(p.name for p in (tmp_path / "s" / "shards").iterdir()) == ["0000000.h5"]


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(main, [str(w) for w in words])


def test_the_commands_run_say_how_far_and_merge(
    files: Path, cannon: Path, tmp_path: Path
) -> None:
    folder, config = tmp_path / "s", tmp_path / "survey.toml"
    config.write_text('resolution = 20000.0\nfree = ["teff", "logg", "fe_h", "mg_fe", "rv"]\n'
                      "batch = 4\n[fixed]\nvmic = 1.2\nvsini = 0.0\n")
    said = invoke("survey", "run", files, "-o", folder, "--config", config, "-e", cannon,
                  "--continuum", 2, "--batch", 8, "--workers", 1, "--shard", 8)
    assert said.exit_code == 0, said.output
    assert "40 of 40 stars done (5 of 5 shards), 2 without a fit" in said.output
    state = json.loads(invoke("survey", "status", folder, "--json").output)
    assert (state["stars"], state["done"], state["failed"]) == (40, 40, 2)
    said = invoke("survey", "run", "-o", folder, "--batch", 8, "--device", "cpu")  # as it was
    assert said.exit_code == 0, said.output
    said = invoke("survey", "merge", folder, "-o", tmp_path / "c.fits", "--aliases", "apogee")
    assert said.exit_code == 0
    assert "40 rows, 2 without a fit" in said.output
    assert invoke("survey", "merge", folder, "-o", tmp_path / "c.ecsv").exit_code == 0
    (folder / "shards" / "0000001.h5").unlink()
    said = invoke("survey", "merge", folder, "-o", tmp_path / "d.fits")
    assert said.exit_code == 1
    assert "1 of 5 shards are missing" in said.output
    for words, answer in (
        (("status", tmp_path / "none"), "no survey in"),
        (("run", "-o", tmp_path / "none"), "no survey in"),
        (("run", files, "-o", tmp_path / "t", "-e", cannon, "--free", "vanadium"),
         "unknown parameter"),
        (("merge", folder, "-o", "c.csv"), ".fits, .ecsv or .parquet"),
        (("run", "-o", folder, "--batch", 16), "other: batch = 16 (it has 8)"),
        (("run", files, "-o", files), "a folder of its own"),
    ):
        said = invoke("survey", *words)
        assert said.exit_code == 1
        assert answer in said.output


@pytest.mark.parametrize(("content", "answer"), [
    ("fix = {vmic = 'much'}", "NAME=NUMBER"),
    ("batch = 'many'", "not a valid integer"),
    ("jitters = true", "unknown jitters; valid: out, list, instrument"),
    ("jitter = 'perhaps'", "not a valid boolean"),
    ("resolution = ", "is not TOML"),
])
def test_what_a_file_of_options_says_is_read_as_on_the_command_line(
    content: str, answer: str, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "survey.toml").write_text(content)
    said = invoke("survey", "run", files, "-o", tmp_path / "s", "--config",
                  tmp_path / "survey.toml")
    assert said.exit_code in (1, 2)
    assert answer in " ".join(said.output.split())
    assert not (tmp_path / "s").exists()


def test_a_survey_without_any_fit_is_a_failure_that_says_why(
    files: Path, cannon: Path, tmp_path: Path
) -> None:
    said = invoke("survey", "run", files, "-o", tmp_path / "s", "-e", cannon, "--workers", 1)
    assert said.exit_code == 1
    assert "no star has a fit; the first: " in said.output
    assert "resolution" in said.output


def test_a_lost_list_of_targets_is_written_anew_when_the_inputs_are_given(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    Survey.begin(folder, find_targets(files), plain := {
        k: v for k, v in settings.items() if k != "progress"}, size=16)
    content = (folder / "targets.h5").read_bytes()
    for spoil in (lambda p: p.unlink(), lambda p: p.write_bytes(content[:500])):
        spoil(folder / "targets.h5")
        with pytest.raises(ValueError, match="give the inputs again"):
            run(None, folder, workers=1)
        again = Survey.begin(folder, find_targets(files), plain, size=16)
        assert len(again.targets(range(40))) == 40


def test_a_shard_with_any_bit_flipped_is_whole_or_made_again(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    run(files, folder, workers=1, shard=8, **settings)
    survey, path = Survey.open(folder), folder / "shards" / "0000002.h5"
    content, rng = path.read_bytes(), np.random.default_rng(0)
    good = survey.rows(2)[0]
    damaged = 0
    # the first 2 kB, where HDF5 keeps its addresses, and anywhere
    for place in (*rng.integers(0, 2048, 300), *rng.integers(0, len(content), 100)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        survey.done()
        try:
            rows, said = survey.rows(2)[0], ""
        except ValueError as error:
            rows, said = {}, str(error)
        assert rows or "0000002.h5" in said
        damaged += not rows
        for name, values in rows.items():
            np.testing.assert_array_equal(values, good[name])
    assert damaged > 50
    path.write_bytes(content[:300])
    with pytest.raises(IncompleteError, match=r"0000002\.h5"):
        merge(folder, tmp_path / "c.fits")
    assert run(None, folder, workers=1).done == 40


def test_links_that_lead_nowhere_and_empty_folders_have_their_rows(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    mixed, empty = tmp_path / "mixed", tmp_path / "empty"
    (mixed / "folder.fits").mkdir(parents=True)
    empty.mkdir()
    first = sorted(files.iterdir())[0]
    (mixed / "a.fits").write_bytes(first.read_bytes())
    (mixed / "gone.fits").symlink_to(mixed / "nothing")
    (mixed / "round.fits").symlink_to(mixed / "round.fits")
    os.mkfifo(mixed / "pipe.fits")
    names = [Path(t.file).name for t in find_targets(mixed)]
    assert names == ["a.fits", "gone.fits", "pipe.fits", "round.fits"]
    table = stellarfit.fit_many([mixed, empty], **settings)
    assert table["status"].tolist() == [0, 1, 2, 1, 2]
    with pytest.raises(ValueError, match="no spectra"):
        find_targets(empty)
    with pytest.raises(ValueError, match="no spectra"):
        find_targets("")


def test_a_name_that_is_no_text_is_fitted_too(
    files: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    odd = os.fsencode(own) + b"/odd\xff.fits"
    with open(odd, "wb") as stream:
        stream.write(sorted(files.iterdir())[0].read_bytes())
    run(own, tmp_path / "s", workers=1, **settings)
    table = merge(tmp_path / "s", tmp_path / "c.fits")
    assert table["status"].tolist() == [0]
    assert table["file"][0].endswith(r"odd\udcff.fits")
    direct = stellarfit.fit_many([own], out=tmp_path / "d.fits", **settings)
    assert direct["status"].tolist() == [0]
