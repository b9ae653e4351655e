"""The study of questions (`params/questions.yaml`): who learns to answer about one of several shapes, how soon and
how well in the end, and whether the question steers the gaze."""

import math

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.findings.captions import BY_FLOPS, tuned_rates
from fvlm.findings.paired import by_seed_and_clip, difference, interval_text, more_or_less
from fvlm.findings.sources import LEAST
from fvlm.findings.words import budget, of_a_saliency_model, p_value, seen_through, trained_sizes
from fvlm.scaling import Results
from fvlm.scaling.contrasts import holm
from fvlm.scaling.intervals import Estimate, student_estimate
from fvlm.text import with_interval

STUDIES = {  # of one world: what a clip is asked
    "questions": "one question a clip, and another when a run sees it again",
    "questions_all": "each clip four times, asked about another shape each time",
}
LEARNED = 0.8  # of the answers right
SIDES = ("foveated", "baseline")
PRIMARY_SIZE = "T2-T"  # written down in LOG.md before the first run
COMPARED = (SIDES, ("foveated", "static"), ("foveated", "meanpool"), ("meanpool", "baseline"))
BESIDE = {  # what the foveated model is compared with in words, and whose seeds those are
    "baseline": ("the baseline's 16 tokens", "the baseline's"),
    "static": ("one static query for every frame", "the static query's"),
    "meanpool": ("the mean of all patches, as many tokens", "the mean's"),
}
HOW_SOON = {  # what `compared` has ratios of
    "times": "the clips",
    "flops": "the training FLOPs",
    "flops_without_vision": "those without frozen vision",
}
ASKED = ("own", "other")  # of `fvlm.gaze.scores.gaze_scores`: the clip's question, another on the same target
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
    were. `flops` and `flops_without_vision`: what training had taken by then."""
    spent = study.runs.set_index("run")
    rows = []
    for (run, pair, frames, arch, seed), mine in study.evaluations.groupby(
        ["run", "pair", "frames", "arch", "seed"], sort=False
    ):
        mine = mine.sort_values("samples_seen")
        seen, right = mine["samples_seen"].to_numpy(float), mine["right"].to_numpy(float)
        row = dict(run=run, pair=pair, frames=frames, arch=arch, seed=seed, right=right[-1], seen=seen[-1])
        row["clips"] = _first_at(LEARNED, seen, right)
        rows.append(row | {axis: row["clips"] * spent.loc[run, axis] / seen[-1] for axis in BY_FLOPS})
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
    interval over seeds (`low`, `high`, `p`), to which `samples` (a study's) add the noise of the clips that all
    are asked about. `times`: how many times the clips until LEARNED, geometric means, with Welch's interval of
    their logarithms (`times_low`, `times_high`, `times_p`), and likewise `flops` and `flops_without_vision`; NaN
    where some seed never got there, of which `learned` and `other_learned` count those that did."""
    rows = []
    for (pair, frames), mine in runs.groupby(["pair", "frames"]):
        one, other = (mine[mine["arch"] == arch] for arch in sides)
        if min(len(one), len(other)) < LEAST:
            continue
        row = dict(pair=pair, frames=frames, seeds=min(len(one), len(other)))
        row |= dict(learned=int(np.isfinite(one["clips"]).sum()), of=len(one))
        row |= dict(other_learned=int(np.isfinite(other["clips"]).sum()), other_of=len(other))
        found = _points(samples, [one, other], [100, -100])
        row |= dict(points=found.value, low=found.low, high=found.high, p=found.p)
        for name, axis in {"times": "clips"}.items() | {axis: axis for axis in BY_FLOPS}.items():
            found = _ratio(one[axis], other[axis])
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            row |= {f"{name}_p": found.p}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["pair", "frames", "seeds"])


def _ratio(one: pd.Series, other: pd.Series) -> Estimate:
    """Of the geometric means of two groups of seeds, with Welch's interval of their logarithms; NaN where one
    of them is infinite."""
    from scipy.stats import ttest_ind

    if not np.isfinite([*one, *other]).all():
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    logs = np.log(one), np.log(other)
    found = ttest_ind(*logs, equal_var=False)
    low, high = found.confidence_interval()
    value = math.exp(logs[0].mean() - logs[1].mean())
    return Estimate(value, math.exp(low), math.exp(high), float(found.pvalue))


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
                "clips seen": f"{mine['seen'].max():,.0f}",
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


def contrasts(study: Results) -> pd.DataFrame:
    """`compared` of every two of COMPARED that are there, with `first`, `second` and `primary`, and each p value
    as it is left by Holm's correction, `p` and `times_p` for all of these but the primary one, those at equal
    FLOPs for their own number."""
    runs, tables = learning_rows(study), []
    for sides in COMPARED:
        table = compared(runs, sides, study.samples)
        tables.append(table.assign(first=sides[0], second=sides[1]))
    found = pd.concat([table for table in tables if len(table)], ignore_index=True)
    primary = (found[["first", "second", "pair"]] == [*SIDES, PRIMARY_SIZE]).all(axis=1)
    found["primary"] = np.select(
        [primary & found["times_p"].notna(), primary], ["times_p", "p"], ""
    )  # which was written down, or what stands in for it where a seed never learned
    for family in (("p", "times_p"), tuple(f"{axis}_p" for axis in BY_FLOPS)):
        cells = [
            (i, name)
            for name in family
            for i in found.index
            if np.isfinite(found.at[i, name]) and found.at[i, "primary"] != name
        ]
        for (i, name), p in zip(cells, holm([found.at[cell] for cell in cells])):
            found.at[i, name] = p
    return found


def contrasts_table(study: Results) -> pd.DataFrame:
    """`contrasts`, as the page has them: a row per two architectures and size."""
    rows = []
    for row in contrasts(study).to_dict("records"):
        told = dict(first=row["first"], second=row["second"], size=row["pair"], seeds=row["seeds"])
        points = with_interval(row["points"], row["low"], row["high"], 1)
        told["points right at the end"] = f"{points}; {_p(row, 'p')}"
        for name, words in HOW_SOON.items():
            times = [row[f"{name}{part}"] for part in ("", "_low", "_high")]
            told[f"times {words}"] = (
                f"{with_interval(*times, signed=False)}; {_p(row, f'{name}_p')}"
                if math.isfinite(row[name])
                else f"{row['learned']} of {row['of']} seeds, {row['other_learned']} of {row['other_of']}"
            )
        rows.append(told)
    return pd.DataFrame(rows)


def _p(row: dict, name: str) -> str:
    return f"p {p_value(row[name])}" + ", primary" * (row["primary"] == name)


def learning(study: Results) -> str:
    """Whether the foveated model learns it sooner, and ends better, than the baseline and than what reads as few
    tokens: words that follow the corrected p values of `contrasts`, a sentence without its full stop."""
    table = contrasts(study)
    told = []
    for arch, (name, whose) in BESIDE.items():
        mine = table[(table["first"] == SIDES[0]) & (table["second"] == arch)]
        if len(mine):
            told.append(f"beside {name}: {'; '.join(_beside(row, whose) for row in mine.to_dict('records'))}")
    return (
        f"**Who learns to answer about one of three to five shapes**, at a constant rate, {_seen(study)}, the foveated model "
        f"{'; '.join(told)}"
    )


def _seen(study: Results) -> str:
    """How many clips a run of each architecture sees."""
    ends = study.evaluations.groupby("arch")["samples_seen"].max()
    if ends.nunique() == 1:
        return f"{ends.iloc[0]:,.0f} clips each"
    by_count = {
        count: ", ".join(arch for arch in ARCHITECTURES if ends.get(arch) == count)
        for count in sorted(ends.unique())
    }
    return " and ".join(f"{count:,.0f} clips ({archs})" for count, archs in by_count.items())


def _beside(row: dict, whose: str) -> str:
    where = f"at {row['pair']}, {row['frames']} frames, "
    if math.isfinite(row["times"]):
        clips, flops, without = (
            with_interval(*(row[f"{name}{part}"] for part in ("", "_low", "_high")), signed=False)
            for name in HOW_SOON
        )
        sooner = _word(row, "times", 1, ("sooner", "later", "not to be told apart"))
        fewer = [_word(row, axis, 1, ("fewer", "more", "no difference can be told")) for axis in BY_FLOPS]
        soon = (
            f"it comes to {100 * LEARNED:.0f} % right after {clips} times the clips ({sooner}), {flops} times the training "
            f"FLOPs ({fewer[0]}), {without} times those without frozen vision ({fewer[1]})"
        )
    else:
        soon = (
            f"{row['learned']} of {row['of']} seeds come to {100 * LEARNED:.0f} % right, of {whose} "
            f"{row['other_learned']} of {row['other_of']}"
        )
    word = _word(row, "", 0, ("fewer", "more", "no difference can be told"))
    points = with_interval(row["points"], row["low"], row["high"], 1)
    return f"{where}{soon}, and at the end {points} points right ({word})"


def _word(row: dict, name: str, none: float, words: tuple[str, str, str]) -> str:
    """Of below, above and neither: what an interval says of `none`, where the corrected p value lets it."""
    low, high, p = (row[f"{name}_{part}".removeprefix("_")] for part in ("low", "high", "p"))
    if p >= 0.05:
        return words[2]
    return words[0] if high < none else words[1] if low > none else words[2]


# ── Where the gaze goes ──────────────────────────────────────────────────────────────────────────


def gazes(name: str) -> pd.DataFrame | None:
    """`fvlm gaze`'s rows of a study's runs on the clips that have both questions, with what run names say; None
    where nothing was scored."""
    path = sources.OUTPUTS / name / "gaze.parquet"
    if not path.exists():
        return None
    rows = sources.with_names(read_table(path))
    both = rows.groupby("clip_id")["asked"].nunique()
    return rows[rows["clip_id"].isin(both.index[both == len(ASKED)])]


def steered(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the gaze of `gazes` is on the shape that is asked about: a row per size and architecture that
    has LEAST seeds, `own` and `other` (that shape while another is asked about), `chance`, shares of frames,
    and `difference`, an Estimate over seeds and clips; a static query's is none."""
    found = []
    for (pair, arch), mine in rows.groupby(["pair", "arch"], observed=True):
        if mine["seed"].nunique() < LEAST:
            continue
        own, other = (by_seed_and_clip(mine[mine["asked"] == asked], "hit") for asked in ASKED)
        row = dict(pair=pair, arch=arch, seeds=len(own), own=own.to_numpy().mean())
        row |= dict(other=other.to_numpy().mean(), chance=mine["chance"].mean())
        found.append(row | dict(difference=difference(own, other)))
    return pd.DataFrame(found, columns=None if found else ["pair", "arch", "seeds"])


def steering_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`steered`, as the page has it."""
    table = steered(rows)
    words = more_or_less(list(table["difference"]))
    return pd.DataFrame(
        {
            "size": row.pair,
            "architecture": row.arch,
            "seeds": row.seeds,
            "on the shape asked about": f"{row.own:.3f}",
            "on it while another is asked about": f"{row.other:.3f}",
            "difference": f"{interval_text(row.difference)}, {word}",
            "a patch at random": f"{row.chance:.3f}",
        }
        for row, word in zip(table.itertuples(), words)
    )


def steering(study: Results, rows: pd.DataFrame | None) -> list[str]:
    """Whether a question steers the gaze of the foveated runs of SEEDS seeds, beside a static query that can't
    be: a head in a word that follows the corrected intervals, and a line per size, no full stops; nothing where
    no size has as many."""
    if rows is None:
        return []
    table = steered(rows)
    table = table[table["seeds"] >= SEEDS].set_index(["pair", "arch"])
    sizes = [pair for pair, arch in table.index if arch == SIDES[0] and (pair, "static") in table.index]
    if not sizes:
        return []
    follows = [
        word == "more" for word in more_or_less([table.loc[(p, SIDES[0]), "difference"] for p in sizes])
    ]
    verdict = (
        "it does"
        if all(follows)
        else "that cannot be told"
        if not any(follows)
        else (f"it does at {', '.join(pair for pair, does in zip(sizes, follows) if does)}")
    )
    names = trained_sizes(study, sizes)
    eye = ", on DINOv2-small as a saliency model ships it" if of_a_saliency_model(study) else ""
    lines = []
    for pair in sizes:
        fov, sta = table.loc[(pair, SIDES[0])], table.loc[(pair, "static")]
        lines.append(
            f"at {names[pair]}, the patch that the model attends to most is on the shape asked about in "
            f"{100 * fov['own']:.0f} % of frames (mean over {fov['seeds']} seeds{eye}), in {100 * fov['other']:.0f} % when "
            f"another is asked about ({_points_text(fov['difference'])} points); that of a control with one static query for "
            f"everything in {100 * sta['own']:.0f} %, and a patch at random in {100 * fov['chance']:.1f} %"
        )
    return [f"**Whether a question steers the gaze**: {verdict};", *lines]


def _points_text(found: Estimate) -> str:
    return with_interval(100 * found.value, 100 * found.low, 100 * found.high, 0)


def questions_section(studies: dict[str, Results]) -> str:
    """The section of FINDINGS.md: each study of STUDIES that is there."""
    parts = []
    for name, study in studies.items():
        parts.append(f"""### {STUDIES[name][0].upper()}{STUDIES[name][1:]}

{budget(study)}

{learning_table(study).to_markdown(index=False)}

{learning(study)}.

![Right answers of every run on the way, frame by frame; the dotted line is {100 * LEARNED:.0f} %](figures/{name}_curves.png)

Two architectures beside each other: right answers, each at its own end, percentage points more, and how many times as much the first needs
until {100 * LEARNED:.0f} % are right (where some seed never got there, how many of each did). The primary contrast, written down before the
first run (LOG.md), is {SIDES[0]} beside {SIDES[1]} at {PRIMARY_SIZE}; all other *p* are corrected by Holm, those of FLOPs for their own number.

{contrasts_table(study).to_markdown(index=False)}
{_gaze(name, study)}{tuned_rates(name, study)}
Cells: `{name}/`. Again: `fvlm grid params/{name}.yaml --study mine`.
""")
    return f"""## Questions, run again: who learns it, and how soon

Asked which shape has a colour, of clips with three to five shapes; an answer is right if the model would write it word
for word, frame by frame. Trained on one to five shapes. Intervals are Student's t over seeds, Welch's where two
architectures are compared.

{chr(10).join(parts)}"""


def _gaze(name: str, study: Results) -> str:
    rows = gazes(name)
    if rows is None or steered(rows).empty:
        return ""
    return f"""
Where the gaze goes: the share of frames whose most attended patch (mean over layers and heads) is inside the box of the shape that is asked about, and
inside the same box while another shape is asked about, with Student's interval of the difference over seeds and {rows["clip_id"].nunique()} clips.

{steering_table(rows).to_markdown(index=False)}
{seen_through(study)}
Again: `fvlm gaze --run outputs/mine/T?-T_2f_{{fov,sta}}_seed* --clips 128 --out outputs/mine/gaze.parquet`.
"""
