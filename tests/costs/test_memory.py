"""Memory plans: from a configuration alone, against what processes then hold."""

import dataclasses

import pytest
from conftest import python, tiny

from fvlm import RunConfig, build_model
from fvlm.costs.memory import HEADROOM, MicroBatch, OutOfMemory
from fvlm.costs.plan import plan_memory, planned_micro_batch, weights_memory, what_would_fit

CARD = 24 * 10**9


def test_a_plan_counts_what_a_model_has():
    config = tiny(effective_batch=4)
    model = build_model(config, pretrained=False)
    plan = plan_memory(config, MicroBatch(2, False))
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert plan.parameters == sum(p.numel() * 4 for p in model.parameters())
    assert plan.gradients == trained and plan.moments == 2 * trained
    assert plan.peak == plan.parameters + plan.gradients + plan.moments + plan.activations + plan.process


def test_more_clips_take_more_and_recomputing_takes_less():
    config = tiny("baseline", frames=8, freeze_vision=False)
    one, four, recomputed = (
        plan_memory(config, MicroBatch(n, c)).activations for n, c in ((1, False), (4, False), (4, True))
    )
    assert 2 * one < four and recomputed < 0.7 * four


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, precision, evaluated",
    [
        ("T3-T_8f_fov", "bf16", 8),
        ("T3-T_8f_fov", "fp32", 8),
        ("T3-T_8f_fov", "fp32", 96),
        ("T5-T_8f_bas", "bf16", 8),
        ("T5-T_8f_bas", "fp32", 8),
    ],
)
def test_the_plan_is_within_a_fifth_of_what_a_process_takes(cell, precision, evaluated, tmp_path):
    """Of one that computes all features: reading them takes less."""
    settings = dict(
        eval_samples=evaluated, effective_batch=8, micro_batch=4, device="cpu", precision=precision
    )
    code = (
        "from fvlm import RunConfig, train\n"
        f"config = RunConfig.from_cell({cell!r}, out={str(tmp_path)!r}, steps=2, eval_every=2, "
        f"features=False, **{settings!r})\n"
        "print(train(config).evaluations.peak_memory_bytes.iloc[-1])\n"
    )
    measured = int(python("-c", code).stdout.split()[-1])
    planned = plan_memory(RunConfig.from_cell(cell, **settings), MicroBatch(4, False)).peak
    assert planned == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["fov", "bas"])
def test_s_b_with_64_frames_fits_a_24_gb_card_by_plan(arch):
    config = RunConfig.from_cell(f"S-B_64f_{arch}", device="cuda")
    micro = planned_micro_batch(config, CARD)
    assert plan_memory(config, micro).peak <= HEADROOM * CARD and config.effective_batch == 16


@pytest.mark.slow
def test_b_l_does_not_and_the_plan_says_what_would_help(monkeypatch):
    config = RunConfig.from_cell("B-L_8f_fov", device="cuda")
    plan = plan_memory(config, MicroBatch(1, True))
    assert plan.parameters + plan.gradients + plan.moments == pytest.approx(29e9, rel=0.02), (
        "before the first activation"
    )
    with monkeypatch.context() as untraced, pytest.raises(OutOfMemory, match="one clip of 8 frames does not"):
        untraced.setattr("fvlm.costs.plan.plan_memory", None)  # no clip needs to be tried
        planned_micro_batch(config, CARD)
    advice = "; ".join(what_would_fit(config, CARD))
    assert "card of 80 GB" in advice and "fsdp=true" in advice and "freeze_llm=true" in advice
    sharded = plan_memory(dataclasses.replace(config, processes=4, fsdp=True), MicroBatch(1, True))
    assert sharded.moments == pytest.approx(plan.moments / 4, rel=0.01) and sharded.peak < HEADROOM * CARD


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{}, dict(freeze_llm=True), dict(freeze_vision=False), dict(processes=2, fsdp=True)]
)
@pytest.mark.parametrize("cell", ["T1-T_2f_fov", "T1-T_2f_bas"])
def test_weights_take_what_a_plan_says_and_a_plan_no_less(cell, change):
    config = RunConfig.from_cell(cell, device="cuda", **change)
    plan = plan_memory(config, MicroBatch(1, True))
    assert weights_memory(config) == pytest.approx(plan.parameters + plan.gradients + plan.moments, rel=1e-3)
    assert weights_memory(config) <= plan.peak
