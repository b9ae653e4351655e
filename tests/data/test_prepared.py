"""Reading prepared data back: any position of the order, with any number of workers and ranks."""

import json
import random
import shlex
import shutil
import time
from collections import Counter

import numpy as np
import pytest
from conftest import tiny

from fvlm import ConfigError, RunConfig, load_run, train
from fvlm.cli import main, print_manifest
from fvlm.data import Collator, PreparedDataset, loading, open_dataset, training_batches, validation_batches
from fvlm.data.loading import Batches
from fvlm.data.prepare import Settings, next_command, prepare, warning
from fvlm.data.prepared import BUFFER, Shuffled, parse_mixture
from fvlm.weights import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hundred and twenty clips of two frames in shards of ten."""
    path = tmp_path_factory.mktemp("data") / "set"
    prepare(Settings("shapes", frames=2, size=56, clips=120, shard=10), path)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "other"
    prepare(Settings("shapes:seed=9", frames=2, size=56, clips=60, shard=10), path)
    return path


def collator():
    return Collator(load_tokenizer("tiny"), "caption")


def ids(batches) -> list[list[str]]:
    return [batch.clip_ids for batch in batches]


def test_a_loader_stopped_anywhere_goes_on_with_exactly_the_remaining_clips(folder):
    """With 0, 1 and 3 workers, on 1 and 2 ranks."""
    config = tiny(dataset=str(folder), steps=13, effective_batch=8, eval_samples=4)
    dataset = open_dataset(config, "train")
    assert len(dataset) == 108
    whole = ids(training_batches(config, collator()))
    assert [len(batch) for batch in whole] == [8] * 13 and len({i for batch in whole for i in batch}) == 104
    dice = random.Random(0)
    for workers in (0, 1, 3):
        stop = dice.randint(1, 12)
        steps = [range(step * 8, step * 8 + 8) for step in range(stop, 13)]
        assert ids(Batches(open_dataset(config, "train"), steps, collator(), workers)) == whole[stop:]
    stop = dice.randint(1, 12)
    ranks = [ids(training_batches(config, collator(), stop, rank=r, world=2)) for r in range(2)]
    assert [a + b for a, b in zip(*ranks)] == whole[stop:]
    with pytest.raises(ConfigError, match="3 processes"):
        training_batches(config, collator(), 0, rank=0, world=3)


class Stuck:
    """Clips of which a process waits for one as if for a lock that nobody holds, the first time or for some
    seconds each time."""

    def __init__(self, dataset, flag, seconds=None):
        self.dataset, self.flag, self.seconds = dataset, flag, seconds

    def __getitem__(self, item: int):
        if item == 20 and (self.seconds or not self.flag.exists()):
            self.flag.touch()
            time.sleep(self.seconds or 10_000)
        return self.dataset[item]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seconds", [None, 3])
def test_where_reading_hangs_others_take_over_at_that_batch(folder, tmp_path, monkeypatch, workers, seconds):
    """And a slow clip comes in the end, as each waits twice as long as the ones before."""
    monkeypatch.setattr(loading, "PATIENCE", 2)
    monkeypatch.setattr(loading, "POLL", 1)
    dataset = open_dataset(tiny(dataset=str(folder), effective_batch=8, eval_samples=4), "train")
    steps = [range(step * 8, step * 8 + 8) for step in range(6)]
    whole = ids(Batches(dataset, steps, collator(), 0))
    stuck = Stuck(dataset, tmp_path / "seen", seconds)
    with pytest.warns(UserWarning, match="no batch for 2 s: other processes read"):
        batches = Batches(stuck, steps, collator(), workers)
        assert ids(batches) == whole and len(whole) == 6
    assert stuck.flag.exists()


def test_what_a_reading_process_raises_is_not_taken_for_hanging(folder):
    class Broken:
        def __getitem__(self, item: int):
            raise RuntimeError("timed out: DataLoader timed out after 5 seconds, says the disk")

    with pytest.raises(RuntimeError, match="says the disk"):
        ids(Batches(Broken(), [range(4)], collator(), 1))


def test_the_order_is_shuffled_by_seed_and_epoch_and_stays_local(folder):
    dataset = PreparedDataset(folder, "train")
    orders = [dataset.order(*key) for key in ((0, 0), (1, 0), (0, 1))]
    for order in orders:
        assert sorted(order) == list(range(108))
    assert len({tuple(order) for order in orders}) == 3 and tuple(dataset.order(0, 0)) == tuple(orders[0])


def test_clips_move_by_less_than_a_buffer_after_their_shards_are_shuffled(folder, monkeypatch):
    import fvlm.data.prepared as prepared

    monkeypatch.setattr(prepared, "BUFFER", 5)
    dataset = PreparedDataset(folder, "train")
    order = dataset.order(0)
    shards = [int(np.searchsorted(dataset.ends, item, side="right")) for item in order]
    places = [[p for p, s in enumerate(shards) if s == shard] for shard in range(len(dataset.shards))]
    assert all(max(p) - min(p) < len(p) + 2 * 5 for p in places), "a shard is read within one stretch"
    assert shards != sorted(shards) and order.tolist() != sorted(order.tolist()) and BUFFER == 1000


def test_an_epoch_follows_an_epoch_in_another_order(folder):
    data = Shuffled(PreparedDataset(folder, "train"), seed=0)
    first, second = ([data[p].clip_id for p in range(start, start + 108)] for start in (0, 108))
    assert sorted(first) == sorted(second) and first != second and len(set(first)) == 108


def test_several_datasets_are_mixed_by_weight_until_one_is_used_up(folder, other):
    config = tiny(dataset=f"{folder}:0.5,{other}:0.5", effective_batch=4, steps=20)
    data = open_dataset(config, "train")
    sources = Counter(data[p].source for p in range(len(data)))
    assert max(sources["shapes"], sources["shapes:seed=9"]) <= 108 and sources["shapes:seed=9"] in range(
        40, 55
    )
    assert abs(sources["shapes"] - sources["shapes:seed=9"]) < 25
    assert len({data[p].clip_id for p in range(len(data))}) == len(data)
    assert data.fingerprint.count("prepared-") == 2
    heavy = open_dataset(tiny(dataset=f"{folder}:0.9,{other}:0.1", effective_batch=4, steps=20), "train")
    assert Counter(heavy[p].source for p in range(50))["shapes"] > 35


def test_validation_is_the_same_for_every_seed_and_never_repeats(folder):
    clips = [
        ids(validation_batches(tiny(dataset=str(folder), seed=s, eval_samples=100, steps=2), collator(), 5))
        for s in range(2)
    ]
    assert clips[0] == clips[1] and sum(map(len, clips[0])) == 12 == len(
        {i for batch in clips[0] for i in batch}
    )


def test_what_does_not_fit_a_run_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="2 frames, but frames = 8"):
        open_dataset(tiny(dataset=str(folder), frames=8), "train")
    with pytest.raises(ConfigError, match="108 clips"):
        train(tiny(dataset=str(folder), steps=28, effective_batch=4, out=str(tmp_path)))
    for spec, words in (
        (f"{folder}:x,{folder}:1", "no number"),
        (f"{folder}:0,{folder}:1", "positive"),
        (str(tmp_path), "manifest.json"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_dataset(tiny(dataset=spec), "train")
    (tmp_path / "manifest.json").write_text(json.dumps(dict(format=99)))
    with pytest.raises(ConfigError, match="format 99"):
        PreparedDataset(tmp_path, "train")
    assert parse_mixture("a:0.25, b:2") == [("a", 0.25), ("b", 2.0)]


def test_a_run_on_prepared_data_trains_and_resumes_to_the_same_weights(folder, tmp_path, capsys):
    import pandas as pd
    from safetensors.torch import load_file

    settings = dict(dataset=str(folder), steps=4, eval_every=2, eval_samples=8, effective_batch=4)
    whole = train(tiny(out=str(tmp_path / "a"), **settings))

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.step == 3:
            raise Stop

    config = tiny(out=str(tmp_path / "b"), **settings)
    with pytest.raises(Stop):
        train(config, on_progress=stop)
    resumed = train(config)
    a, b = (load_file(run.folder / "model/model.safetensors") for run in (whole, resumed))
    assert all((a[name] == b[name]).all() for name in a)
    assert whole.evaluations["dataset_fingerprint"].iloc[-1].startswith("prepared-")
    assert [c.clip_id for c in load_run(whole.folder).validation_clips(3)] == whole.samples[
        "clip_id"
    ].tolist()[:3]
    assert len(load_run(whole.folder).validation_clips(100)) == 12
    assert main(["swap", "--run", str(whole.folder), "--clips", "100"]) == 0
    assert "has 12 clips, not 100" in capsys.readouterr().out
    swapped = pd.read_parquet(whole.folder / "swapped.parquet")
    assert len(swapped) == swapped["clip_id"].nunique() == 12, "no clip with itself"


@pytest.mark.parametrize("size", [112, 224])
@pytest.mark.parametrize("clips", [1, 5, 100, 182, 4480, 5000])
def test_the_next_step_that_is_printed_works_with_the_clips_there_are(clips, size):
    manifest = dict(splits=dict(train=clips, validation=1), frames=2, size=size)
    command = next_command(manifest, "my data").split("--set ")
    cell = command[0].split()[-1]
    settings = dict(shlex.split(part)[0].split("=", 1) for part in command[1:])
    config = RunConfig.from_cell(cell, **settings)
    assert 0 < config.steps * config.effective_batch <= clips and config.dataset.endswith("my data")
    assert clips < 4480 or "steps" not in settings
    notebook = shlex.split(next_command(manifest, "my data", notebook=True))
    given = {name: value for flag, name, value in zip(notebook, notebook[1:], notebook[2:]) if flag == "-p"}
    config = RunConfig.from_dict(given)
    assert 0 < config.steps * config.effective_batch <= clips and config.cell == cell


def test_too_few_clips_to_validate_on_are_said_and_refused_before_training(folder, tmp_path, capsys):
    manifest = PreparedDataset(folder, "train").manifest
    assert warning(manifest) == "Only 12 validation clips: losses on so few say little"
    none = manifest | dict(
        splits=dict(train=108, validation=0),
        shards=[shard for shard in manifest["shards"] if shard["split"] == "train"],
    )
    print_manifest(none, "x")
    out = capsys.readouterr().out
    assert "No clip fell into validation" in out and "Next" not in out
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    (alone / "manifest.json").write_text(json.dumps(none))
    config = tiny(dataset=str(alone), steps=2, effective_batch=4, out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="no validation clips"):
        train(config)
    assert not (config.folder / "config.json").exists()
