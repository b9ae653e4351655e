import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fvlm import RunConfig, build_model
from fvlm.architectures import ARCHITECTURES
from fvlm.costs.flops import (
    GROUPS,
    flops_per_sample,
    nanosmol_flops_per_sample,
    recomputed_flops_per_sample,
)
from fvlm.models import VideoLanguageModel


def counted(config, text, prompt, training=True, mode="parallel", checkpointing=False) -> int:
    """FLOPs of one real pass, by PyTorch's own counter (unfused attention, so that its backward is counted as
    it is)."""
    model = build_model(config, pretrained=False).train()
    model.set_gradient_checkpointing(checkpointing)
    side = config.image_size
    frames, labels = torch.randn(1, config.frames, 3, side, side), torch.randint(1, 400, (1, text))
    prompt_ids = torch.randint(1, 400, (1, prompt)) if prompt else None
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if training:
            model(frames, labels=labels, prompt_ids=prompt_ids).loss.backward()
        else:
            model.requires_grad_(False)(frames, labels=labels, prompt_ids=prompt_ids, mode=mode)
    return counter.get_total_flops()


CASES = [(arch, dict(freeze_vision=frozen), 0) for arch in ARCHITECTURES for frozen in (True, False)] + [
    ("foveated", dict(freeze_vision=False, freeze_llm=True), 5),
    ("foveated", dict(fine_passes=2), 5),
    ("foveated", dict(read_attended=True, read_final=True), 5),
    ("foveated", dict(read_attended=True, read_final=True, freeze_vision=False), 0),
    ("static", dict(read_attended=True, read_final=True), 0),
    ("foveated", dict(vision_layers=6), 5),
    ("baseline", dict(freeze_llm=True), 5),
]


@pytest.mark.parametrize("arch, settings, prompt", CASES)
def test_flops_of_a_tiny_cell_equal_the_counter_s(arch, settings, prompt):
    config = RunConfig(llm="tiny1", vision="tiny", arch=arch, frames=3, **settings)
    for training in (True, False):
        ours = flops_per_sample(config, 20, prompt, training)
        assert ours["total"] == pytest.approx(counted(config, 20, prompt, training), rel=0.01)
        assert ours["total"] == pytest.approx(sum(v for k, v in ours.items() if k != "total"))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_flops_of_the_real_sizes_equal_the_counter_s(arch):
    config = RunConfig(llm="135m", vision="small", arch=arch, frames=2)
    assert flops_per_sample(config, 32)["total"] == pytest.approx(counted(config, 32, 0), rel=0.01)


@pytest.mark.parametrize("prompt", [0, 5])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_flops_of_true_inference_equal_the_counter_s(arch, prompt):
    config = RunConfig(llm="tiny2", vision="tiny", arch=arch, frames=5)
    ours = flops_per_sample(config, 20, prompt, training=False, mode="autoregressive")["total"]
    assert ours == pytest.approx(counted(config, 20, prompt, training=False, mode="autoregressive"), rel=0.01)
    with pytest.raises(ValueError, match="training=False"):
        flops_per_sample(config, mode="autoregressive")


@pytest.mark.parametrize("frames", [1, 8, 64])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_flops_equal_the_counter_s_for_every_number_of_frames(arch, frames):
    config = RunConfig(llm="tiny2", vision="tiny", arch=arch, frames=frames)
    assert flops_per_sample(config, 30)["total"] == pytest.approx(counted(config, 30, 0), rel=0.01)


@pytest.mark.parametrize(
    "settings", [dict(), dict(freeze_vision=False), dict(freeze_llm=True), dict(fine_passes=2)]
)
@pytest.mark.parametrize("arch", ["foveated", "baseline", "blind"])
def test_what_checkpointing_recomputes_is_what_the_counter_sees_more(arch, settings):
    config = RunConfig(llm="tiny2", vision="tiny", arch=arch, frames=3, **settings)
    plain, again = (counted(config, 20, 5, checkpointing=on) for on in (False, True))
    assert recomputed_flops_per_sample(config, 20, 5) == pytest.approx(again - plain, rel=0.01)


SHOWN = {  # billions in one training sample of T-T_8f, in the order of GROUPS, as notebooks/model.ipynb shows
    "foveated": (5.91, 0.28, 0.28, 0.02, 0.15, 0.80, 0.03),
    "baseline": (7.80, 0.00, 0.00, 1.01, 0.00, 3.37, 0.03),
    "static": (5.91, 0.28, 0.00, 0.01, 0.00, 0.80, 0.03),
    "meanpool": (7.80, 0.00, 0.00, 0.00, 0.00, 0.80, 0.03),
    "blind": (0.00, 0.00, 0.00, 0.00, 0.00, 0.64, 0.03),
}


@pytest.mark.parametrize("arch", SHOWN)
def test_the_model_notebook_s_costs_are_these(arch):
    flops = flops_per_sample(RunConfig(llm="tiny", arch=arch, frames=8, device="cpu"))
    assert [flops[group] / 1e9 for group in GROUPS] == pytest.approx(SHOWN[arch], abs=0.0051)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_counts_in_the_groups_that_figures_show(arch):
    assert set(flops_per_sample(RunConfig(llm="tiny1", arch=arch, device="cpu"))) == {*GROUPS, "total"}


def test_a_class_that_does_not_say_its_flops_is_an_error(monkeypatch):
    monkeypatch.setattr("fvlm.costs.flops.model_class", lambda arch: VideoLanguageModel)
    with pytest.raises(NotImplementedError, match="VideoLanguageModel does not say its FLOPs"):
        flops_per_sample(RunConfig(llm="tiny1", device="cpu"))


def test_the_study_s_convention_gives_its_published_totals():
    from fvlm.scaling import nanosmol

    for row in nanosmol().itertuples():
        total = 4480 * nanosmol_flops_per_sample(RunConfig.from_cell(row.cell))["total"]
        assert total == pytest.approx(row.flops_claimed, rel=0.006)
    with pytest.raises(ValueError, match="foveated and baseline"):
        nanosmol_flops_per_sample(RunConfig.from_cell("S-S_8f_sta"))
