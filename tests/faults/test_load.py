"""Large studies are listed in reasonable time."""

import dataclasses

import pytest
from conftest import tiny

from fvlm.costs import plan
from fvlm.costs.memory import MicroBatch
from fvlm.costs.plan import SHAPELESS, of_its_shapes, parameter_counts, plan_memory

OTHERS = [
    dict(steps=7, eval_every=7, eval_samples=5, warmup=2),
    dict(learning_rate=3e-5, connector_learning_rate=2e-2, weight_decay=0.3, max_grad_norm=0.1),
    dict(schedule="cosine", query_init_scale=0.7, allow_epochs=True, overwrite=True, seed=11, study="other"),
]


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_what_has_no_shape_changes_no_plan(arch, others):
    """The trace that is shared gives what the cell's own would."""
    config, micro = tiny(arch, **others), MicroBatch(1, False)
    own = plan._traced.__wrapped__(config, micro, True)
    assert own == plan._traced.__wrapped__(of_its_shapes(config), micro, True)
    assert parameter_counts(config) == plan._parameter_counts.__wrapped__(config)


def test_a_thousand_cells_of_two_shapes_are_traced_twice(monkeypatch):
    traced = []

    def trace(config, micro, accumulates):
        traced.append((config, micro, accumulates))
        return own(config, micro, accumulates)

    own = plan._traced
    own.cache_clear()
    monkeypatch.setattr(plan, "_traced", trace)
    for number in range(1000):
        rate = 1e-4 * (1 + number % 50)
        arch = ("foveated", "baseline")[number % 2]
        plan_memory(tiny(arch, seed=number, learning_rate=rate, steps=1 + number % 7), MicroBatch(1, False))
    assert len(traced) == 1000 and own.cache_info().misses == 2


def test_every_field_without_a_shape_is_one_of_the_configuration_s():
    names = {field.name for field in dataclasses.fields(tiny())}
    assert set(SHAPELESS) <= names
    shaping = {"llm", "vision", "frames", "arch", "fine_passes", "precision", "freeze_llm", "freeze_vision"}
    assert not set(SHAPELESS) & shaping
