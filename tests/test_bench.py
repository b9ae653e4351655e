"""What `fvlm bench` measures, each kind on the smallest cells."""

import contextlib
import functools
import io
import json
import re
import time

import pytest
import torch
from conftest import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fvlm import build_model
from fvlm.bench import bench_data, bench_evaluate, bench_features, bench_generate, bench_train, compare_train
from fvlm.bench.gpu import bench_cell, bench_looks
from fvlm.bench.parts import PARTS, parts_of_step
from fvlm.bench.peers import bench_peers
from fvlm.bench.scaling import bench_scaling, fit_cost
from fvlm.bench.turns import in_turns
from fvlm.cli import main
from fvlm.costs.machine import matmul_rate
from fvlm.data import training_batches
from fvlm.models.base import VideoLanguageModel
from fvlm.weights import llm_config


@pytest.fixture(scope="module", autouse=True)
def small_matrices():
    """The machine's rate by matrices that one core multiplies in a fraction of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fvlm.bench.train.matmul_rate", functools.partial(matmul_rate, side=1024))
        yield


def numbers(said: str, *patterns: str) -> list[float]:
    """The figure that each pattern's group holds in what was printed."""
    return [float(re.search(pattern, said)[1]) for pattern in patterns]


@pytest.fixture(scope="module")
def step():
    """A training step of two clips, measured once, and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = bench_train(tiny(), samples=2, repeats=1)
    return found, said.getvalue()


def test_a_training_step_takes_time_and_no_more_than_the_machine_gives(step):
    found, _ = step
    assert found["seconds"] > 0 and 0 < found["share"] < 1.5


def test_a_training_step_takes_more_memory_than_its_model_and_gradients(step):
    model = build_model(tiny(), pretrained=False)
    whole, trained = (
        sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not only)
        for only in (False, True)
    )
    assert step[0]["peak_memory_bytes"] > whole + trained


def test_what_bench_train_prints_is_what_it_returns(step):
    found, said = step
    seconds, share, peak = numbers(
        said, r"([\d.]+) s a step", r"([\d.]+) of the matrix rate", r"peak ([\d.]+) GB"
    )
    assert seconds == pytest.approx(found["seconds"], abs=0.005)
    assert share == pytest.approx(found["share"], abs=0.005)
    assert peak == pytest.approx(found["peak_memory_bytes"] / 1e9, abs=0.005)
    assert said.startswith("T1-T_2f_fov, 2 clips x 2 frames, ")
    parts = {name: found[f"{name.replace(' ', '_')}_seconds"] for name in PARTS}
    for name, seconds in parts.items():
        assert f"{name} {100 * seconds / sum(parts.values()):.0f} %" in said


@pytest.mark.parametrize("arch", ["foveated", "baseline", "blind"])
def test_each_part_of_a_step_is_timed_and_none_twice(arch, monkeypatch):
    config = tiny(arch)
    model = build_model(config, pretrained=False).train()
    slow = {"llm": 0.05, "query": 0.03} if arch == "foveated" else {"llm": 0.05}
    decoder = model.llm.get_decoder()
    passes = 2 if arch == "foveated" else 1  # coarse and fine
    monkeypatch.setattr(decoder, "forward", slowed(decoder.forward, slow["llm"]))
    if arch == "foveated":
        monkeypatch.setattr(model.vision, "look", slowed(model.vision.look, slow["query"]))
    before = dict(decoder.__dict__)
    inputs = dict(
        frames=torch.zeros(2, 2, 3, 112, 112, dtype=torch.uint8), labels=torch.randint(3, 400, (2, 8))
    )
    start = time.perf_counter()
    found = parts_of_step(model, config, inputs, repeats=1)
    whole = time.perf_counter() - start
    assert list(found) == list(PARTS) and all(seconds >= 0 for seconds in found.values())
    assert found["LLM"] >= passes * 0.05
    assert (found["query pass"] >= 2 * 0.03) == (arch == "foveated")
    assert (found["vision encoder"] > 0) == (arch != "blind")
    assert sum(found.values()) < whole, "two steps were taken, one is told"
    assert decoder.__dict__ == before and "token_losses" not in model.__dict__


def slowed(function, seconds: float):
    def call(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    return call


def test_share_times_matrix_rate_times_seconds_are_the_flops_of_the_step(step):
    """Which are counted by PyTorch, for two clips with 32 text tokens each."""
    found, said = step
    config = tiny()
    model = build_model(config, pretrained=False).train()
    frames, labels = torch.zeros(2, 2, 3, 112, 112), torch.randint(3, 400, (2, 32))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(frames, labels=labels).loss.backward()
    counted = counter.get_total_flops()
    printed, rate = (1e9 * n for n in numbers(said, r"([\d.]+) GFLOP,", r"last ([\d.]+) GFLOP/s"))
    assert printed == pytest.approx(counted, abs=0.6e9)
    assert found["share"] * rate * found["seconds"] == pytest.approx(counted, rel=0.05)


@pytest.mark.slow
def test_bench_data_prints_the_rates_and_the_wait_that_it_returns(capsys):
    found = bench_data(tiny("blind"), samples=2, repeats=2, clips=20)
    said = capsys.readouterr().out
    drawn, prepared, read, waiting = numbers(
        said,
        r"px: (\d+) a second drawn",
        r"process; (\d+) prepared by 2",
        r"included; (\d+) read by 2",
        r"waiting for data ([\d.]+)%",
    )
    assert min(found["drawn"], found["prepared"], found["read"]) > 0 and 0 < found["waiting"] < 1
    rates = [found[name] for name in ("drawn", "prepared", "read")]
    assert [drawn, prepared, read] == pytest.approx(rates, abs=0.5)
    assert waiting == pytest.approx(100 * found["waiting"], abs=0.005)


@pytest.mark.slow
def test_a_slow_loader_shows_as_waiting(monkeypatch):
    """Batches that come half a second late, to a step that takes much less."""
    batches = training_batches

    def late(*arguments):
        for batch in batches(*arguments):
            time.sleep(0.5)
            yield batch

    monkeypatch.setattr("fvlm.bench.data.training_batches", late)
    assert bench_data(tiny("blind"), samples=2, repeats=2, clips=20)["waiting"] > 0.6


def test_the_command_measures_the_cell_it_is_given(capsys):
    assert main(["bench", "train", "--cell", "T1-T_2f_bli", "--samples", "1", "--repeats", "1"]) == 0
    assert capsys.readouterr().out.startswith("T1-T_2f_bli, 1 clips x 2 frames, ")


def test_a_filled_store_saves_the_frozen_vision_model(capsys):
    found = bench_features(tiny(), samples=2, repeats=2)
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"] and found["ratio"] > 1
    printed = numbers(capsys.readouterr().out, r"without: ([\d.]+) ")
    assert printed == pytest.approx([found["ratio"]], abs=0.005)


def test_the_report_says_where_when_and_of_what_it_is(tmp_path):
    file = tmp_path / "bench" / "train.json"
    arguments = ["--cell", "T1-T_2f_bli", "--samples", "1", "--repeats", "1", "--json", str(file)]
    assert main(["bench", "train", *arguments]) == 0
    report = json.loads(file.read_text())
    assert report["measured"]["T1-T_2f_bli"]["seconds"] > 0
    assert {"kind", "device", "cpu_bf16", "precision", "date", "commit", "torch"} <= report.keys()


@pytest.mark.alone
def test_turns_know_the_slower_one_and_by_how_much():
    turns = in_turns(lambda: time.sleep(0.06), lambda: time.sleep(0.02), repeats=3, device="cpu")
    assert turns["ratio_low"] <= turns["ratio"] <= turns["ratio_high"]
    assert turns["ratio"] == pytest.approx(3, rel=0.2)
    assert turns["first_seconds"] == pytest.approx(0.06, rel=0.2)


@pytest.mark.alone
def test_two_settings_are_compared_and_more_work_is_slower(capsys):
    both = {"frames=1": tiny(frames=1), "frames=8": tiny(frames=8)}
    found = compare_train(both, samples=2, repeats=3)
    seconds = [row["seconds"] for row in found["settings"]]
    assert seconds[0] < seconds[1] and found["ratio_low"] <= found["ratio"] <= found["ratio_high"] < 1
    said = capsys.readouterr().out
    (printed,) = numbers(said, r"frames=8 is ([\d.]+) ")
    assert printed == pytest.approx(found["ratio"], abs=0.005)
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [
        ["frames=1", "T1-T_1f_fov"],
        ["frames=8", "T1-T_8f_fov"],
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gaze", "--compare", "seed=0", "seed=1"), "gaze does not"),
        (("train", "--compare", "seed=0", "seed=0"), "twice"),
        (("train", "--compare", "seed=0", "sed=1"), "did you mean seed"),
    ],
)
def test_what_can_t_be_compared_is_told(arguments, told, capsys):
    assert main(["bench", *arguments, "--cell", "T1-T_2f_bli"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.alone
def test_an_evaluation_takes_longer_than_the_parallel_loss_alone(capsys):
    found = bench_evaluate(tiny(frames=8), samples=2, repeats=3)
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"] and found["ratio"] > 1
    printed = numbers(capsys.readouterr().out, r"alone [\d.]+ s: ([\d.]+) ", r"takes ([\d.]+) s")
    assert printed == pytest.approx([found["ratio"], found["evaluation_seconds"]], abs=0.005)


@pytest.mark.alone
@pytest.mark.parametrize("arch", ["foveated", "baseline", "blind"])
def test_a_text_is_looked_for_then_written_to_its_end(arch, monkeypatch):
    """Also where the model would end it at once."""
    lengths = []
    generate = VideoLanguageModel.generate

    def counted(model, *arguments, **options):
        texts = generate(model, *arguments, **options)
        lengths.append({len(text) for text in texts})
        return texts

    monkeypatch.setattr(VideoLanguageModel, "generate", counted)
    found = bench_generate(tiny(arch), samples=2, repeats=2)
    assert 0 < found["encode_seconds"] < found["first_token_seconds"] < found["seconds"]
    assert found["tokens_per_second"] > 0 and lengths == [{1}, {32}] * 3


def test_a_fit_of_costs_finds_what_they_were_made_of():
    made = [(x, 0.5 + 0.01 * x + 1e-5 * x * x) for x in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    fit = fit_cost(made)
    assert [fit["fixed"], fit["slope"], fit["quadratic"]] == pytest.approx([0.5, 0.01, 1e-5], rel=1e-4)
    assert fit["worst"] < 1e-6
    assert fit_cost(made[:2]) is None
    assert fit_cost([(0.5, 0.0), *made]) == fit, "too small to be measured"
    assert fit_cost([(1, 3.0), (2, 2.0), (4, 1.0), (8, 1.0)])["slope"] == 0, "no cost falls below zero"


@pytest.mark.alone
@pytest.mark.slow
def test_costs_are_measured_along_every_axis_and_what_was_left_out_is_told(capsys):
    config = tiny(llm="tiny1", frames=1)
    found = bench_scaling(config, 1, frames=(1, 2, 8), llms=("tiny2",), batches=(2,))
    assert [(p["axis"], p["cell"], p["batch"]) for p in found["points"] if p["arch"] == "foveated"] == [
        *(("frames", f"T1-T_{frames}f_fov", 1) for frames in (1, 2, 8)),
        ("llm", "T2-T_1f_fov", 1),
        ("batch", "T1-T_1f_fov", 2),
    ]
    points = {(p["axis"], p["arch"], p["x"]): p for p in found["points"]}
    for arch in ("foveated", "baseline"):
        assert points["frames", arch, 8]["seconds"] > points["frames", arch, 1]["seconds"] > 0
        assert points["frames", arch, 8]["gflop"] > 4 * points["frames", arch, 1]["gflop"]
    measures = {(f["axis"], f["measure"]) for f in found["fits"]} - {("frames", "memory")}
    assert measures == {("frames", "seconds")}  # memory may all have been there already
    slopes = {(f["arch"], f["measure"]): f["slope"] for f in found["fits"]}  # three points: no square
    saved = slopes["baseline", "seconds"] - slopes["foveated", "seconds"]
    assert found["saved_per_frame"]["seconds"] == pytest.approx(saved)
    assert "saves" in capsys.readouterr().out and not found["left_out"]


def test_peers_are_smolvlm_with_the_cell_s_sizes_and_with_its_own(monkeypatch, capsys):
    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    monkeypatch.setattr("fvlm.bench.peers.SIGLIP", small | dict(image_size=128, patch_size=16))
    found = bench_peers(tiny(), samples=1, repeats=1)
    assert [row["tokens_per_frame"] for row in found["peers"]] == [4, 4]  # 8 x 8 patches, 4 x 4 joined
    for row in found["peers"]:
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["cell_seconds"])
    assert capsys.readouterr().out.count("times as fast as SmolVLM") == 2


def test_a_stream_is_timed_beside_16_64_and_81_tokens_a_frame(monkeypatch, capsys):
    from fvlm.bench import bench_stream, stream

    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    sizes = (
        (small | dict(image_size=512, patch_size=16), 4),
        (small | dict(image_size=378, patch_size=14), 3),
    )
    monkeypatch.setattr(stream, "PEERS", sizes)
    config = tiny()
    found = bench_stream(config, repeats=2, contexts=(2, 40))
    rows = {(row["tokens_per_frame"], row["frames"]): row for row in found["rows"]}
    assert {tokens for tokens, _ in rows} == {1, 16, 64, 81} and len(rows) == 8
    llm = llm_config(config)
    number = 2 if config.precision == "bf16" else 4  # bytes
    for (tokens, frames), row in rows.items():
        token = 2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim * number
        assert row["cache_bytes"] == frames * tokens * token, "keys and values of what was seen, nothing else"
        assert row["frames_per_second"] == pytest.approx(1 / row["seconds"])
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert rows[1, 40]["ratio"] == 1 and capsys.readouterr().out.count("times as many frames a second") == 3


def test_points_that_time_or_memory_do_not_suffice_for_are_left_out(monkeypatch):
    small = dict(repeats=1, frames=(1, 2), llms=(), batches=())
    monkeypatch.setattr("fvlm.bench.scaling.available_memory", lambda _: 1000)
    found = bench_scaling(tiny("foveated"), **small)
    assert (
        not found["points"]
        and [why.partition(": needs ")[1] for why in found["left_out"]] == [": needs "] * 4
    )
    found = bench_scaling(tiny("foveated"), **small, minutes=0)
    assert not found["points"] and "minutes would be up" in found["left_out"][0]


@pytest.mark.parametrize(
    "bench",
    [
        lambda config: bench_train(config, samples=1, repeats=1),
        lambda config: bench_evaluate(config, samples=1, repeats=1),
        lambda config: bench_data(config, samples=1, repeats=1, clips=20),
        lambda config: bench_features(config, samples=1, repeats=1),
        lambda config: bench_scaling(config, 1, frames=(1,), llms=(), batches=()),
        lambda config: bench_cell(config, 1),
        lambda config: bench_looks(config, 1),
        lambda config: compare_train({"a": config, "b": config}, samples=1, repeats=1),
    ],
)
def test_a_cell_that_trains_compiled_is_measured_compiled(bench, monkeypatch):
    compiled = []
    monkeypatch.setattr("fvlm.bench.inputs.compile_backbones", compiled.append)
    monkeypatch.setattr("fvlm.bench.gpu.RATE_SIDE", {"cpu": 256})
    bench(tiny(effective_batch=1))
    assert not compiled
    bench(tiny(effective_batch=1, compile=True))
    assert compiled and all(isinstance(model, VideoLanguageModel) for model in compiled)
