"""Callbacks: who is told of a run, how one ends it, and what trackers read afterwards."""

import json
import struct
import time

import pytest
import torch
from conftest import tiny

from fvlm import ConfigError, load_model, load_run, train
from fvlm.training import Callback, EarlyStopping, Progress, TensorBoard, report_to

SHORT = dict(steps=4, eval_every=2, eval_samples=2, effective_batch=2)


class Told(Callback):
    """Writes down what it is told; ends the run from a step on."""

    def __init__(self, end: int = 0):
        self.heard, self.end = [], end

    def on_start(self, config):
        self.heard.append("start")

    def on_step(self, progress):
        self.heard.append(progress.step)
        return 0 < self.end <= progress.step

    def on_evaluation(self, progress):
        self.heard.append(f"evaluated {progress.step}")

    def on_end(self, run):
        self.heard.append("end")


def test_callbacks_and_plain_functions_are_told_in_order(tmp_path):
    told, steps = Told(), []
    run = train(tiny(**SHORT, out=str(tmp_path)), [told, lambda progress: steps.append(progress.step)])
    assert told.heard == ["start", 1, "evaluated 2", 2, 3, "evaluated 4", 4, "end"] and steps == [1, 2, 3, 4]
    assert run.finished and not (run.folder / "checkpoint").exists()
    again = Told()
    train(run.config, [again])
    assert again.heard == [], "a finished run is not trained again"


def test_a_run_that_a_callback_ends_has_a_model_and_can_go_on(tmp_path):
    """It ends between two evaluations, and then ends as one that was never ended."""
    config = tiny(**SHORT, out=str(tmp_path))
    run = train(config, [Told(end=3)])
    assert not run.finished and run.evaluations["step"].tolist() == [2, 3]
    model = load_model(run.folder / "model")
    (clip,) = run.validation_clips(1)
    assert (
        len(model.answer(torch.from_numpy(clip.frames))) > 0 and len(load_run(run.folder).write([clip])) == 1
    )
    told = Told()
    run = train(config, [told])
    assert told.heard == ["start", "evaluated 4", 4, "end"] and run.finished
    straight = train(tiny(**SHORT, out=str(tmp_path / "straight")))
    for (name, one), other in zip(run.model.state_dict().items(), straight.model.state_dict().values()):
        assert torch.equal(one, other), name


def test_early_stopping_waits_for_its_patience():
    stop, answers = EarlyStopping(patience=2, least=0.1), []
    for loss in (3.0, 2.0, 1.95, 1.92, 1.0):
        answers.append(stop.on_evaluation(Progress(1, 9, 0.0, 1.0, 0.0, [dict(loss_parallel=loss)])))
    assert answers == [False, False, False, True, False]


@pytest.mark.slow
def test_several_processes_are_ended_by_a_callback_too(tmp_path):
    """The launching process, where callbacks live, hears of a step about once a second."""
    config = tiny(**SHORT | dict(steps=2000, eval_every=10), processes=2, out=str(tmp_path))
    run = train(config, [Told(end=1)])
    assert not run.finished and run.evaluations["step"].iloc[-1] < 2000
    load_model(run.folder / "model")


def test_tensorboard_reads_what_was_reported(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny(**SHORT, out=str(tmp_path)), [report_to("tensorboard")])
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    losses = [event.value for event in events.Scalars("validation/loss_autoregressive")]
    assert losses == pytest.approx(run.evaluations["loss_autoregressive"].tolist(), rel=1e-6)


def test_trackio_reads_what_was_reported(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="make installs it: pip install --no-deps trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    run = train(tiny(**SHORT, out=str(tmp_path)), [report_to("trackio")])
    rows = SQLiteStorage.get_logs(run.config.study, run.folder.name)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]


def wandb_history(path) -> list[dict]:
    """The rows of a file that wandb keeps for later: its own records, in the frames of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, rows = path.read_bytes(), 7, b"", []  # after the file's own seven bytes
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + 7 + length > len(data):  # it is still being written
            break
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            items, whole = Record.FromString(whole).history.item, b""
            rows += [{".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}] * bool(items)
    return rows


def test_wandb_keeps_what_was_reported(tmp_path, monkeypatch):
    """Without an account, in a file that is synchronised later."""
    pytest.importorskip("wandb", reason="pip install 'fvlm[wandb]'")
    for name, value in dict(MODE="offline", DIR=str(tmp_path), SILENT="true").items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    losses = []
    run = train(tiny(**SHORT, out=str(tmp_path)), [report_to("wandb"), lambda p: losses.append(p.loss)])
    (path,) = tmp_path.rglob("*.wandb")
    end = time.monotonic() + 60  # wandb's own process writes it, and may do so a little later
    while len(rows := wandb_history(path)) < 4 and time.monotonic() < end:
        time.sleep(0.2)
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in rows] == pytest.approx(losses)
    kept = [row["validation/loss_parallel"] for row in rows if "validation/loss_parallel" in row]
    assert kept == pytest.approx(run.evaluations["loss_parallel"].tolist())


def test_a_report_that_is_none_or_not_installed_is_a_user_s_mistake(monkeypatch):
    with pytest.raises(ConfigError, match="tensorboard, trackio, wandb"):
        report_to("paper")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        TensorBoard()
