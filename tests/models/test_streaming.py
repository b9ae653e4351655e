"""Sessions: frame by frame what a whole clip gives, bounded by a window, undisturbed by talking."""

import time

import numpy as np
import pytest
import torch
from conftest import steering, tiny

from fvlm import ConfigError, RunConfig, build_model
from fvlm.data import ShapesWorld


@pytest.fixture(scope="module")
def frames():
    """A clip of the built-in world, (12, 3, 112, 112) uint8."""
    return ShapesWorld(frames=12, size=112).clip(3).frames


def made(arch="foveated"):
    model = build_model(tiny(arch, frames=4), pretrained=False)
    return steering(model) if model.modes_differ else model


def watched(session, frames):
    for frame in frames:
        session.see(frame)
    return session


def state(session):
    """What decides everything that a session does from now on."""
    layers = [torch.stack([layer.keys, layer.values]) for layer in session.context.cache.layers]
    return torch.stack(layers), session.query


def prompt(model, question):
    ids = model.processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    return dict(prompt_ids=torch.tensor([ids]))


@pytest.mark.parametrize("question", [None, "Which shape is red?"])
@pytest.mark.parametrize("arch", ["foveated", "foveated4"])
def test_a_session_is_the_autoregressive_mode(frames, arch, question):
    model = made(arch)
    given = {} if question is None else prompt(model, question)
    whole = model(torch.from_numpy(frames)[None], mode="autoregressive", **given)
    session = model.stream(question)
    for t, frame in enumerate(frames):
        assert torch.allclose(session.query[0, 0], whole.queries[0, t], atol=1e-4)
        session.see(frame)
    ids = model.generate(torch.from_numpy(frames)[None], **given, max_new_tokens=8)
    assert session.say(max_new_tokens=8) == model.processor.decode(ids[0], skip_special_tokens=True).strip()
    assert (session.seen, session.kept) == (12, 12)


@pytest.mark.parametrize("arch", ["static", "baseline", "meanpool4", "blind"])  # and the two above
def test_every_kind_of_architecture_streams(frames, arch):
    model = made(arch)
    session = watched(model.stream("What?"), frames[:6])
    ids = model.generate(torch.from_numpy(frames[:6])[None], **prompt(model, "What?"), max_new_tokens=5)
    assert session.say(max_new_tokens=5) == model.processor.decode(ids[0], skip_special_tokens=True).strip()


def test_talking_disturbs_nothing_and_takes_generate_s_arguments(frames):
    model = made()
    silent, talks = model.stream(), model.stream()
    for frame in frames[:6]:
        silent.see(frame)
        talks.see(frame)
        said = talks.say(max_new_tokens=3)
        assert talks.say(max_new_tokens=3, num_beams=2) is not None and talks.say(max_new_tokens=3) == said
    for one, other in zip(state(silent), state(talks)):
        assert torch.equal(one, other)


def test_a_question_changes_where_it_looks_from_then_on(frames):
    """And a session that was asked is the one that was asked from the start about the frames it keeps."""
    model = made()
    session, other = watched(model.stream(), frames[:5]), watched(model.stream(), frames[:5])
    tokens = list(session._tokens)
    session.ask("Which shape is red?")
    for frame in frames[5:]:
        session.see(frame)
        other.see(frame)
    assert not np.allclose(session.gaze.map(), other.gaze.map(), atol=1e-6)
    assert all(torch.equal(one, two) for one, two in zip(tokens, session._tokens)), "what was seen is kept"
    x, mask = model.prefix(model.fine_token, torch.cat(list(session._tokens), dim=1), 1, *_given(model))
    assert torch.allclose(model.to_queries(model.read(x, mask)[:, -1:]), session.query, atol=1e-4)


def _given(model):
    from fvlm.models.base import PromptAndMasks

    return (PromptAndMasks(prompt(model, "Which shape is red?")["prompt_ids"]),)


@pytest.mark.parametrize("sink", [0, 2])
def test_with_a_window_it_is_a_fresh_reading_of_what_it_keeps(frames, sink):
    model = made()
    session, seen = model.stream(window=6, sink=sink), []
    for n, frame in enumerate(np.concatenate([frames, frames[::-1]]), start=1):
        session.see(frame)
        x, mask = model.prefix(model.fine_token, torch.cat(list(session._tokens), dim=1), 1)
        states = model.read(x, mask)
        assert torch.allclose(model.to_queries(states[:, -1:]), session.query, atol=1e-4)
        seen.append(session.kept)
        assert session.kept <= 6 and session.seen == n and session.context.mask.size(1) == 1 + session.kept
    first = watched(model.stream(), frames[:2])
    assert not sink or all(torch.equal(a, b) for a, b in zip(first._tokens, list(session._tokens)[:2]))
    assert seen[:7] == [1, 2, 3, 4, 5, 6, sink + (6 - sink) // 2]


def test_a_session_goes_on_from_a_file(frames, tmp_path):
    model = made()
    whole = watched(model.stream("What?", window=4), frames)
    watched(model.stream("What?", window=4), frames[:7]).save(tmp_path / "a.safetensors")
    again = watched(model.stream().load(tmp_path / "a.safetensors"), frames[7:])
    assert (again.seen, again.question, again.window) == (12, "What?", 4)
    for one, other in zip(state(whole), state(again)):
        assert torch.equal(one, other)
    assert again.say(max_new_tokens=4) == whole.say(max_new_tokens=4)
    with pytest.raises(ConfigError, match="no session of this model"):
        build_model(tiny("foveated", llm="tiny2"), pretrained=False).stream().load(tmp_path / "a.safetensors")
    for damaged in (b"", b"no session", (tmp_path / "a.safetensors").read_bytes()[:999]):
        (tmp_path / "b.safetensors").write_bytes(damaged)
        with pytest.raises(ConfigError, match="b.safetensors: no session that can be read"):
            model.stream().load(tmp_path / "b.safetensors")


@pytest.mark.parametrize("arch", ["foveated", "foveated4"])
def test_its_gaze_is_that_of_the_frame_it_just_saw(frames, arch):
    from fvlm.data.clips import Clip
    from fvlm.gaze import gaze

    model = made(arch)
    model.requires_grad_(True)  # as a model that was loaded is
    whole, session = gaze(model, Clip(frames, "", "")), model.stream()
    assert session.gaze is None
    for t, frame in enumerate(frames):
        session.see(frame)
        assert np.allclose(session.gaze.maps[0], whole.maps[t], atol=1e-5)
        assert np.allclose(session.gaze.carried[0], whole.carried[t], atol=1e-4)
    with pytest.raises(TypeError, match="no gaze"):
        _ = watched(made("baseline").stream(), frames[:1]).gaze


def test_a_window_without_room_is_a_user_s_mistake():
    for wrong in (dict(window=1), dict(window=4, sink=3), dict(sink=-1)):
        with pytest.raises(ConfigError, match="window"):
            made().stream(**wrong)


def seen_once(model):
    """The same model, but each frame is encoded once, however often it is shown: that takes as long for every
    frame, so it would only hide what grows."""
    encode, known = model.encode, {}

    def remembered(frames):
        key = frames.numpy().tobytes()
        if key not in known:
            known[key] = encode(frames)
        return known[key]

    model.encode = remembered
    return model


def pace(model, frames, count, window):
    """Seconds of processor time of each of so many frames, and bytes held after it."""
    session, seconds, held = model.stream(window=window), [], []
    for n in range(count):
        start = time.process_time()  # whatever else the machine does
        session.see(frames[n % len(frames)])
        seconds.append(time.process_time() - start)
        held.append(session.memory)
    return seconds, held


def assert_flat(seconds, held, window):
    """Once the window is full, the last tenth of frames takes as long as the first. Half of a window is read
    again at once, so whole turns of it are compared: the median of their times, and what is held at most."""
    turn = window // 2 + 1
    turns = [seconds[i : i + turn] for i in range(window + 1, len(seconds) - turn + 1, turn)]
    usual, again = (np.array([f(one) for one in turns]) for f in (np.median, np.max))
    tenth = max(len(turns) // 10, 1)
    for what in (usual, again):
        first, last = np.median(what[: 2 * tenth]), np.median(what[-tenth:])
        assert last <= 1.15 * first, f"{1000 * first:.1f} ms, in the end {1000 * last:.1f}"
    half = len(held) // 2
    assert max(held[window:half]) == max(held[half:])


@pytest.mark.slow
@pytest.mark.alone
def test_thousands_of_frames_take_constant_time_and_memory_with_a_window(frames):
    assert_flat(*pace(seen_once(made()), frames, 2000, 64), 64)


@pytest.mark.slow
@pytest.mark.alone
def test_the_real_cell_takes_constant_time_and_memory_with_a_window():
    """300 frames through S-S, its LLM and its vision model in full size; random weights."""
    model = seen_once(build_model(RunConfig.from_cell("S-S_8f_fov"), pretrained=False))
    frames = ShapesWorld(frames=2, size=224).clip(3).frames
    assert_flat(*pace(model, frames, 300, 16), 16)


def test_without_a_window_memory_grows_by_the_kv_cache_alone(frames):
    model = seen_once(made())
    _, held = pace(model, frames, 320, None)
    llm = model.config.llm_config
    token = 2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim * 4
    assert set(np.diff(held[256:])) == {token}, "one token of KV cache a frame, all layers"
