import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, python, result_columns, tiny
from safetensors.torch import load_file

from fvlm import ConfigError, build_model, load_run, train
from fvlm.costs.memory import MicroBatch, OutOfMemory, find_micro_batch
from fvlm.data import Collator, open_dataset, training_batches, validation_batches
from fvlm.training.loop import accumulate_gradient
from fvlm.training.optimizer import make_optimizer, schedule
from fvlm.training.progress import Stopped, TrainingError, request_stop
from fvlm.weights import load_tokenizer

SHORT = dict(steps=4, eval_every=2, eval_samples=4, effective_batch=4, learning_rate=1e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps, and its folder."""
    return train(tiny(out=str(tmp_path_factory.mktemp("out")), **SHORT))


def settings(out, fields) -> list[str]:
    """Command-line arguments for the fields of a configuration."""
    return [part for name, value in (fields | dict(out=out)).items() for part in ("--set", f"{name}={value}")]


def first_batch(config):
    return next(training_batches(config, Collator(load_tokenizer(config.llm), config.task)))


# ── Gradients ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", ["caption", "question"])
@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_accumulated_gradient_equals_the_large_batch_s(arch, task):
    config = tiny(arch, task=task, effective_batch=8, freeze_vision=False)
    batch = first_batch(config)
    lengths = set((batch.labels != -100).sum(1).tolist())
    assert (len(lengths) > 1) == (task == "caption"), "captions differ in length, answers are a word each"
    model = build_model(config, pretrained=False).train()
    gradients = []
    for size in (8, 3, 1):
        model.zero_grad()
        loss = accumulate_gradient(model, batch, config, size)
        gradients.append(
            (loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        for name, g in gradient.items():
            assert torch.allclose(g, gradients[0][1][name], atol=1e-5, rtol=1e-3), name


def test_micro_batches_have_texts_of_like_length():
    batch = first_batch(tiny(effective_batch=16))
    parts, whole = batch.split(4), (batch.labels != -100).sum(1)
    lengths = [(part.labels != -100).sum(1) for part in parts]
    assert torch.equal(torch.cat(lengths), whole.sort().values)
    assert [part.labels.size(1) for part in parts] == [int(n.max()) for n in lengths], (
        "no more than is needed"
    )
    assert sum(part.labels.numel() for part in parts) < batch.labels.numel()
    assert sorted(i for part in parts for i in part.clip_ids) == sorted(batch.clip_ids)
    for part in parts:
        for i, clip_id in enumerate(part.clip_ids):
            row = batch.clip_ids.index(clip_id)
            n = int(whole[row])
            assert torch.equal(part.labels[i, :n], batch.labels[row, :n])
            assert torch.equal(part.frames[i], batch.frames[row])


@pytest.mark.parametrize("task", ["caption", "question"])
def test_every_text_ends_with_the_one_end_of_text_label(task):
    """Though padding has the same id in some tokenizers."""
    labels = first_batch(tiny(task=task)).labels
    ends, last = labels == load_tokenizer("tiny").eos_token_id, (labels != -100).sum(1) - 1
    assert ends.sum(1).eq(1).all() and ends.gather(1, last[:, None]).all()


def test_the_model_learns_to_stop():
    """Trained on four answers of a word each, it writes those words and nothing after them; before, it wrote
    on."""
    config = tiny("meanpool", task="question", learning_rate=3e-3)
    batch, model = first_batch(config), build_model(config, pretrained=False)
    clips = {name: value for name, value in batch.inputs().items() if name != "labels"}
    assert (model.generate(**clips, max_new_tokens=8)[:, :2] != 0).all(), "no text ends after one token"
    optimizer = make_optimizer(model, config)
    for _ in range(20):
        loss = accumulate_gradient(model.train(), batch, config, len(batch))
        optimizer.step()
        optimizer.zero_grad()
    assert (
        loss < 0.1
        and model.eval().generate(**clips, max_new_tokens=8).tolist() == batch.labels[:, :2].tolist()
    )


def test_decay_touches_matrices_only_and_the_connector_has_its_own_rate():
    config = tiny(learning_rate=1e-3, connector_learning_rate=5e-3, weight_decay=0.1)
    model = build_model(config, pretrained=False)
    names = {id(p): n for n, p in model.named_parameters()}
    seen = set()
    for group in make_optimizer(model, config).param_groups:
        for p in group["params"]:
            name = names[id(p)]
            seen.add(name)
            assert group["weight_decay"] == (0.1 if p.dim() > 1 else 0)
            assert group["base_lr"] == (1e-3 if name.startswith(("llm.", "vision.dinov2.")) else 5e-3)
    assert seen == {n for n, p in model.named_parameters() if p.requires_grad}


def test_schedules():
    config = tiny(steps=100, warmup=10, schedule="constant")
    assert schedule(0, config) == pytest.approx(1 / 11) and schedule(10, config) == schedule(99, config) == 1
    wsd = dataclasses.replace(config, schedule="wsd")
    assert schedule(69, wsd) == 1 and schedule(85, wsd) == pytest.approx(0.5) and 0 < schedule(99, wsd) < 0.05
    fifth = dataclasses.replace(wsd, decay=0.2)
    assert schedule(79, fifth) == 1 and schedule(90, fifth) == pytest.approx(0.5)
    cosine = dataclasses.replace(config, schedule="cosine")
    assert (
        schedule(10, cosine) == 1
        and schedule(55, cosine) == pytest.approx(0.5)
        and schedule(99, cosine) < 0.01
    )


# ── What a run leaves ────────────────────────────────────────────────────────────────────────────


def test_a_run_leaves_its_results(finished):
    row = finished.evaluations.iloc[-1]
    assert list(finished.evaluations["step"]) == [2, 4] and row.samples_seen == 16
    expected = (
        "cell, seed, step, samples_seen, loss_parallel, loss_autoregressive, loss_static, right, "
        "flops, visual_tokens, seconds, "
        "samples_per_second, peak_memory_bytes, learning_rate, params_total, params_trainable, "
        "params_embedding, device, "
        "precision, micro_batch, dataset_fingerprint, weights, commit"
    )
    assert list(finished.evaluations.columns) == expected.split(", ")
    assert row.flops > 1e9 and row.peak_memory_bytes > 1e8 and "shapes" in row.dataset_fingerprint
    samples = finished.samples
    assert len(samples) == 4 and samples["clip_id"].is_unique
    for mode in ("parallel", "autoregressive", "static"):
        weighted = (samples[f"loss_{mode}"] * samples["text_tokens"]).sum() / samples["text_tokens"].sum()
        assert weighted == pytest.approx(row[f"loss_{mode}"], rel=1e-9)
    assert sorted(p.name for p in finished.folder.iterdir() if p.suffix != ".lock" and p.name != ".lock") == [
        "config.json",
        "evaluations.parquet",
        "model",
        "samples.parquet",
    ]


def test_the_readme_describes_every_column_of_a_run_and_no_other(finished):
    assert sorted(finished.evaluations.columns) == sorted(result_columns())


def test_who_watches_is_told_every_step_and_in_the_end_every_evaluation(tmp_path):
    told = []
    config = tiny("blind", out=str(tmp_path), **SHORT)
    train(config, on_progress=lambda progress: told.append((progress.step, len(progress.evaluations))))
    assert told == [(1, 0), (2, 1), (3, 1), (4, 2)]
    assert not (config.folder / "progress.json").exists()


def test_the_saved_model_has_the_loss_that_was_recorded(finished):
    run = load_run(finished.folder)
    assert run.config == finished.config and run.finished
    batch = next(validation_batches(run.config, Collator(run.tokenizer, "caption"), 4))
    with torch.no_grad():
        loss = run.model(**batch.inputs(), mode="autoregressive").loss.item()
    assert loss == pytest.approx(run.evaluations["loss_autoregressive"].iloc[-1], abs=1e-5)
    assert len(run.write(run.validation_clips(2), max_new_tokens=4)) == 2


def test_a_finished_run_is_not_trained_again_and_another_configuration_is_refused(finished):
    before = (finished.folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert train(finished.config).finished
    assert (finished.folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = dataclasses.replace(finished.config, learning_rate=2e-3)
    with pytest.raises(ConfigError, match=r"learning_rate was 0.001, is 0.002.*overwrite"):
        train(other)


def test_a_run_saved_before_inputs_were_scaled_is_not_taken_for_one_of_today(tmp_path):
    """Nor does an interrupted one go on at another scale."""
    config = tiny(out=str(tmp_path), scale_input=False, **SHORT)
    before = train(config)
    path = config.folder / "config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("scale_input") is False
    path.write_text(json.dumps(saved))
    assert load_run(config.folder).config == config and train(config).finished
    assert before.model.config.llm_config.model_type == "llama"
    with pytest.raises(ConfigError, match="scale_input was False, is True.*overwrite"):
        train(dataclasses.replace(config, scale_input=True))


@pytest.mark.parametrize("arch", ["foveated", "blind"])
def test_right_are_the_texts_that_it_writes_word_for_word(tmp_path, arch):
    """After a few steps it knows how an answer looks, and guesses one number for all clips."""
    learns = dict(
        steps=40, eval_every=40, eval_samples=40, effective_batch=8, micro_batch=8, learning_rate=3e-3
    )
    world = "shapes:objects=1-2,questions=count"
    run = train(tiny(arch, out=str(tmp_path), task="question", dataset=world, warmup=5, **learns))
    clips = run.validation_clips(40)
    said = run.write(clips)
    assert list(run.samples["right"] == 1) == [text == clip.answer for text, clip in zip(said, clips)]
    assert 0 < run.evaluations["right"].iloc[-1] == run.samples["right"].mean() < 1


def test_models_without_queries_have_one_loss(tmp_path):
    run = train(tiny("blind", out=str(tmp_path), **SHORT))
    row = run.evaluations.iloc[-1]
    assert (
        row.loss_parallel == row.loss_autoregressive
        and math.isnan(row.loss_static)
        and row.visual_tokens == 0
    )


@pytest.mark.slow
def test_bf16_changes_a_loss_curve_by_less_than_a_seed(tmp_path):
    curves = {}
    for precision, seed in (("fp32", 0), ("bf16", 0), ("fp32", 1)):
        out = str(tmp_path / f"{precision}{seed}")
        settings = dict(steps=20, eval_every=10, eval_samples=16, effective_batch=4, warmup=5)
        run = train(tiny(precision=precision, seed=seed, learning_rate=1e-3, out=out, **settings))
        curves[precision, seed] = run.evaluations[["loss_parallel", "loss_autoregressive"]].to_numpy()
    rounding = abs(curves["bf16", 0] - curves["fp32", 0])
    assert (rounding > 0).all() and (rounding < abs(curves["fp32", 1] - curves["fp32", 0])).all()


def test_evaluation_does_not_depend_on_the_micro_batch(finished):
    from fvlm.training.evaluation import evaluate

    collator = Collator(finished.tokenizer, "caption")
    losses = [evaluate(finished.model, collator, finished.config, MicroBatch(n, False))[0] for n in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_more_than_one_epoch_is_refused(monkeypatch, tmp_path):
    class Small(type(open_dataset(tiny(), "train"))):
        def __len__(self):
            return 15

    config = tiny(out=str(tmp_path), **SHORT)
    monkeypatch.setattr(
        "fvlm.training.launch.open_dataset", lambda *_: Small(open_dataset(config, "train").world, "train")
    )
    with pytest.raises(ConfigError, match="16 samples are more than one epoch of 15"):
        train(config)
    assert train(dataclasses.replace(config, allow_epochs=True)).finished


def test_a_loss_that_runs_off_stops_the_run_and_names_the_rate(tmp_path):
    config = tiny(out=str(tmp_path), **SHORT | dict(learning_rate=1e30, warmup=3, max_grad_norm=1e30))
    with pytest.raises(TrainingError, match=r"loss of step 2 is (nan|inf).*1e\+30.*checkpoint, step 0, are"):
        train(config)
    assert not (config.folder / "model").exists() and not (config.folder / "checkpoint").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path, finished, monkeypatch, bad):
    """In step 4, planted; from the checkpoint of step 2 the run then ends as one that nothing happened to."""
    steps = []

    def poisoned(model, *arguments):
        loss = accumulate_gradient(model, *arguments)
        steps.append(loss)
        if len(steps) == 4:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = bad
        return loss

    config = tiny(out=str(tmp_path), **SHORT)
    with monkeypatch.context() as planted:
        planted.setattr("fvlm.training.loop.accumulate_gradient", poisoned)
        with pytest.raises(TrainingError, match=r"loss of step 4 is nan.*checkpoint, step 2, are"):
            train(config)
    assert load_run(config.folder).evaluations["step"].tolist() == [2]
    (kept,) = (config.folder / "checkpoint").glob("step-*")
    assert kept.name == "step-000002"
    assert all(t.isfinite().all() for t in load_file(kept / "weights.safetensors").values())
    losses = [run.evaluations.filter(like="loss_").to_numpy() for run in (train(config), finished)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_question_runs_train_on_answers(tmp_path):
    run = train(tiny(task="question", out=str(tmp_path), **SHORT))
    assert run.samples["text_tokens"].eq(2).all(), "one word and the end"


# ── Killed and started again ─────────────────────────────────────────────────────────────────────

RESUMED = dict(steps=24, eval_every=4, eval_samples=4, effective_batch=4, learning_rate=1e-3)
RESUMED |= dict(dataset="params/mix/shapes.yaml")  # every kind of data, texts alone among them


def start(out):
    command = [sys.executable, "-m", "fvlm", "train", "--cell", "T1-T_2f_fov", *settings(out, RESUMED)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after(out, step):
    """Start the run and kill it, hard, as soon as it has a checkpoint of at least `step`."""
    process = start(out)
    checkpoints = out / "runs" / "T1-T_2f_fov_seed0" / "checkpoint"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(p.name[5:]) >= step for p in checkpoints.glob("step-*")):
            time.sleep(0.05)  # somewhere inside the next steps
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still running"


@pytest.mark.slow
def test_a_run_killed_twice_ends_bit_for_bit_as_one_never_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(timeout=300) == 0
    kill_after(killed, 4)
    kill_after(killed, 12)
    assert start(killed).wait(timeout=300) == 0
    one, two = (load_run(out / "runs" / "T1-T_2f_fov_seed0") for out in (whole, killed))
    weights = [load_file(run.folder / "model" / "model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    same = [c for c in one.evaluations if c not in ("seconds", "samples_per_second", "peak_memory_bytes")]
    pd.testing.assert_frame_equal(one.evaluations[same], two.evaluations[same])
    pd.testing.assert_frame_equal(one.samples, two.samples)
    pd.testing.assert_frame_equal(one.domains, two.domains)


@pytest.mark.slow
def test_two_processes_never_train_one_run_at_once(tmp_path):
    from filelock import FileLock

    config = tiny(out=str(tmp_path), **SHORT)
    config.folder.mkdir(parents=True)
    with FileLock(config.folder / ".lock"):
        done = python("-m", "fvlm", "train", "--cell", "T1-T_2f_fov", *settings(tmp_path, SHORT), check=False)
    assert done.returncode == 2 and "another process" in done.stderr


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────


def test_a_configured_micro_batch_is_taken_as_it_is():
    assert find_micro_batch(None, tiny(micro_batch=5), 16, []) == MicroBatch(5, False)


def test_memory_that_runs_out_halves_then_recomputes_then_says_so():
    micro, tried = MicroBatch(16, False), []
    with pytest.raises(OutOfMemory, match="one clip of 2 frames does not fit"):
        while True:
            tried.append((micro.size, micro.checkpointing))
            micro = micro.smaller(tiny())
    assert tried == [(16, False), (8, False), (4, False), (2, False), (1, False), (1, True)]


@pytest.mark.slow
def test_the_cpu_finds_what_fits_by_measuring():
    """In a process of its own: attempts that really take 60 MB a sample, 15 MB with recomputed
    activations."""
    code = """
import sys, time, torch
sys.path.insert(0, "tests")
from conftest import tiny
import fvlm.costs.memory as memory

def attempt(size, checkpointing):
    block = torch.ones(size * (15 if checkpointing else 60) * 2**18)
    time.sleep(0.1)

for free in (10_000, 200, 100, 45, 1):
    memory.available_memory = lambda device: free * 2**20
    try:
        micro = memory.find_micro_batch(attempt, tiny(), 16, [])
        print(micro.size, micro.checkpointing)
    except memory.OutOfMemory:
        print("does not fit")
"""
    assert python("-c", code).stdout.splitlines() == [
        "4 False",
        "2 False",
        "1 False",
        "1 True",
        "does not fit",
    ]


def test_running_out_of_memory_in_mid_training_changes_no_result(tmp_path, finished, monkeypatch):
    """The allocator's own error, from asking for more than there is while the micro-batch is above two."""
    sizes = []

    def greedy(model, batch, config, size, *rest):
        sizes.append(size)
        if size > 2:
            torch.empty(1 << 48)
        return accumulate_gradient(model, batch, config, size, *rest)

    monkeypatch.setattr("fvlm.training.loop.accumulate_gradient", greedy)
    run = train(tiny(out=str(tmp_path), micro_batch=4, **SHORT))
    assert sizes == [4, 2, 2, 2, 2]
    assert run.evaluations["micro_batch"].eq(2).all() and run.config.effective_batch == 4
    assert run.evaluations["loss_parallel"].tolist() == pytest.approx(
        finished.evaluations["loss_parallel"].tolist(), abs=1e-4
    )


def test_a_run_that_is_asked_to_stop_now_does_so_after_its_step_and_ends_as_one_that_was_not(tmp_path):
    config = tiny(out=str(tmp_path / "stopped"), steps=5, eval_every=4, eval_samples=2, effective_batch=2)

    def ask(progress):
        if progress.step == 2:
            request_stop(config.folder, now=True)

    with pytest.raises(Stopped, match="goes on from step 3"):
        train(config, on_progress=ask)
    steps = []
    stopped = train(config, on_progress=lambda progress: steps.append(progress.step))
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole")))
    assert steps == [4, 5] and not (config.folder / "stop").exists()
    for one, other in zip(stopped.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert stopped.evaluations["loss_parallel"].tolist() == whole.evaluations["loss_parallel"].tolist()


def test_without_a_compiler_a_compiled_run_trains_as_one_that_is_not(tmp_path, monkeypatch, finished):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/c++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # nothing that was compiled before
    torch._dynamo.reset()
    run = train(tiny(out=str(tmp_path), compile=True, **SHORT))
    kept = finished.evaluations[["loss_parallel", "loss_autoregressive"]]
    pd.testing.assert_frame_equal(run.evaluations[kept.columns], kept)
