"""What a run does when files are damaged, a disk is full or can't be written, an overwrite is interrupted."""

import dataclasses
import errno
import os
import random
import shutil

import psutil
import pytest
import torch
from conftest import python, tiny

from fvlm import ConfigError, load_run, train
from fvlm.cli import main
from fvlm.files import CHECKSUMS, damaged, seal, update_table, write_text
from fvlm.scaling import open_results, read_gaze_scores
from fvlm.scaling.tables import swapped
from fvlm.studies.executors import read_record, record_path, write_record
from fvlm.training import checkpoints, launch, load_study, loop
from fvlm.training.progress import Stopped, TrainingError, read_progress, request_stop
from fvlm.training.results import trained_runs

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
SHORT = dict(steps=4, eval_every=2, eval_samples=2, effective_batch=2, features=False)


def stopped_run(out):
    """A run that was stopped after its second step: its configuration and its checkpoint."""
    config = tiny(out=str(out), **SHORT)
    with pytest.raises(Stopped):
        train(config, on_progress=lambda progress: request_stop(config.folder))
    (checkpoint,) = (config.folder / "checkpoint").glob("step-*")
    return config, checkpoint


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return stopped_run(tmp_path_factory.mktemp("stopped"))


@pytest.fixture
def again(stopped, tmp_path):
    """The stopped run in a folder of its own."""
    return copied(stopped, tmp_path)


def copied(stopped, out):
    config, checkpoint = stopped
    mine = dataclasses.replace(config, out=str(out))
    shutil.copytree(config.folder, mine.folder)
    return mine, mine.folder / "checkpoint" / checkpoint.name


def zero_tail(path, dice):
    data = path.read_bytes()
    start = dice.randrange(len(data.rstrip(b"\0")))
    path.write_bytes(data[:start] + bytes(len(data) - start))


def cut(path, dice):
    os.truncate(path, dice.randrange(path.stat().st_size))


def swap(path, dice):
    shutil.copyfile(dice.choice(others(path)), path)


def others(path):
    return sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)


def remove(path, dice):
    path.unlink()


FILES = ["weights.safetensors", "optimizer.safetensors", "state.json", CHECKSUMS]
DAMAGES = [(name, damage) for name in FILES for damage in (zero_tail, cut, swap, remove)]
DAMAGES.remove((CHECKSUMS, remove))  # a checkpoint of before there were checksums is believed


@pytest.mark.parametrize("name, damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_named(stopped, tmp_path, name, damage, count):
    for number in range(TIMES):
        config, checkpoint = copied(stopped, tmp_path / str(number))
        damage(checkpoint / name, random.Random(f"{name} {number}"))
        steps = []
        with pytest.warns(UserWarning, match=f"{name} is damaged.*set aside as damaged-{checkpoint.name}"):
            run = train(config, on_progress=lambda progress, steps=steps: steps.append(progress.step))
        assert steps == [1, 2, 3, 4] and run.finished, "from the start, as there was none before it"
        assert [row["step"] for row in run.evaluations.to_dict("records")] == [2, 4]
        shutil.rmtree(tmp_path / str(number))
    count("damaged files", TIMES)


def test_any_other_file_in_the_place_of_the_checksums_is_named(stopped, tmp_path):
    _, checkpoint = copied(stopped, tmp_path / "which")
    for number, other in enumerate(others(checkpoint / CHECKSUMS)):
        _, mine = copied(stopped, tmp_path / str(number))
        shutil.copyfile(other, mine / CHECKSUMS)
        assert damaged(mine) == CHECKSUMS, other.name


def test_the_checkpoint_before_a_damaged_one_is_used(again):
    config, checkpoint = again
    later = checkpoint.with_name("step-000003")
    shutil.copytree(checkpoint, later)
    cut(later / "optimizer.safetensors", random.Random(1))
    steps = []
    with pytest.warns(UserWarning, match="step-000003"):
        train(config, on_progress=lambda progress: steps.append(progress.step))
    assert steps == [3, 4]


def test_a_checkpoint_that_can_t_be_read_back_leaves_the_one_before(again, monkeypatch):
    config, checkpoint = again
    monkeypatch.setattr(checkpoints, "damaged", lambda folder: None if folder == checkpoint else "weights")
    with pytest.raises(TrainingError, match="can't be read back"):
        train(config)
    assert checkpoint.is_dir()


@pytest.mark.parametrize("where", ["save_checkpoint", "write_table", "save_model"])
def test_a_full_disk_ends_a_run_with_one_message_and_it_goes_on_when_there_is_room(again, where, monkeypatch):
    config, _ = again
    with monkeypatch.context() as full:

        def no_room(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(loop, where, no_room)
        with pytest.raises(TrainingError, match="No space left.*step 2, is kept|No space left.*step 4"):
            train(config)
    assert train(config).finished


def test_a_disk_that_is_full_before_a_run_begins_is_one_message_too(tmp_path, monkeypatch):
    config = tiny(out=str(tmp_path), **SHORT)

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(launch, "write_json", no_room)
    with pytest.raises(TrainingError, match="can't be written.*No space left.*begins when there is room"):
        train(config)


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(again, monkeypatch):
    def lost(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(loop, "save_checkpoint", lost)
    with pytest.raises(OSError, match="Input/output"):
        train(again[0])


def test_a_killed_reader_of_clips_ends_a_run_with_one_message_and_it_goes_on(again):
    config, _ = again
    others = psutil.Process().children()  # of earlier tests, such as the server that preparing forks from

    def kill(progress):
        for child in set(psutil.Process().children()).difference(others):
            child.kill()
            child.wait()

    with pytest.raises(TrainingError, match="process that reads the clips ended.*step 2, is kept"):
        train(config, on_progress=kill)
    steps = []
    assert train(config, on_progress=lambda progress: steps.append(progress.step)).finished and steps == [
        3,
        4,
    ]


def test_an_overwrite_that_is_interrupted_leaves_nothing_of_the_old_run(again, monkeypatch):
    config, checkpoint = again
    other = dataclasses.replace(config, learning_rate=1e-4, overwrite=True)
    with monkeypatch.context() as interrupted:

        def killed(*_, **__):
            raise KeyboardInterrupt

        interrupted.setattr(launch.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            train(other)
    assert checkpoint.is_dir(), "the old checkpoint is still there"
    steps = []
    run = train(dataclasses.replace(other, overwrite=False), on_progress=lambda p: steps.append(p.step))
    assert steps == [1, 2, 3, 4] and run.config.learning_rate == 1e-4


def test_where_results_can_t_be_written_is_an_error_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="out = .*can't be written"):
        train(tiny(out=str(tmp_path / "file"), **SHORT))


def test_a_device_that_is_not_there_is_an_error_before_anything_is_trained(tmp_path, capsys):
    device = f"cuda:{torch.cuda.device_count()}"
    config = tiny(out=str(tmp_path), **SHORT | dict(device=device))
    with pytest.raises(ConfigError, match=f"device = '{device}': this machine has .* valid are cpu"):
        train(config)
    assert not config.folder.exists()
    commands = ["train", "bench train", "features --fill", "grid params/smoke.yaml --list"]
    for command in commands:
        cell = [] if command.startswith("grid") else ["--cell", "T1-T_2f_fov"]
        assert main([*command.split(), *cell, "--set", f"device={device}", f"out={tmp_path}"]) == 2
        assert f"device = '{device}'" in capsys.readouterr().err


def test_out_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiny(out="~/mine").folder.is_relative_to(tmp_path / "mine")


@pytest.mark.parametrize("name", ["config.json", "evaluations.parquet", "samples.parquet"])
@pytest.mark.parametrize("damage", [zero_tail, cut, swap])
def test_a_run_that_can_t_be_read_does_not_take_its_study_down(again, tmp_path, name, damage, count):
    config, _ = again
    for number in range(TIMES):
        other = tmp_path / config.study / "T1-T_2f_fov_seed7"
        shutil.copytree(config.folder, other)
        damage(other / name, random.Random(f"{name} {number}"))
        with pytest.warns(UserWarning, match=f"left out: .*{other.name}.*{name}"):
            study = load_study(tmp_path / config.study, unfinished=True)
        assert set(study.evaluations["run"]) == {config.folder.name}
        with pytest.warns(UserWarning, match=f"left out: .*{other.name}.*{name}"):
            found = open_results(str(tmp_path / config.study))  # what the scaling notebook draws
        assert set(found.runs["run"]) == {config.folder.name}
        if name != "samples.parquet":  # who looks for models reads no samples
            (other / "model").mkdir()
            (other / "model/config.json").write_text("{}")
            with pytest.warns(UserWarning, match=f"left out: .*{other.name}.*{name}"):
                assert trained_runs(tmp_path) == []
        with pytest.raises(ConfigError, match=name):
            run = load_run(other)
            assert run.config and len(run.evaluations) and len(run.samples)
        shutil.rmtree(other)
    count("damaged files", TIMES)


@pytest.mark.parametrize("content", ["", "\0" * 40, "[]", "{", "[" * 50_000, "{}", "é"], ids=range(7))
def test_what_is_kept_beside_a_run_s_results_may_be_damaged(tmp_path, content):
    """Its heartbeat, why it failed, what its mix was: none ends a grid, or a training, in a traceback."""
    run = tmp_path / "study/T1-T_2f_fov_seed0"
    run.mkdir(parents=True)
    write_record(run, "error", "no reason")
    for path in (run / "progress.json", record_path(run), run / launch.MIX):
        path.write_text(content, encoding="latin-1")
    assert not read_progress(run) and read_record(run) is None
    (changed,) = launch._mix_changes(run / launch.MIX, dict(mix="a mix", fingerprint="x"))
    assert launch.MIX in changed or changed == "a mix or its data changed"


def test_a_damaged_table_of_scores_is_left_out_or_one_message(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / "study" / name).mkdir(parents=True)
    bad = tmp_path / "study/bad/gaze.parquet"
    bad.write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match=f"left out: {bad}: not a table that can be read"):
        assert read_gaze_scores(str(tmp_path / "study")).empty
    with pytest.raises(ConfigError, match=f"{bad}: not a table"):
        update_table(bad, [dict(a=1)], ("a",))
    (tmp_path / "study/swapped.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match="swapped.parquet: not a table"):
        swapped(str(tmp_path / "study"))


def test_one_frame_and_a_batch_of_one_calibrates(tmp_path):
    config = tiny(out=str(tmp_path), frames=1, steps=1, effective_batch=1, eval_every=1, eval_samples=1)
    run = train(config)
    assert torch.isfinite(run.model.standardise.std).all() and run.model.standardise.std.std() > 0


def test_a_sealed_folder_tells_which_file_changed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    seal(tmp_path)
    assert damaged(tmp_path) is None
    (tmp_path / "b").write_text("c")
    assert damaged(tmp_path) == "b"


def test_a_file_that_can_t_be_written_whole_stays_as_it_was(tmp_path, monkeypatch):
    path = write_text(tmp_path / "kept", "before")

    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fvlm.files.sync", no_room)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error():
    reader = (
        "import subprocess, sys\n"
        "writer = subprocess.Popen(\n"
        "    [sys.executable, '-m', 'fvlm', 'features', '--list'],\n"
        "    stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "writer.stdout.close()\n"
        "print(writer.stderr.read().decode(), writer.wait())"
    )
    said = python("-c", reader).stdout
    assert "BrokenPipe" not in said and "Traceback" not in said and said.split()[-1] == "0"
