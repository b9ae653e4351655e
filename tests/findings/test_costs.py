"""The README's block on costs says what the measurements say, whichever way they point."""

import json

import pytest

from fvlm.findings import costs, figures
from fvlm.findings.costs import readme_costs
from fvlm.plots import cost_scaling
from fvlm.plots.costs import round_steps


def ratio(middle):
    return dict(ratio=middle, ratio_low=0.9 * middle, ratio_high=1.1 * middle)


def report(kind, measured):
    return dict(
        kind=f"bench {kind}",
        device="a machine",
        date="2026-01-02T03:04:05",
        precision="bf16",
        measured=measured,
    )


def points(seconds, memory, arch, cell):
    return [
        dict(axis="frames", arch=arch, cell=cell.format(x), x=x, seconds=seconds * x, vision_share=0.5)
        | dict(peak_memory_bytes=memory * x)
        for x in (1, 8, 64)
    ]


def scaling(foveated, baseline):
    """Seconds that a frame takes, of either; memory a thousand bytes for each microsecond."""
    measured = points(foveated, 1e9 * foveated, "foveated", "T3-T_{}f_fov")
    measured += points(baseline, 1e9 * baseline, "baseline", "T3-T_{}f_bas")
    fits = [
        dict(axis="frames", arch=arch, measure=measure, fixed=0.0, quadratic=0.0, slope=unit * seconds)
        for arch, seconds in (("foveated", foveated), ("baseline", baseline))
        for measure, unit in (("seconds", 1), ("memory", 1e9))
    ]
    saved = dict(seconds=baseline - foveated, memory=1e9 * (baseline - foveated))
    return {"T3-T_8f_fov": dict(points=measured, fits=fits, saved_per_frame=saved)}


def stream(frames):
    """The cell and a peer after so many frames, the peer 30 times as long after 64."""
    return [
        dict(model="S-S_8f_fov", frames=frames, seconds=0.5, llm_ratio=1.0) | ratio(1.0),
        dict(model="a peer", frames=frames, seconds=0.5 * frames, llm_ratio=20.0) | ratio(frames / 2),
    ]


def test_each_measurement_is_quoted_with_device_day_and_command():
    found = dict(
        features=report(
            "features",
            {
                "T1-T_8f_fov": dict(
                    clips_per_second_stored=120.0, clips_per_second_computed=24.0, samples=8, threads=1
                )
                | ratio(5.0)
            },
        ),
        evaluate=report("evaluate", {"T3-T_8f_fov": ratio(1.2)}),
        precision=report(
            "train", {"S-S_8f_fov": dict(settings=[dict(setting="one"), dict(setting="two")]) | ratio(1.5)}
        ),
        peers=report(
            "peers", {"S-S_8f_fov": dict(peers=[dict(peer="a peer", tokens_per_frame=64) | ratio(7.0)])}
        ),
        scaling=report("scaling", scaling(0.010, 0.013)),
        stream=report("stream", {"S-S_8f_fov": dict(repeats=5, rows=stream(2) + stream(64))}),
    )
    said = readme_costs(found)
    assert "120.0" in said and "24.0" in said and "5.00 (4.50 to 5.50)" in said
    assert "T3-T_8f_fov 1.20 (1.08 to 1.32)" in said
    assert "with two is 1.50 (1.35 to 1.65) times as fast as with one" in said
    assert "**Precision**: a training step" in said, "an older report does not say on what"
    for can, told in ((["avx512_bf16"], "with avx512_bf16 a training"), ([], "without bf16 a training")):
        for device in ("cpu (2 threads)", "a GPU"):
            costs = readme_costs(dict(precision=found["precision"] | dict(cpu_bf16=can, device=device)))
            assert (f"on a CPU {told}" in costs) == (device != "a GPU")
    assert "S-S_8f_fov is 7.00 (6.30 to 7.70) times as fast as a peer (64 tokens a frame)" in said
    assert "saves 3.0 ms and 3.0 MB for each frame, of the 13.0 ms that a frame costs the baseline" in said
    assert "with 8 frames 80 and 104 ms, 64 frames 640 and 832 ms" in said
    assert "50 % of the FLOPs (T3-T_64f_fov)" in said
    assert (
        "After 64 frames S-S_8f_fov sees one more in 0.50 s; a peer takes 32.00 (28.80 to 35.20) times"
        in said
    )
    assert (
        "turns: 5. " in said
        and "20.00 times in the LLM's part alone" in said
        and "After 2 frames" not in said
    )
    assert "a machine, 2026-01-02" in said and "`fvlm bench features`, `fvlm bench evaluate`" in said
    assert "saves -3.0 ms" in readme_costs(dict(scaling=report("scaling", scaling(0.013, 0.010))))


def test_nothing_measured_says_so():
    assert readme_costs({}) == "Nothing has been measured here yet."


def test_the_figure_has_each_measured_point_and_each_fit():
    (measured,) = scaling(0.010, 0.013).values()
    figure = cost_scaling(measured)
    seconds, _, memory, _ = [trace for trace in figure.data if trace.mode == "markers"]
    assert seconds.name == memory.name == "foveated"
    assert list(seconds.y) == pytest.approx([0.01, 0.08, 0.64])
    assert list(memory.y) == pytest.approx([0.01, 0.08, 0.64]), "in GB"
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 4 and lines[0].y[-1] == pytest.approx(0.64)
    for number, axis in ((1, figure.layout.yaxis), (2, figure.layout.xaxis)):
        assert len(axis.tickvals) == len(axis.ticktext) > 1, number
        assert [float(text) for text in axis.ticktext] == pytest.approx(list(axis.tickvals)), "in full"
    assert round_steps([0.03, 2.2]) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    with pytest.raises(ValueError, match="no point"):
        cost_scaling(dict(points=[], fits=[]))


def test_without_a_measurement_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "FOLDER", tmp_path)
    with pytest.raises(figures.ConfigError, match="fvlm bench scaling"):
        figures.draw_costs()
    (tmp_path / "evaluate.json").write_text(json.dumps(report("evaluate", {"T1-T_8f_fov": ratio(1.1)})))
    assert "1.10" in readme_costs()
