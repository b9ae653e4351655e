"""What fewer tokens cost by what is in a clip: the counts are those of the captions, and planted gaps come
out, with either sign."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from planted import planted

from fvlm import RunConfig
from fvlm.config import ConfigError
from fvlm.data import open_dataset
from fvlm.findings.detail import detail_of, detail_section, detail_sentences, detail_table
from fvlm.plots import gap_by_detail
from fvlm.scaling import Results
from fvlm.scaling.contrasts import contrast, parted
from fvlm.scaling.detail import AXES, details, gaps_by_detail

PAIR, CLIPS = "T1-T", 400
ARCHS = ("fov", "bas", "avg", "sta")


@pytest.fixture(scope="module")
def clips():
    """Validation clips of the built-in world, without their pixels."""
    dataset = open_dataset(RunConfig.from_cell(f"{PAIR}_8f_fov", device="cpu"), "validation")
    return [dataset.told(k) for k in range(CLIPS)]


@pytest.fixture(scope="module")
def detail(clips):
    config = RunConfig.from_cell(f"{PAIR}_8f_fov", device="cpu")
    return details(config, [clip.clip_id for clip in clips])


def study(detail, seeds=4, archs=ARCHS, **more) -> Results:
    """Runs whose losses on a clip are 1, and for the foveated model `more` (nats for each one) of what is in
    it."""
    rng = np.random.default_rng(0)
    results = planted([f"{PAIR}_8f_{arch}" for arch in archs], seeds=range(seeds))
    hard = rng.normal(0, 0.2, len(detail))
    samples = []
    for run in results.runs.itertuples():
        loss = 1 + hard + rng.normal(0, 0.02) + rng.normal(0, 0.02, len(detail))
        if run.arch == "foveated":
            loss += sum(nats * (detail[axis].to_numpy() - 2) for axis, nats in more.items())
        samples.append(
            pd.DataFrame(
                dict(
                    run=run.run,
                    arch=run.arch,
                    seed=run.seed,
                    pair=PAIR,
                    clip_id=detail.index,
                    text_tokens=20,
                    loss_autoregressive=loss,
                )
            )
        )
    return Results(results.runs, results.evaluations, pd.concat(samples, ignore_index=True))


def test_what_is_counted_is_what_the_captions_tell(clips, detail):
    for clip in clips:
        sentences = clip.caption.split(". ")
        (marked,) = [sentence for sentence in sentences if " marked " in sentence]
        assert detail.loc[clip.clip_id].to_dict() == dict(
            objects=len(sentences),
            one_patch=clip.caption.count(" small "),
            entering=clip.caption.count("Then "),
            small_mark=int(" small " in marked),
        )
    assert (detail.nunique() >= 2).all() and set(detail) == set(AXES)


def test_clips_of_another_dataset_have_no_counts(tmp_path):
    config = RunConfig.from_cell(f"{PAIR}_8f_fov", device="cpu")
    assert details(config, ["shapes-0-20", "clip 7"]) is None
    assert details(config, ["shapes-1-20"]) is None, "of a world of another seed"
    assert details(dataclasses.replace(config, dataset="shapes:seed=1"), ["shapes-1-20"]) is not None
    assert details(dataclasses.replace(config, dataset=str(tmp_path)), ["shapes-0-20"]) is None


@pytest.mark.parametrize("nats", [0.05, -0.05])
def test_a_planted_change_along_an_axis_is_found_and_no_other(detail, nats):
    rows, slopes = gaps_by_detail(study(detail, objects=nats), detail, PAIR, "foveated", "baseline")
    found = slopes["objects"].estimate
    assert found.low < nats < found.high and found.low * found.high > 0
    mine = rows[rows["axis"] == "objects"]
    truth = nats * (mine["value"] - 2)
    assert ((mine["low"] < truth) & (truth < mine["high"])).all()
    assert mine["clips"].sum() == CLIPS and (mine["seeds"] == 4).all()
    assert np.allclose(mine["nats"], mine["loss_a"] - mine["loss_b"])


def test_intervals_of_a_slope_cover_its_truth_as_often_as_they_say():
    """Over worlds of clips and seeds that nothing but luck tells apart; the truth is no change."""
    covered = 0
    for draw in range(60):
        rng = np.random.default_rng(draw)
        values = rng.integers(2, 5, 120)
        fake = pd.DataFrame(
            dict(objects=values), index=pd.Index([f"c{k}" for k in range(120)], name="clip_id")
        )
        results = study(fake, seeds=3, archs=("fov", "bas"))
        table = results.samples
        noise = rng.normal(0, 0.05, len(table)) + rng.normal(0, 0.05, 6)[table.groupby("run").ngroup()]
        results = results._replace(samples=table.assign(loss_autoregressive=1 + noise))
        levels = parted(results, PAIR, ("foveated", "baseline"), [fake.index[values == v] for v in (2, 3, 4)])
        found = levels.estimate(lambda m: float((m[0, 4] - m[0, 5]) - (m[0, 0] - m[0, 1])) / 2).estimate
        covered += found.low <= 0 <= found.high
    assert 52 <= covered <= 60, "95 % of 60 are 57"


def test_all_clips_as_one_part_are_what_the_contrast_says(detail):
    results = study(detail, objects=0.03)
    levels = parted(results, PAIR, ("foveated", "baseline"), [list(detail.index)])
    found = levels.estimate(lambda m: float(100 * (m[0, 0] / m[0, 1] - 1))).estimate
    row = contrast(results).table.iloc[0]
    assert (found.value, found.low, found.high) == pytest.approx((row["percent"], row["low"], row["high"]))
    with pytest.raises(ConfigError, match="no seed of all of foveated, blind"):
        parted(results, PAIR, ("foveated", "blind"), [list(detail.index)])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            dict(objects=0.2),
            ["breaks even (no difference can be told) with 2 objects", "worse with 3 or 4 objects"],
        ),
        (dict(objects=-0.2), ["better with 3 or 4 objects", "breaks even"]),
        (dict(), ["breaks even", "No change can be told with more objects in the clip"]),
    ],
)
def test_where_it_breaks_even_is_said_as_the_rows_have_it(detail, more, said):
    found = detail_of(study(detail, **more), PAIR)
    told = detail_sentences(found)
    assert len(told) == 3 and "16 tokens a frame" in told[0]
    assert all(words in told[0] for words in said), told[0]
    if not more:
        assert "worse" not in told[0] and "better" not in told[0]
    else:
        nats = more["objects"]
        assert f"Each one more changes the difference by {nats:+.1f}"[:-2] in told[0]


def test_better_or_worse_everywhere_is_said_so(detail):
    results = study(detail)
    own = results.samples["arch"] == "foveated"
    for change, said in (
        (0.3, "it breaks even in no part: it is worse in every one"),
        (-0.3, "it is better in every part"),
    ):
        samples = results.samples.copy()
        samples.loc[own, "loss_autoregressive"] += change
        assert said in detail_sentences(detail_of(results._replace(samples=samples), PAIR))[0]


def test_the_section_has_a_row_for_every_part_and_the_figure_a_point(detail):
    found = detail_of(study(detail, objects=0.05), PAIR)
    table, section = detail_table(found), detail_section(found)
    assert list(table.columns) == [
        "what",
        "how many",
        "clips",
        "less baseline",
        "less meanpool",
        "less static",
    ]
    assert all(row in section for row in ("objects in the clip", "4 seeds", PAIR))
    figure = gap_by_detail(found.gaps)
    assert len(figure.data) == len(found.gaps) * len(AXES)
    points = [y for trace in figure.data for y in trace.y]
    assert sorted(points) == pytest.approx(sorted(pd.concat(found.gaps.values())["nats"]))
    assert sum(trace.showlegend for trace in figure.data) == len(found.gaps)
    assert "no part has clips enough" in str(gap_by_detail({}).layout.annotations)


def test_what_can_t_be_compared_has_no_section(detail):
    results = study(detail, seeds=1)
    assert detail_of(results, PAIR) is None, "one seed says nothing of how far another would differ"
    assert detail_of(study(detail), "T2-T") is None
    renamed = results.samples.assign(clip_id=[f"clip {k}" for k in range(len(results.samples))])
    assert detail_of(results._replace(samples=renamed), PAIR) is None
