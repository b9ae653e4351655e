"""A frozen vision model's features, kept on disk: the same losses with and without them, whatever happens to
them."""

import dataclasses
import multiprocessing
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import python, tiny

from fvlm import ConfigError, build_model, train
from fvlm.costs.machine import autocast
from fvlm.data import Collator, open_dataset, training_batches
from fvlm.data.store import FeatureStore, Known, clear, limit, stores
from fvlm.training.features import Features, fill
from fvlm.training.loop import accumulate_gradient, frozen_weights
from fvlm.weights import load_tokenizer

ARCHS = ("foveated", "static", "baseline", "meanpool")
FINAL = dict(read_attended=True, read_final=True)
SHORT = dict(steps=3, eval_every=3, eval_samples=4, effective_batch=4, micro_batch=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, with the weights of the real one."""
    from fvlm.cache import cache_folder

    real, folder = cache_folder(), tmp_path / "cache"
    folder.mkdir()
    for entry in real.iterdir() if real.exists() else ():
        if entry.name != "features":
            (folder / entry.name).symlink_to(entry)
    monkeypatch.setenv("FVLM_CACHE", str(folder))
    monkeypatch.setenv("FVLM_FEATURES_GB", "1")  # whatever share of this machine's disk happens to be free
    return folder


@pytest.mark.parametrize("precision", ["bf16", "bf16_vision", "fp32"])
@pytest.mark.parametrize(
    ("arch", "settings"), [*((arch, {}) for arch in ARCHS), ("foveated", FINAL)], ids=[*ARCHS, "final"]
)
def test_losses_are_the_same_with_and_without_a_store(tmp_path, arch, settings, precision):
    """Without, filling it, and reading it: bit for bit where vision is bf16, to rounding in fp32."""
    losses = []
    for out, features in (("without", False), ("filling", True), ("reading", True)):
        given = SHORT | settings | dict(out=str(tmp_path / out), features=features)
        config = tiny(arch, precision=precision, **given)
        run = train(config)
        losses.append(run.samples[["loss_parallel", "loss_autoregressive"]].to_numpy())
    kept = stores()
    assert len(kept) == (2 if settings else 1)
    assert all(store.clips == 3 * 4 + 4 for store in kept), "each training and validation clip once"
    if precision != "fp32":
        assert np.array_equal(losses[0], losses[1]) and np.array_equal(losses[0], losses[2])
    assert np.allclose(losses, losses[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("harm", ["cut", "zeroed tail", "flipped bit", "empty", "another clip's", "gone"])
def test_a_damaged_file_is_noticed_and_made_again(harm):
    config = tiny(precision="bf16", **SHORT)
    model = build_model(config)
    features, collator = Features(config, model), Collator(load_tokenizer(config.llm), "caption")
    (whole,) = list(training_batches(dataclasses.replace(config, steps=1), collator, store=features.store))
    expected = features(whole, "cpu", "train").layers[1].inputs
    (told,) = list(training_batches(dataclasses.replace(config, steps=1), collator, store=features.store))
    assert all(clip.frames is None for clip in told.clips), "what is kept is not drawn again"
    path, other = (features.store.path(clip.key) for clip in told.clips[:2])
    content = path.read_bytes()
    damaged = {
        "cut": content[:-100],
        "zeroed tail": content[:-4096] + bytes(4096),
        "flipped bit": content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        "empty": b"",
        "another clip's": other.read_bytes(),
    }
    path.unlink() if harm == "gone" else path.write_bytes(damaged[harm])
    features.hits = features.misses = 0
    found = features(told, "cpu", "train").layers[1].inputs
    assert torch.equal(found, expected) and (features.hits, features.misses) == (3, 1)
    assert path.read_bytes() == content, "and it is there again"


def test_final_states_are_shared_with_the_models_without_queries():
    """What the baseline has kept is not kept again, and a clip is found when all of it is there."""
    collator = Collator(load_tokenizer("tiny1"), "caption")
    bas, fov = (
        tiny(arch, precision="bf16", **SHORT, **more)
        for arch, more in (("baseline", {}), ("foveated", FINAL))
    )
    assert fill(bas, build_model(bas), 4)["kept"] == 8 and fill(fov, build_model(fov), 4)["kept"] == 8
    assert sorted(store.clips for store in stores()) == [8, 8]
    features = Features(fov, build_model(fov))
    (told,) = list(training_batches(dataclasses.replace(fov, steps=1), collator, store=features.store))
    expected = features(told, "cpu", "train")
    assert (features.hits, features.misses) == (4, 0) and all(clip.frames is None for clip in told.clips)
    assert torch.equal(
        expected.last_hidden_state, Features(bas, build_model(bas))(told, "cpu", "train").last_hidden_state
    )
    features.stores["final states"].path(told.clips[1].key).unlink()
    found = features(told, "cpu", "train")
    assert (features.hits, features.misses) == (7, 1)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert features.has(told.clips[1].key), "and it is there again"


def test_nothing_more_is_computed_once_one_of_two_stores_is_full(monkeypatch):
    config, computed = tiny(precision="bf16", **SHORT | FINAL), []
    fill(config, build_model(config), 1)
    for store in stores():
        if store.about["keeps"] == "final states":
            shutil.rmtree(store.folder)
    own = Features.compute
    monkeypatch.setattr(Features, "compute", lambda *given: computed.append(1) or own(*given))
    monkeypatch.setenv("FVLM_FEATURES_GB", "0")
    assert fill(config, build_model(config), 1)["kept"] == 0 and len(computed) == 1


@pytest.mark.slow
def test_several_processes_fill_one_store_and_none_reads_half_a_file():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        wrong = pool.starmap(_write_and_read, [(seed, os.environ["FVLM_CACHE"]) for seed in range(2)])
    assert wrong == [0, 0]
    (stored,) = stores()
    assert stored.clips == 60 and not list(stored.folder.rglob(".*.*")), "no scratch file is left"


def _write_and_read(seed: int, cache: str) -> int:
    os.environ["FVLM_CACHE"] = cache
    store, rng, wrong = _store(), np.random.default_rng(seed), 0
    for number in rng.permutation(60):
        store.write(f"clip {number}", np.full(store.shape, number))
        other = int(rng.integers(60))
        found = store.read(f"clip {other}")
        wrong += found is not None and not (found == other).all()
    return wrong


def _store() -> FeatureStore:
    return FeatureStore(dict(vision="x"), (40, 100), "<f4")


def test_no_more_is_kept_than_is_allowed(monkeypatch):
    store = _store()
    monkeypatch.setenv("FVLM_FEATURES_GB", str(2.5 * store.size / 1e9))
    kept = [store.write(f"clip {i}", np.zeros(store.shape)) for i in range(4)]
    assert kept == [True, True, False, False] and stores()[0].clips == 2
    config = tiny(precision="bf16", **SHORT)
    monkeypatch.setenv("FVLM_FEATURES_GB", "0")
    features = Features(config, build_model(config))
    assert fill(config, build_model(config), 4) | dict(folder="") == dict(clips=8, there=0, kept=0, folder="")
    assert features.store.read("anything") is None


def test_a_disk_that_is_nearly_full_is_left_alone_unless_a_number_says_otherwise(monkeypatch):
    free = 1 << 30
    monkeypatch.setattr("fvlm.data.store.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setenv("FVLM_FEATURES_GB", "0.5")
    assert limit() == 0.5e9
    monkeypatch.setenv("FVLM_FEATURES_GB", "50")
    assert 0 < limit() < free, "something is left for checkpoints"
    monkeypatch.delenv("FVLM_FEATURES_GB")
    assert limit() == 0
    free = 100 << 30
    assert 20e9 < limit() < 40e9


def test_a_bad_limit_is_a_mistake_that_says_what_is_valid(monkeypatch):
    for value in ("lots", "-1", "nan"):
        monkeypatch.setenv("FVLM_FEATURES_GB", value)
        with pytest.raises(ConfigError, match="FVLM_FEATURES_GB"):
            limit()


def test_a_run_goes_on_without_a_store_that_can_t_be_written(tmp_path, cache, monkeypatch):
    (cache / "features").write_text("a file where a folder should be")
    run = train(tiny(precision="bf16", out=str(tmp_path), **SHORT))
    assert run.finished


def test_what_decides_the_features_decides_the_store():
    def folder(**changes):
        config = tiny(**dict(precision="bf16") | SHORT | changes)
        return Features(config, build_model(config)).store.folder

    plain = folder()
    assert folder(seed=5, learning_rate=1e-5, llm="tiny2", steps=9, arch="static") == plain
    assert folder(precision="bf16_vision") == plain, "vision is in bf16 either way"
    others = [
        folder(**c)
        for c in (dict(frames=3), dict(precision="fp32"), dict(vision_layers=3), dict(arch="baseline"))
    ]
    assert len({plain, *others}) == 5


@pytest.mark.parametrize("arch", ARCHS)
def test_with_vision_alone_in_bf16_the_rest_reads_its_features_in_fp32(arch):
    """The features are those of a run in bf16, bit for bit, stored or not; what is made of them is fp32."""
    seen = {}
    for precision in ("bf16", "bf16_vision", "fp32"):
        config = tiny(arch, precision=precision, **SHORT)
        model, collator = build_model(config), Collator(load_tokenizer(config.llm), "caption")
        features = Features(config, model)
        (batch,) = list(training_batches(dataclasses.replace(config, steps=1), collator))
        (told,) = list(training_batches(dataclasses.replace(config, steps=1), collator, store=features.store))
        with torch.no_grad(), autocast(config), frozen_weights(model, config):
            caches = [model.encode(batch.frames), features(told, "cpu", "train")]
            seen[precision] = [
                c.layers[1].inputs if c.layers else c.last_hidden_state for c in caches
            ]  # of frames, and stored
            token = model.visual_tokens(caches[0], "parallel")[0].flatten(1, 2)
            seen[precision].append(model.llm.get_decoder()(inputs_embeds=token).last_hidden_state)
    half, mixed, whole = seen.values()
    assert all(torch.equal(a.float(), b) for a, b in zip(half[:2], mixed[:2])), "the same bits"
    assert all(x.dtype == torch.float32 for x in mixed) and torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], whole[0])
    errors = [(x[2].float() - whole[2]).abs().mean() for x in (half, mixed)]
    assert 0 < errors[1] < errors[0], "half of what is rounded is no more"


def test_worlds_that_draw_the_same_frames_share_them_and_others_do_not():
    def key(dataset, **settings):
        return open_dataset(tiny(dataset=dataset, **settings), "validation").key(3)

    assert key("shapes") == key("shapes:questions=shape") == key("shapes", task="question")
    assert key("shapes") != key("shapes:small=11")
    frames = [
        open_dataset(tiny(dataset=d), "validation")[3].frames for d in ("shapes", "shapes:questions=shape")
    ]
    assert np.array_equal(*frames), "questions are about a clip, not of it"


def test_the_gradient_is_that_of_frames():
    config = tiny(precision="fp32", **SHORT)
    model, collator = build_model(config).train(), Collator(load_tokenizer(config.llm), "caption")
    features, gradients = Features(config, model), []
    for kept in (None, features, features):
        store = kept and kept.store
        (batch,) = list(training_batches(dataclasses.replace(config, steps=1), collator, store=store))
        accumulate_gradient(model, batch, config, 2, features=kept)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() <= 1e-5 * gradients[0].abs().max()


def test_a_vision_model_that_is_trained_has_no_store():
    config = tiny(freeze_vision=False, **SHORT)
    with pytest.raises(ValueError, match="frozen"):
        Features(config, build_model(config))


def test_clips_are_told_without_being_drawn_once_they_are_kept():
    store, dataset = _store(), open_dataset(tiny(), "train")
    known = Known(dataset, store)
    assert known[2].frames is not None
    store.write(dataset.key(2), np.zeros(store.shape))
    told = known[2]
    assert told.frames is None and (told.caption, told.clip_id) == (dataset[2].caption, dataset[2].clip_id)


@pytest.mark.slow
def test_fill_list_and_clear(tmp_path):
    options = [
        "--cell",
        "T1-T_2f_fov",
        "--set",
        "steps=2",
        "--set",
        "effective_batch=2",
        "--set",
        "eval_samples=3",
    ]
    done = python("-m", "fvlm", "features", "--fill", *options)
    assert "7 clips" in done.stdout and "7 kept now" in done.stdout
    assert "7 there already" in python("-m", "fvlm", "features", "--fill", *options).stdout
    listed = python("-m", "fvlm", "features", "--list").stdout
    assert "normed inputs" in listed and " 7 " in listed and "No more is kept" not in listed
    full = python("-m", "fvlm", "features", "--list", env={"FVLM_FEATURES_GB": "0"}).stdout
    assert "No more is kept" in full
    assert "removed" in python("-m", "fvlm", "features", "--clear").stdout and stores() == []
    assert clear() == 0
    done = python("-m", "fvlm", "features", "--fill", *options, env={"FVLM_FEATURES_GB": "0"})
    assert "7 not kept: no room" in done.stdout
    done = python("-m", "fvlm", "features", "--fill", "--cell", "S-S_2f_fov", check=False)
    assert done.returncode == 2 and "freeze_vision" in done.stderr
