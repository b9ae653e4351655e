"""`train(config)`: one run at a time in a folder, finished ones left alone, interrupted ones resumed, in one
process or several."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import torch

from fvlm.config import ConfigError, RunConfig
from fvlm.costs.machine import require_device
from fvlm.data import check_dataset, open_dataset
from fvlm.data.mix import described, is_mix, refuse_more
from fvlm.files import (
    disk_refuses,
    is_published,
    read_json_object,
    require_writable,
    sweep,
    sync,
    where,
    write_json,
)
from fvlm.training.callbacks import Callback, Callbacks
from fvlm.training.checkpoints import set_aside_damaged
from fvlm.training.distributed import Processes
from fvlm.training.loop import train_loop
from fvlm.training.progress import Progress, TrainingError, read_progress, request_end
from fvlm.training.results import Run, load_run


def train(
    config: RunConfig,
    callbacks: Iterable[Callback | Callable[[Progress], Any]] | Callable[[Progress], Any] = (),
    on_progress: Callable[[Progress], Any] | None = None,
) -> Run:
    """Train one cell and leave its results in `config.folder`.

    callbacks: one or several, told of the run as it goes (`fvlm.training.Callback`); a plain function is told
    of every step, and so is `on_progress`. A callback may end the run early: then it has a model and can go
    on.

    Finished already with the same configuration: nothing is done again. Interrupted: resumes from the last
    evaluation. Another configuration's results in the folder: ConfigError, unless `config.overwrite`. Raises
    TrainingError if the loss is no longer finite, memory does not suffice or the disk is full; what was
    reached is kept."""
    from filelock import FileLock, Timeout

    callbacks = [callbacks] if callable(callbacks) else callbacks
    told = Callbacks([*callbacks, *([on_progress] if on_progress else [])])
    require_device(config.device)
    check_dataset(config.dataset)
    _keep_published(config)
    require_writable(config.folder / "config.json", f"out = {config.out!r}")
    try:
        with FileLock(config.folder / ".lock", timeout=0):
            sweep(config.folder)
            try:
                _claim(config)
            except OSError as error:
                if not disk_refuses(error):
                    raise
                raise TrainingError(
                    f"{config.folder} can't be written ({error}): the same command begins when there is room"
                ) from error
            run = load_run(config.folder)
            if run.finished:  # and perhaps killed before it had cleaned up
                shutil.rmtree(config.folder / "checkpoint", ignore_errors=True)
                (config.folder / "progress.json").unlink(missing_ok=True)
            else:
                set_aside_damaged(config.folder)  # here, before there are several processes
                for leftover in ("stop", "end", "progress.json"):
                    (config.folder / leftover).unlink(missing_ok=True)
                try:
                    if config.processes > 1:
                        train_in_processes(config, told)
                    else:
                        run.model = train_loop(config, told, Processes(config))
                finally:
                    (config.folder / "progress.json").unlink(missing_ok=True)
                told.end(run)
            return run
    except Timeout:
        raise ConfigError(f"{config.folder}: another process is training this run") from None


def with_own_name(config: RunConfig, say: Callable[[str], Any] = print) -> RunConfig:
    """The configuration where it has a folder to itself: as it is, or if its folder holds a run with another
    configuration, in a study whose name says what is different, which is told by `say`.

    The same configuration comes to the same name again, so that it goes on there."""
    if not (changed := _changes(config)) or (config.overwrite and not is_published(config.folder.parent)):
        return config
    names = [re.sub(r" was .*?, is ", "-", change) for change in changed]
    told = re.sub(r"[^\w.-]+", "-", "_".join(names))
    known = hashlib.sha256(repr(sorted(config.identity().items())).encode()).hexdigest()[:8]
    for suffix in ([told] if len(told) <= LONGEST_NAME else []) + [known]:
        renamed = dataclasses.replace(config, study=f"{config.study}_{suffix}")
        if not _changes(renamed):
            break
    say(
        f"{where(config.folder)} holds a run with another configuration ({'; '.join(changed)}): this one "
        f"is a run of its own, {where(renamed.folder)}"
    )
    return renamed


LONGEST_NAME = 40  # of what a study's name says is different


def _changes(config: RunConfig) -> list[str]:
    """In what the run in a configuration's folder differs from it; nothing, if none is there."""
    if not (config.folder / "config.json").exists():
        return []
    return config.changes_from(load_run(config.folder).config)


def _keep_published(config: RunConfig):
    """ConfigError if training would write over a published run: one of its results, in a study that is
    published, and without the model with which it would count as finished."""
    if not is_published(config.folder.parent) or not (config.folder / "config.json").exists():
        return
    run = load_run(config.folder)
    if run.evaluated and (config.changes_from(run.config) or not run.finished):
        raise ConfigError(
            f"{where(config.folder)} is published, and nothing is written over it: give another study, such "
            "as study = 'mine'"
        )


MIX = "mix.json"  # what a run of a mix was trained on
# What a run leaves that another must not find.
FOLDERS_LEFT = ("checkpoint", "model", "trained", ".model", "measured", "tensorboard")
FILES_LEFT = (
    "evaluations.parquet",
    "samples.parquet",
    "gaze.parquet",
    "swapped.parquet",
    "domains.parquet",
    MIX,
)


def _claim(config: RunConfig):
    """Make the folder this configuration's: refuse another's results, forget what overwrite allows to
    forget."""
    open_dataset(config, "validation")  # ConfigError where there is nothing to validate on
    mix = described(config) if is_mix(config.dataset) else None
    if mix:
        refuse_more(config, config.steps * config.effective_batch)
    elif not config.allow_epochs:
        dataset = open_dataset(config, "train")
        needed = config.steps * config.effective_batch
        if isinstance(dataset, Sized) and needed > len(dataset):
            raise ConfigError(
                f"{config.steps} steps x {config.effective_batch} = {needed} samples are more than one epoch "
                "of "
                f"{len(dataset)} clips: fewer steps, more data, or allow_epochs"
            )
    path = config.folder / "config.json"
    if path.exists():
        changed = config.changes_from(load_run(config.folder).config)
        changed += _mix_changes(config.folder / MIX, mix)
        if not changed:
            return
        if not config.overwrite:
            raise ConfigError(
                f"{config.folder} holds a run with another configuration ({'; '.join(changed)}): "
                "give overwrite (--set overwrite=true, -p overwrite True) to replace it, or another study "
                "name"
            )
        # first what says whose results these are: should this be interrupted, they are nobody's
        path.unlink()
        sync(config.folder)
        for item in config.folder.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    for name in FOLDERS_LEFT:  # results of nobody: an overwrite was interrupted
        shutil.rmtree(config.folder / name, ignore_errors=True)
    for name in FILES_LEFT:
        if (config.folder / name).is_file():
            (config.folder / name).unlink()
    if mix:
        write_json(config.folder / MIX, mix)
    write_json(
        path,
        {
            name: value
            for name, value in config.to_dict().items()
            if name not in ("out", "study", "overwrite")
        },
    )


def _mix_changes(path: Path, mix: dict | None) -> list[str]:
    """How a mix differs from the one that a run was begun with: its file, or the data it names, may be others
    by now."""
    if mix is None or not path.exists():
        return []
    try:
        before = read_json_object(path)
    except ConfigError as error:
        return [str(error)]
    return [] if before.get("fingerprint") == mix["fingerprint"] else [f"{mix['mix']} or its data changed"]


def train_in_processes(config: RunConfig, callbacks: Callbacks):
    """Train a claimed run in `config.processes` processes and wait for them, passing their progress on.

    ConfigError and TrainingError as `train` raises them, with the processes' own words."""
    if config.effective_batch % config.processes:
        raise ConfigError(
            f"effective_batch = {config.effective_batch} can't be shared equally by {config.processes} "
            "processes"
        )
    if config.device.startswith("cuda") and config.processes > torch.cuda.device_count():
        raise ConfigError(
            f"processes = {config.processes}: this machine has {torch.cuda.device_count()} GPUs"
        )
    with tempfile.TemporaryDirectory() as scratch:
        spec, log = Path(scratch) / "config.json", Path(scratch) / "log"
        spec.write_text(json.dumps(config.to_dict()))
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={config.processes}",
            "--module",
            "fvlm.training.launch",
            str(spec),
        ]
        threads = str(max(1, torch.get_num_threads() // config.processes))
        environment = os.environ | dict(
            FVLM_PROCESSES=str(config.processes), FVLM_LAUNCHER=str(os.getpid()), OMP_NUM_THREADS=threads
        )
        with (
            log.open("w") as output,
            subprocess.Popen(command, stdout=output, stderr=output, env=environment) as child,
        ):
            try:
                told = 0, 0
                callbacks.start(config, _evaluations_there(config))
                while True:
                    ended = child.poll() is not None
                    progress = read_progress(config.folder)
                    if progress and (now := (progress["step"], len(progress["evaluations"]))) > told:
                        told = now
                        shown = {k: v for k, v in progress.items() if k not in ("pid", "time")}
                        if callbacks(Progress(**shown)):
                            request_end(config.folder)
                    if ended:
                        break
                    time.sleep(0.2)
            except BaseException:
                child.terminate()  # the launcher ends its processes
                raise
        if child.returncode:
            errors = [
                line.partition("error: ")[2]
                for line in log.read_text().splitlines()
                if line.startswith("error: ")
            ]
            raise TrainingError(
                errors[0]
                if errors
                else f"one of {config.processes} processes ended: {log.read_text()[-2000:]}"
            )


def _evaluations_there(config: RunConfig) -> int:
    run = load_run(config.folder)
    return len(run.evaluations) if (run.folder / "evaluations.parquet").exists() else 0


def main(spec: str) -> int:
    """One of the processes."""
    threading.Thread(target=_end_with, args=(int(os.environ["FVLM_LAUNCHER"]),), daemon=True).start()
    config = RunConfig.from_dict(json.loads(Path(spec).read_text()))
    processes = Processes(config)
    try:
        train_loop(config, None, processes)
    except Exception as error:
        if not isinstance(error, ConfigError | TrainingError):
            traceback.print_exc()
        print(f"error: {error or type(error).__name__}", file=sys.stderr, flush=True)
        return 1
    processes.end()
    return 0


def _end_with(launcher: int):
    """End this process once the one that started the run, and holds its lock, is gone."""
    import psutil

    while psutil.pid_exists(launcher) and psutil.Process(launcher).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
