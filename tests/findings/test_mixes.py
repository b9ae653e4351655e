"""The findings' section on data mixes says what the runs say, whichever way they went."""

import re

import numpy as np
import pandas as pd
import pytest

from fvlm.findings.mixes import mix_section

DOMAINS = ("video", "image", "images", "text")
MIXTURES = {
    "SmolVLM": (0.33, 0.35, 0.12, 0.2),
    "uniform": (0.25, 0.25, 0.25, 0.25),
    "optimum of foveated": (0.1, 0.4, 0.4, 0.1),
}
EACH = dict(flat=0.12, low=[0.0, 0.3, 0.2, 0.05], high=[0.2, 0.5, 0.5, 0.2])


def planted(factor: float, at: str = "optimum of foveated", seeds=3):
    """A prediction of one nat everywhere, and runs that come to it but for a factor at one mixture."""
    mixtures = {name: dict(zip(DOMAINS, weights)) for name, weights in MIXTURES.items()}
    predicted = [
        dict(arch="foveated", mixture=name, domain=domain, predicted=1.0, low=0.95, high=1.05)
        for name in mixtures
        for domain in (*DOMAINS, "all")
    ]
    optima = dict(foveated=EACH | mixtures["optimum of foveated"])
    prediction = dict(date="2026-11-26", samples=4800.0, seeds=3, runs=48, mixtures=mixtures)
    prediction |= dict(optima=optima, predicted=predicted)
    rng, rows = np.random.default_rng(0), []
    for name, weights in MIXTURES.items():
        for seed in range(10, 10 + seeds):
            loss = (factor if name == at else 1.0) * np.exp(0.005 * rng.standard_normal())
            row = dict(mixture=name, cell="T1-T_4f_fov", arch="foveated", seed=seed, step=600, steps=600)
            row |= {f"weight_{domain}": weight for domain, weight in zip(DOMAINS, weights)}
            rows.append(row | {f"loss_{domain}": loss for domain in DOMAINS})
    return prediction, pd.DataFrame(rows)


@pytest.mark.parametrize(
    "factor, word", [(0.9, "it is better"), (1.1, "it is worse"), (1.0, "no difference")]
)
def test_a_mixture_is_better_worse_or_neither_beside_smolvlm_s(factor, word):
    text = mix_section(*planted(factor))
    (line,) = re.findall(r"^\| optimum of foveated +\| foveated +\| ([-+].*)$", text, re.M)
    value, low, high = map(float, re.findall(r"[-+][\d.]+", line))
    assert word in line and low < value < high and value == pytest.approx(100 * (factor - 1), abs=1.5)
    assert not re.search(r"^\| SmolVLM +\| foveated +\| [-+]", text, re.M), "itself"


def test_whether_the_laws_held_follows_what_came():
    held = mix_section(*planted(1.0))
    assert "Of 12 predictions of a domain's loss 12 came inside their interval: the laws held." in held
    part = mix_section(*planted(1.3, at="uniform"))
    assert "12 predictions of a domain's loss 8 came inside their interval: the laws failed." in part
    assert re.search(r"^\| uniform .* \+\d\d\.\d +\| no ", part, re.M)
    assert re.search(r"^\| SmolVLM .*\| yes ", part, re.M)
    assert re.search(r"^\| foveated +\| video +\| 2 of 3 +\| \d\d\.\d", part, re.M)


def test_what_the_laws_hold_for_best_has_its_interval():
    text = mix_section(*planted(1.0))
    assert "foveated video 10 (0 to 20), image 40 (30 to 50), images 40 (20 to 50), text 10 (5 to 20)" in text
    assert "12 % of all mixtures" in text and "baseline" not in text.partition("hold for best")[2]


def test_before_runs_there_is_no_section():
    prediction, came = planted(1.0)
    assert mix_section(prediction, came.iloc[:0]) == ""
