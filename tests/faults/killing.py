"""Processes that are killed at a chosen change of the disk: `killing.py KIND FOLDER POINTS SEED`.

Every write, rename, removal and new folder is a point; a child, forked so that nothing is imported twice, is
killed right before one, goes on in another child, and what it leaves is compared with what an undisturbed one
left. Prints a line per point that was tried, and ends with 1 at the first difference."""

import json
import os
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
SHORT = dict(steps=3, eval_every=1, eval_samples=2, effective_batch=1, features=False, frames=2)


def changes(event: str, arguments: tuple) -> bool:
    """Whether an audited event changes the disk."""
    if event in CHANGES:
        return True
    return (
        event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    )


def child(work, kill_at: int | None = None) -> tuple[int, int]:
    """Do `work` in a child; the points it came by, and how it ended (0, or minus the signal)."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        seen, mine = 0, os.getpid()

        def count(event, arguments):
            nonlocal seen
            if os.getpid() == mine and changes(event, arguments) and "/dev/" not in str(arguments[0]):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os.write(write, str(seen).encode())
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as told:
        points = int(told.read() or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return points, status


# ── What is killed ───────────────────────────────────────────────────────────────────────────────


def train_work(folder: Path, **others):
    from fvlm import ConfigError, RunConfig, train

    def work():
        plain = dict(
            llm="tiny1", vision="tiny", arch="foveated", device="cpu", precision="fp32", out=str(folder)
        )
        try:
            train(RunConfig(**plain | SHORT | others))
        except ConfigError as error:  # the old run is still whole: it is to be replaced
            if "another configuration" not in str(error):
                raise
            train(RunConfig(**plain | SHORT | others | dict(overwrite=True)))

    return work


def train_result(folder: Path):
    import pandas as pd

    from fvlm.files import sha256

    (run,) = folder.glob("runs/*_seed0")
    table = pd.read_parquet(run / "evaluations.parquet")
    losses = {name: table[name].tolist() for name in table if name.startswith("loss_") or name == "step"}
    left = sorted(p.name for p in run.iterdir() if p.name != ".lock")
    assert "checkpoint" not in left, left
    return repr((losses, sha256(run / "model/model.safetensors"), left))


def prepare_work(folder: Path, **others):
    from fvlm.data import prepare as module

    class Here:
        """Decode in this process."""

        def __init__(self, records, settings, workers, allow_private):
            self.outcomes = (module.process(record, settings) for record in records)

        def __enter__(self):
            return self.outcomes

        def __exit__(self, *_):
            pass

    module._ordered = Here
    given = dict(frames=2, size=56, shard=4, clips=21) | others
    overwrite = given.pop("overwrite", False)

    def work():
        try:
            module.prepare(module.Settings("shapes", **given), folder, overwrite=overwrite)
        except module.ConfigError as error:
            if "prepared otherwise" not in str(error):
                raise
            module.prepare(module.Settings("shapes", **given), folder, overwrite=True)

    return work


def prepare_result(folder: Path):
    from fvlm.data.prepare import read_manifest, verify

    assert verify(folder) == []
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == ["data", "manifest.json"]
    return json.dumps(read_manifest(folder), sort_keys=True)


KINDS = {  # before, what is killed, what goes on, what is left
    "train": (None, train_work, {}, train_result),
    "prepare": (None, prepare_work, {}, prepare_result),
    "train, overwriting": (dict(learning_rate=1e-4), train_work, dict(overwrite=True), train_result),
    "prepare, overwriting": (dict(quality=50), prepare_work, dict(overwrite=True), prepare_result),
}


def main(kind: str, root: Path, points: int, seed: int) -> int:
    import fvlm.models  # before there are children
    import fvlm.training  # noqa: F401

    before, work, killed, result = KINDS[kind]
    start = root / "start"
    start.mkdir(parents=True)
    if before is not None:
        assert child(work(start, **before))[1] == 0
    whole = shutil.copytree(start, root / "whole")
    count, status = child(work(whole, **killed))
    assert status == 0 and count > 10, (status, count)
    expected = result(whole)
    dice = random.Random(seed)
    for number in range(points):
        part = shutil.copytree(start, root / str(number))
        at = 1 + int((number + dice.random()) / points * count)
        while (status := child(work(part, **killed), kill_at=at)[1]) == 0 and at > count * 3 // 4:
            # how often progress is written depends on the time: this run came by fewer points
            shutil.rmtree(part)
            at, part = at - 1, shutil.copytree(start, part)
        if status != -signal.SIGKILL:
            print(f"{kind}, point {at} of {count}: it was not killed, but ended with {status}")
            return 1
        _, status = child(work(part))
        if status or result(part) != expected:
            print(f"{kind}, point {at} of {count}: another result, or none ({status})")
            return 1
        print(f"{kind}, point {at} of {count}", flush=True)
        shutil.rmtree(part)
    return 0


if __name__ == "__main__":
    kind, folder, points, seed = sys.argv[1:]
    sys.exit(main(kind, Path(folder), int(points), int(seed)))
