"""The study of questions (`params/questions.yaml`): who learns to answer about one of several shapes, how soon,
and how well in the end."""

import math

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.findings import sources
from fvlm.findings.captions import tuned_rates
from fvlm.findings.words import budget
from fvlm.scaling import Results
from fvlm.scaling.intervals import Estimate, student_estimate
from fvlm.text import with_interval

STUDIES = {  # of one world: what a clip is asked
    "questions": "one question a clip",
    "questions_all": "each clip four times, asked about another shape each time",
}
LEARNED = 0.8  # of the answers right
SIDES = ("foveated", "baseline")
SEEDS, SIZES = 3, 2  # fewer of either are no answer yet


def questions(name: str = "questions") -> Results | None:
    """The finished runs of one of STUDIES; None before some size has two seeds of both SIDES."""
    study = sources.study(name)
    return study if study is not None and len(compared(learning_rows(study))) else None


def ready(study: Results | None) -> bool:
    """Whether there is enough of it to stand for the answer: SIZES sizes with SEEDS seeds of both SIDES."""
    if study is None:
        return False
    return int((compared(learning_rows(study))["seeds"] >= SEEDS).sum()) >= SIZES


def learning_rows(study: Results) -> pd.DataFrame:
    """How far every run came: a row per run with `pair`, `frames`, `arch`, `seed`, `right` (share of answers
    that are, at the end), `seen` (training clips) and `clips`, how many it had seen when LEARNED of the answers
    were right for the first time, between two evaluations on the line that joins them; infinite if they never
    were."""
    rows = []
    for (run, pair, frames, arch, seed), mine in study.evaluations.groupby(
        ["run", "pair", "frames", "arch", "seed"], sort=False
    ):
        mine = mine.sort_values("samples_seen")
        seen, right = mine["samples_seen"].to_numpy(float), mine["right"].to_numpy(float)
        row = dict(run=run, pair=pair, frames=frames, arch=arch, seed=seed, right=right[-1], seen=seen[-1])
        rows.append(row | dict(clips=_first_at(LEARNED, seen, right)))
    return pd.DataFrame(rows)


def _first_at(level: float, seen: np.ndarray, right: np.ndarray) -> float:
    """Clips seen when `right` came to a level for the first time; infinite if it never did."""
    (above,) = np.nonzero(right >= level)
    if not len(above):
        return math.inf
    i = above[0]
    if i == 0:
        return seen[0]
    return seen[i - 1] + (seen[i] - seen[i - 1]) * (level - right[i - 1]) / (right[i] - right[i - 1])


def compared(
    runs: pd.DataFrame, sides: tuple[str, str] = SIDES, samples: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The first of `sides` beside the second in `learning_rows`: a row per size and number of frames with two
    seeds of each, `seeds` the fewer. `points`: right answers at the end, percentage points more, with Welch's
    interval over seeds (`low`, `high`), to which `samples` (a study's) add the noise of the clips that all are
    asked about. `times`: how many times the clips until LEARNED, geometric means, with Welch's interval of
    their logarithms; NaN where some seed never got there, of which `learned` and `other_learned` count those
    that did."""
    from scipy.stats import ttest_ind

    rows = []
    for (pair, frames), mine in runs.groupby(["pair", "frames"]):
        one, other = (mine[mine["arch"] == arch] for arch in sides)
        if min(len(one), len(other)) < 2:
            continue
        row = dict(pair=pair, frames=frames, seeds=min(len(one), len(other)))
        row |= dict(learned=int(np.isfinite(one["clips"]).sum()), of=len(one))
        row |= dict(other_learned=int(np.isfinite(other["clips"]).sum()), other_of=len(other))
        found = _points(samples, [one, other], [100, -100])
        row |= dict(points=found.value, low=found.low, high=found.high)
        row |= dict(times=math.nan, times_low=math.nan, times_high=math.nan)
        if row["learned"] == len(one) and row["other_learned"] == len(other):
            logs = [np.log(side["clips"]) for side in (one, other)]
            found = ttest_ind(*logs, equal_var=False).confidence_interval()
            values = logs[0].mean() - logs[1].mean(), found.low, found.high
            row |= dict(zip(("times", "times_low", "times_high"), map(math.exp, values)))
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["pair", "frames", "seeds"])


def _points(samples: pd.DataFrame | None, sides: list[pd.DataFrame], weights: list[float]) -> Estimate:
    """Right answers of groups of runs (rows of `learning_rows`), weighted and added, with Student's interval
    over the seeds of each and, where `samples` has several clips, over the clips that all of them share."""
    rights = [side["right"].to_numpy(float) for side in sides]
    value = sum(weight * right.mean() for weight, right in zip(weights, rights))
    seeds = [
        (float(weight**2 * right.var(ddof=1) / len(right)), len(right) - 1)
        for weight, right in zip(weights, rights)
        if len(right) > 1
    ]
    clips = (0.0, 1)
    if samples is not None and samples["clip_id"].nunique() > 1:
        by_clip = [
            samples[samples["run"].isin(side["run"])].groupby("clip_id")["right"].mean() for side in sides
        ]
        moved = sum(weight * clip for weight, clip in zip(weights, by_clip))
        clips = (float(moved.var(ddof=1) / len(moved)), len(moved) - 1)
    return student_estimate(float(value), seeds, clips)


def learning_table(study: Results) -> pd.DataFrame:
    """`learning_rows` over seeds, as the page has it: a row per size, number of frames and architecture."""
    rows = []
    order = {arch: i for i, arch in enumerate(ARCHITECTURES)}
    groups = learning_rows(study).groupby(["pair", "frames", "arch"])
    for (pair, frames, arch), mine in sorted(groups, key=lambda g: (*g[0][:2], order[g[0][2]])):
        clips, found = mine["clips"], _points(study.samples, [mine], [100])
        reached = int(np.isfinite(clips).sum())
        when = f"{_clips(clips.median())} ({_clips(clips.min())} to {_clips(clips.max())})" if reached else ""
        rows.append(
            {
                "size": pair,
                "frames": frames,
                "architecture": arch,
                "seeds": len(mine),
                "right at the end, %": with_interval(found.value, found.low, found.high, 1, signed=False)
                if len(mine) > 1
                else f"{found.value:.1f}",
                f"seeds that came to {100 * LEARNED:.0f} %": f"{reached} of {len(mine)}",
                "after so many clips, median": when,
            }
        )
    return pd.DataFrame(rows)


def _clips(count: float) -> str:
    return f"{count:,.0f}" if math.isfinite(count) else "not within the run"


def learning(study: Results) -> str:
    """Whether the foveated model learns it sooner, and ends better, than the baseline: words that follow the
    intervals, a sentence without its full stop."""
    table = compared(learning_rows(study), samples=study.samples)
    told = "; ".join(_beside(row) for row in table.itertuples())
    seen = study.evaluations["samples_seen"].max()
    return (
        f"**Who learns to answer about one of three to five shapes**, {seen:,.0f} clips at a constant rate, the foveated "
        f"model beside the baseline's 16 tokens: {told}"
    )


def _beside(row) -> str:
    where = f"at {row.pair}, {row.frames} frames, "
    if math.isfinite(row.times):
        word = "sooner" if row.times_high < 1 else "later" if row.times_low > 1 else "not to be told apart"
        times = with_interval(row.times, row.times_low, row.times_high, signed=False)
        sooner = f"it comes to {100 * LEARNED:.0f} % right after {times} times the clips ({word})"
    else:
        sooner = (
            f"{row.learned} of {row.of} seeds come to {100 * LEARNED:.0f} % right, of the baseline's "
            f"{row.other_learned} of {row.other_of}"
        )
    word = "more" if row.low > 0 else "fewer" if row.high < 0 else "no difference can be told"
    return f"{where}{sooner}, and at the end {with_interval(row.points, row.low, row.high, 1)} points right ({word})"


def questions_section(studies: dict[str, Results]) -> str:
    """The section of FINDINGS.md: each study of STUDIES that is there."""
    parts = []
    for name, study in studies.items():
        parts.append(f"""### {STUDIES[name][0].upper()}{STUDIES[name][1:]}

{budget(study)}

{learning_table(study).to_markdown(index=False)}

{learning(study)}.
{tuned_rates(name, study)}
Cells: `{name}/`. Again: `fvlm grid params/{name}.yaml --study mine`.
""")
    return f"""## Questions, run again: who learns it, and how soon

Asked which shape has a colour, of clips with three to five shapes; an answer is right if the model would write it word
for word, frame by frame. Trained on one to five shapes. Intervals are Student's t over seeds, Welch's where two
architectures are compared.

{chr(10).join(parts)}"""
