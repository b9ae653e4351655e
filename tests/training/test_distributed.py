"""Several processes that share a run (gloo, on the CPU): the same losses as one process alone."""

import dataclasses
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPOSITORY, tiny

from fvlm import ConfigError, load_run, train
from fvlm.training.progress import Stopped, TrainingError, request_stop

SHORT = dict(
    steps=4,
    eval_every=2,
    eval_samples=6,
    effective_batch=8,
    micro_batch=2,
    learning_rate=1e-3,
    freeze_vision=False,
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tiny(out=str(tmp_path_factory.mktemp("alone")), **SHORT))


def losses(run):
    return run.evaluations.filter(like="loss_").to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("processes, fsdp", [(2, False), (4, False), (2, True)])
def test_the_loss_curve_does_not_depend_on_the_number_of_processes(alone, tmp_path, processes, fsdp):
    told = []
    config = tiny(out=str(tmp_path), processes=processes, fsdp=fsdp, **SHORT)
    run = train(config, on_progress=told.append)
    assert run.finished and load_run(config.folder).config.identity() == alone.config.identity()
    assert losses(run) == pytest.approx(losses(alone), abs=1e-4, nan_ok=True)
    assert run.samples["clip_id"].tolist() == alone.samples["clip_id"].tolist()
    assert run.evaluations["flops"].tolist() == pytest.approx(alone.evaluations["flops"].tolist())
    assert run.evaluations["samples_seen"].tolist() == [16, 32]
    assert told[-1].step == 4 and [row["step"] for row in told[-1].evaluations] == [2, 4], (
        "progress came through"
    )
    weights = [dict(r.model.named_parameters()) for r in (run, alone)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].shape == weights[1][name].shape for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, then", [(dict(processes=2, fsdp=True), {}), ({}, dict(processes=2, fsdp=True))]
)
def test_a_run_goes_on_in_another_number_of_processes(alone, tmp_path, first, then):
    def stop(progress):
        if progress.step == 1:
            request_stop(config.folder)

    config = tiny(out=str(tmp_path), **SHORT, **first)
    with pytest.raises(TrainingError, match="asked to stop"):
        train(config, on_progress=stop) if not first else train_and_stop(config)
    assert load_run(config.folder).evaluations["step"].tolist() == [2]
    run = train(tiny(out=str(tmp_path), **SHORT, **then))
    assert losses(run) == pytest.approx(losses(alone), abs=1e-4, nan_ok=True)


def train_and_stop(config):
    """Train in processes that are asked to stop before they have begun."""
    import threading

    over = threading.Event()

    def ask():
        while not over.wait(0.05):
            if (config.folder / "progress.json").exists():
                request_stop(config.folder)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        train(config)
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_stopped_is_no_failure_and_goes_on(tmp_path, alone):
    config = tiny(out=str(tmp_path), **SHORT)
    with pytest.raises(Stopped, match="goes on from step 2"):
        train(config, on_progress=lambda progress: request_stop(config.folder))
    assert losses(train(config)) == pytest.approx(losses(alone), abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_processes_end_with_who_started_them(tmp_path, alone):
    """Killed where nothing can be cleaned up; what goes on from there ends the same."""
    config = tiny(out=str(tmp_path), processes=2, **SHORT)
    code = f"from fvlm import RunConfig, train\ntrain(RunConfig.from_dict({config.to_dict()!r}))"
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    while not (config.folder / "evaluations.parquet").exists():
        assert launcher.poll() is None
        time.sleep(0.02)
    children = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    assert len(children) >= 3 and not psutil.wait_procs(children, timeout=20)[1]
    assert losses(train(config)) == pytest.approx(losses(alone), abs=1e-4, nan_ok=True)


def test_a_batch_that_processes_can_t_share_is_an_error(tmp_path):
    config = dataclasses.replace(tiny(out=str(tmp_path), **SHORT), processes=3)
    with pytest.raises(ConfigError, match="effective_batch = 8 can't be shared equally by 3"):
        train(config)


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said(tmp_path):
    config = tiny(
        out=str(tmp_path), processes=2, **SHORT | dict(learning_rate=1e30, warmup=0, max_grad_norm=1e30)
    )
    with pytest.raises(TrainingError, match=r"loss of step \d is (nan|inf)"):
        train(config)
