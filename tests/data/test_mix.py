"""Mixes: which sample a position falls on, how many of each there are, how often they are repeated."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import REPOSITORY, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from fvlm import ConfigError, RunConfig
from fvlm.config import DOMAINS
from fvlm.data import Collator, check_dataset, open_dataset, training_batches, validation_batches
from fvlm.data.loading import Batches
from fvlm.data.mix import mixes, read_mix, repeated, spelled
from fvlm.data.mixture import CHUNK, InTurns, Mixture
from fvlm.weights import load_tokenizer

SHAPES = "params/mix/shapes.yaml"


class Numbers:
    """A dataset of a name and its items."""

    def __init__(self, name, length):
        self.name, self.length = name, length
        self.fingerprint = name

    def __len__(self):
        return self.length

    def __getitem__(self, item):
        return self.name, item

    told = key = __getitem__


def mixed(weights, limits, seed=0):
    parts = [Numbers(f"part {i}", 10) for i in range(len(weights))]
    return Mixture(parts, weights, seed, limits)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    st.integers(200, 3 * CHUNK),
    st.integers(0, 2**32 - 1),
)
def test_every_prefix_has_each_part_s_share(weights, positions, seed):
    counts = mixed(weights, [np.inf] * len(weights), seed).counts(positions)
    expected = positions * np.array(weights) / sum(weights)
    assert counts.sum() == positions and np.abs(counts - expected).max() < 6


def test_counts_are_those_of_the_positions_and_turns_follow_each_other():
    mixture = mixed([3, 1, 0, 2], [np.inf] * 4)
    found = [mixture[p] for p in range(500)]
    assert [sum(name == f"part {i}" for name, _ in found) for i in range(4)] == mixture.counts(500).tolist()
    for i in (0, 1, 3):
        assert [turn for name, turn in found if name == f"part {i}"] == list(range(mixture.counts(500)[i]))
    assert mixture.counts(500)[2] == 0
    across = range(CHUNK - 3, CHUNK + 3)
    fresh = mixed([3, 1, 0, 2], [np.inf] * 4)
    assert [mixture.find(p) for p in across] == [fresh.find(p) for p in reversed(across)][::-1]
    assert [mixed([1, 1], [9, 9], seed=s).find(0)[0] for s in range(8)] != [0] * 8, "seeds begin elsewhere"


@pytest.mark.parametrize("limits", [(50, 1000), (70_000, np.inf), (1000, 10)])
def test_the_length_is_as_long_as_no_part_is_seen_more_often_than_allowed(limits):
    mixture = mixed([0.7, 0.3], list(limits))
    length = len(mixture)
    assert (mixture.counts(length) <= limits).all() and (mixture.counts(length + 1) > limits).any()
    assert len(mixed([1, 0], [np.inf, 5])) == 10**9, "what is never in turn limits nothing"


def test_turns_are_fair_until_a_dataset_is_used_up():
    turns = InTurns([Numbers("a", 2), Numbers("b", 5), Numbers("c", 3)])
    names = [turns[i] for i in range(len(turns))]
    assert len(turns) == 10 and names[:6] == [(n, k) for k in (0, 1) for n in "abc"]
    assert names[6:] == [("b", 2), ("c", 2), ("b", 3), ("b", 4)]
    assert [turns.find(i)[0] for i in turns.part_by_part(8)] == [0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(IndexError):
        turns[10]


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def file(tmp_path):
    def write(*parts):
        path = tmp_path / "x.yaml"
        path.write_text(json.dumps(dict(parts=list(parts))))
        return str(path)

    return write


VIDEO = dict(domain="video", data="shapes", weight=3, samples=100, epochs=2)
TEXT = dict(domain="text", data="shapes-text", weight=1)


def test_a_mix_of_the_repository_is_named_alike_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = tiny(dataset=f"{SHAPES}:video=0.5,text=0.5")
    assert config.dataset == f"{SHAPES}:video=0.5,text=0.5" and len(open_dataset(config, "train")) > 9_500
    assert RunConfig.from_dict(config.to_dict()).dataset == config.dataset
    assert spelled(SHAPES, dict(video=0.5, text=0.5)) == config.dataset


def test_weights_after_the_name_are_those_of_domains(file):
    own = file(VIDEO, VIDEO | dict(data="shapes:small=60", weight=1), TEXT)
    assert read_mix(own).domains == {"video": 0.8, "text": 0.2}
    mix = read_mix(f"{own}:video=0.4,text=0.6")
    assert mix.domains == pytest.approx({"video": 0.4, "text": 0.6})
    assert mix.weights == pytest.approx([0.3, 0.1, 0.6]), "parts of a domain keep their proportion"
    assert read_mix(f"{own}:text=1").domains == {"video": 0, "text": 1}
    for weights, words in (
        ("image=1", "video, text"),
        ("video=0", "positive"),
        ("video=x", "no weight"),
        ("video=2,text=-1", "positive"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_mix(f"{own}:{weights}")


@pytest.mark.parametrize(
    "part, words",
    [
        (dict(domain="sound"), "video, image, images, text"),
        (dict(weight=-1), "negative"),
        (dict(samples=0), "positive"),
        (dict(epochs="many"), "expected a number"),
        (dict(colour=1), "unknown name 'colour'"),
        (dict(data="shapes:size=9"), "no setting"),
        (dict(data="nowhere_8f", prepare="fvlm prepare x --out nowhere_8f"), "fvlm prepare x"),
        (dict(weight=0), "no part has a weight"),
    ],
)
def test_what_is_wrong_with_a_mix_is_said_before_anything_is_trained(file, part, words):
    with pytest.raises(ConfigError, match=words):
        check_dataset(file(VIDEO | part))
    with pytest.raises(ConfigError, match="no such file"):
        check_dataset("elsewhere.yaml")


def test_every_mix_of_the_repository_can_be_read():
    paths = mixes(REPOSITORY / "params/mix")
    assert len(paths) >= 4
    for path in paths:
        mix = read_mix(str(path))
        assert set(mix.domains) <= set(DOMAINS) and sum(mix.weights) == pytest.approx(1)
        assert all(part.built_in or part.prepare for part in mix.parts), "each says how it is made"


# ── As a run sees it ─────────────────────────────────────────────────────────────────────────────


def ids(batches):
    return [batch.clip_ids for batch in batches]


def test_ranks_and_workers_and_a_stop_change_no_batch():
    config = tiny(dataset=SHAPES, steps=12, effective_batch=8)
    collator = Collator(load_tokenizer("tiny"), "caption")
    whole = ids(training_batches(config, collator))
    ranks = [ids(training_batches(config, collator, 5, rank=r, world=2)) for r in range(2)]
    assert [a + b for a, b in zip(*ranks)] == whole[5:]
    steps = [range(step * 8, step * 8 + 8) for step in range(7, 12)]
    for workers in (0, 2):
        assert ids(Batches(open_dataset(config, "train"), steps, collator, workers)) == whole[7:]
    assert len({i for batch in whole for i in batch}) == 96
    assert ids(training_batches(tiny(dataset=SHAPES, steps=12, seed=1), collator))[0] != whole[0]


def test_validation_has_as_many_clips_of_each_domain_whatever_the_weights(file):
    collator = Collator(load_tokenizer("tiny"), "caption")
    found = []
    for weights in ("", ":video=1", ":text=0.9,image=0.1"):
        config = tiny(dataset=SHAPES + weights, eval_samples=16)
        batches = list(validation_batches(config, collator, 4))
        assert [set(batch.domains) for batch in batches] == [{d} for d in DOMAINS], "a kind at a time"
        found.append(ids(batches))
    assert found[0] == found[1] == found[2]


def test_repetition_is_counted_and_limited(file):
    from fvlm.data.mix import refuse_more

    config = tiny(dataset=file(VIDEO, TEXT))
    assert repeated(config, 100) == {"video": pytest.approx(0.75, abs=0.02), "text": 0}
    refuse_more(config, 266)
    with pytest.raises(ConfigError, match=r"shapes would be seen .* 200 are allowed .*At most 26\d samples"):
        refuse_more(config, 400)
    shown = Counter(open_dataset(config, "train").told(p).clip_id for p in range(260))
    assert max(shown.values()) == 2 and len([i for i in shown if i.startswith("video")]) == 100
