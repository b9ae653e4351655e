"""Looks frame by frame, recorded: what a recording is given and gives, here with one that computes again."""

import contextlib
import math
import traceback
from types import SimpleNamespace

import pytest
import torch
from conftest import steering, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from fvlm import build_model
from fvlm.bench import correctness
from fvlm.costs import memory
from fvlm.costs.memory import MicroBatch
from fvlm.data import Collator
from fvlm.models.inputs import PromptAndMasks, recording
from fvlm.training import evaluation, recorded
from fvlm.training.evaluation import evaluate
from fvlm.training.recorded import RecordedLooks, compute_again, recorder
from fvlm.weights import load_tokenizer

PIXELS = (3, 112, 112)


class Asks(TorchDispatchMode):
    """Where a device would be asked for values, or given ones: what no CUDA graph can hold. (What else one
    can't hold is only seen on a GPU.)"""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **keywords or {})
        name = function.name()
        new = name == "aten::lift_fresh" and made.numel() > 0
        if new or name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"):
            self.places.append("".join(traceback.format_stack(limit=8)))
        return made


def clips(count: int, seed: int, frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, *PIXELS), dtype=torch.uint8, generator=generator)


def prompts(count: int, seed: int) -> PromptAndMasks:
    ids = torch.randint(3, 400, (count, 6), generator=torch.Generator().manual_seed(seed))
    return PromptAndMasks(ids, torch.arange(6) < torch.tensor([[6], [4]] * count)[:count])


@torch.no_grad()
@pytest.mark.parametrize("prompted", [False, True])
def test_a_look_frame_by_frame_asks_nothing_of_the_device_while_it_is_recorded(model, prompted):
    given = prompts(2, 0) if prompted else PromptAndMasks()
    cache = model.eval().encode(clips(2, 0))
    with Asks() as free:
        _, expected = model.look_frame_by_frame(cache, given)
    with recording(), Asks() as captured:
        _, found = model.look_frame_by_frame(cache, given)
    assert free.places, "so it is seen"
    assert not captured.places, captured.places[0]
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("frozen, final", [(False, False), (True, False), (True, True)])
def test_other_clips_and_prompts_are_put_where_the_recorded_ones_were(prompted, frozen, final):
    config = tiny(frames=4, freeze_vision=frozen, read_attended=True, read_final=final)
    model = steering(build_model(config, pretrained=False)).eval()
    looks, told = RecordedLooks(model, compute_again), []
    for seed, sizes in enumerate([(2, 1), (1, 2), (3,), (2,), (2, 1)]):
        frames = clips(sum(sizes), seed)
        given = prompts(len(frames), seed) if prompted else PromptAndMasks()
        together, found = looks.together([model.encode(part) for part in frames.split(sizes)], given)
        tokens, expected = model.visual_tokens(model.encode(frames), "autoregressive", given=given)
        told.append(found is not None)
        if found is not None:
            assert torch.allclose(found, expected, atol=1e-5)
            assert torch.allclose(model.see(found, together), tokens, atol=1e-5)
            if not final:
                with pytest.raises(RuntimeError, match="not kept"):
                    _ = together.last_hidden_state
    assert told == [False, True, True, False, True], "first of their shape: not; one with fewer clips: not"


@torch.no_grad()
def test_what_is_hidden_in_other_clips_is_hidden_where_they_are_replayed(model):
    looks, frames = RecordedLooks(model.eval(), compute_again), clips(2, 0)
    for seed in range(3):
        hidden = torch.rand(2, 4, 64, generator=torch.Generator().manual_seed(seed)) < 0.5
        cache = model.encode(frames).hide(hidden)
        _, found = looks.together([cache])
        _, expected = model.visual_tokens(cache, "autoregressive")
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.fixture
def evaluated(monkeypatch):
    """An evaluation in five batches, the last one smaller, of captions or of questions."""
    monkeypatch.setattr(memory, "MOST_TOGETHER", 4)

    def of(task, **settings):
        torch.manual_seed(0)
        config = tiny(task=task, eval_samples=18, features=False)
        model = steering(build_model(config, pretrained=False))
        collator = Collator(load_tokenizer(config.llm), task)
        return evaluate(model, collator, config, MicroBatch(1, False), **settings)

    return of


@pytest.mark.parametrize("task", ["caption", "question"])
def test_an_evaluation_that_is_recorded_finds_the_same(task, evaluated, monkeypatch):
    means, rows = evaluated(task)
    replayed = []

    def record(function):
        first, again = compute_again(function)
        return first, lambda: (replayed.append(1), again())[1]

    monkeypatch.setattr(evaluation, "recorder", lambda device: record)
    found, found_rows = evaluated(task)
    assert found == pytest.approx(means, abs=1e-5) and found["loss_static"] != found["loss_autoregressive"]
    assert [row["clip_id"] for row in found_rows] == [row["clip_id"] for row in rows]
    for row, expected in zip(found_rows, rows):
        assert row["loss_autoregressive"] == pytest.approx(expected["loss_autoregressive"], abs=1e-4)
    assert len(replayed) >= 2, "checked once, and used"
    replayed.clear()
    evaluated(task, recorded=False)
    assert not replayed


def fails(function):
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def forgets(function):
    """A recording that does not see what is put into its memory."""
    first = function()
    return first, lambda: 1.5 * first


@pytest.mark.parametrize("record, why", [(fails, "not permitted"), (forgets, "differ by 5.0e-01")])
def test_what_can_t_be_recorded_is_computed_as_ever_and_told_once(
    record, why, evaluated, monkeypatch, caplog
):
    means, _ = evaluated("caption")
    monkeypatch.setattr(evaluation, "recorder", lambda device: record)
    assert evaluated("caption")[0] == pytest.approx(means, abs=1e-5)
    told = [r.getMessage() for r in caplog.records if "CUDA graph" in r.getMessage()]
    assert len(told) == 1 and why in told[0] and "and more" not in told[0]


@torch.no_grad()
def test_one_recording_is_kept(model):
    looks = RecordedLooks(model.eval(), compute_again)
    told = [looks.together([model.encode(clips(n, n))])[1] is not None for n in (1, 2, 2, 1, 1, 2)]
    assert told == [False, False, True, False, False, True]


def test_another_attention_than_sdpa_is_not_recorded(model):
    model.llm.config._attn_implementation = "eager"
    assert RecordedLooks(model, compute_again)._record is None


def test_where_it_failed_it_is_not_tried_again(model, monkeypatch):
    monkeypatch.setattr(recorded, "_REFUSED", set())
    assert recorder("cuda:1") and recorder("cuda") and recorder("cpu") is None
    monkeypatch.setattr(type(model), "device", torch.device("cuda:1"))
    RecordedLooks(model, fails)._give_up("of a test")
    assert recorder("cuda:1") is None and recorder("cuda") is not None


class FakeCUDA:
    """What `record_cuda` asks of torch.cuda, written down; a capture leaves its stream behind if it fails."""

    def __init__(self, fails: bool):
        self.fails, self.now, self.told = fails, "of before", []

    @contextlib.contextmanager
    def device(self, device):
        self.told.append(device)
        yield

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        before, self.now = self.now, stream
        yield
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.now = before

    def set_stream(self, stream):
        self.now = stream

    def current_stream(self):
        return _Stream(self.now)

    def Stream(self, device):
        return _Stream(f"aside on {device}")

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.told.append("replayed"))


class _Stream(str):
    def wait_stream(self, other):
        pass


@pytest.mark.parametrize("fail", [False, True])
def test_a_capture_gives_the_stream_back_and_is_the_device_s_own(fail, monkeypatch):
    cuda = FakeCUDA(fail)
    monkeypatch.setattr(recorded.torch, "cuda", cuda)
    recorded._aside.cache_clear()
    ran_on = []

    def function():
        ran_on.append(str(cuda.now))
        return torch.ones(2)

    if fail:
        with pytest.raises(RuntimeError, match="previous error"):
            recorded.record_cuda("cuda:1", function)
    else:
        first, again = recorded.record_cuda("cuda:1", function)
        assert first.tolist() == [1, 1] and again().isnan().all(), "this graph writes nothing"
        assert cuda.told == ["cuda:1", "replayed"]
    assert cuda.now == "of before" and ran_on == ["aside on cuda:1"] * 2
    recorded._aside.cache_clear()


def test_a_device_that_records_something_else_is_seen(monkeypatch):
    def keeps(function):
        first = function()
        return first, lambda: first

    monkeypatch.setattr(recorded, "compute_again", keeps)
    rows = correctness.compare_losses(tiny(query_init_scale=1.0))
    told = {(r["precision"], r["passed"]) for r in rows if r["check"] == "recorded frame by frame"}
    assert told == {("fp32", False), ("bf16", False)}
    monkeypatch.setattr(recorded, "compute_again", fails)
    rows = correctness.compare_losses(tiny())
    assert {r["difference"] for r in rows if r["check"] == "recorded frame by frame"} == {math.inf}
