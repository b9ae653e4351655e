"""The study of questions (`params/questions.yaml`): who learns to answer about one of several shapes, how soon and
how well in the end, and whether the question steers the gaze."""

import math
from collections import Counter

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.findings.captions import BY_FLOPS, other_depth
from fvlm.findings.paired import by_seed_and_clip, difference, interval_text, more_or_less
from fvlm.findings.rates import swept_shorter, tuned_rates
from fvlm.findings.sources import LEAST
from fvlm.findings.words import budget, of_a_saliency_model, p_value, seen_through, trained_sizes
from fvlm.scaling import Results
from fvlm.scaling.contrasts import holm
from fvlm.scaling.intervals import Estimate, Noise, student_estimate, t_interval
from fvlm.text import with_interval

STUDIES = {  # of one world: what a clip is asked
    "questions": "one question a clip",
    "questions_all": "each clip four times, asked about another shape each time",
}
LEARNED = 0.8  # of the answers right
SIDES = ("foveated", "baseline")
PRIMARY_SIZE = "T2-T"  # written down in LOG.md before the first run
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
WRITTEN_DOWN = "questions"  # the study of which it was, and no other
MORE = 2  # evaluations after the first at LEARNED, at which a run that stays there is too
ASKED = ("own", "other")  # of `fvlm.gaze.scores.gaze_scores`: the clip's question, another on the same target
SEEDS, SIZES = 3, 2  # fewer of either are no answer yet


def questions(name: str = "questions") -> Results | None:
    """The finished runs of one of STUDIES; None before some size has SEEDS seeds of both SIDES."""
    study = sources.study(name)
    return study if study is not None and len(compared(learning_rows(study))) else None


def ready(study: Results | None) -> bool:
    """Whether there is enough of it to stand for the answer: SIZES sizes, the primary one among them, with SEEDS
    seeds of both SIDES."""
    if study is None:
        return False
    there = set(compared(learning_rows(study))["pair"])
    return len(there) >= SIZES and PRIMARY_SIZE in there


def learning_rows(study: Results) -> pd.DataFrame:
    """How far every run came: a row per run with `pair`, `frames`, `arch`, `seed`, `right` (share of answers
    that are, at the end), `seen` (training clips) and `clips`, how many it had seen when LEARNED of the answers
    were right for the first time, between two evaluations on the line that joins them (at most as many if they
    were at the first); infinite if they never were. `lasting`: likewise, of the first time after which they were
    at MORE evaluations more. `flops` and `flops_without_vision`: what training had taken by `clips`."""
    spent = study.runs.set_index("run")
    rows = []
    for (run, pair, frames, arch, seed), mine in study.evaluations.groupby(
        ["run", "pair", "frames", "arch", "seed"], sort=False
    ):
        mine = mine.sort_values("samples_seen")
        seen, right = mine["samples_seen"].to_numpy(float), mine["right"].to_numpy(float)
        row = dict(run=run, pair=pair, frames=frames, arch=arch, seed=seed, right=right[-1], seen=seen[-1])
        row |= dict(clips=_first_at(LEARNED, seen, right), lasting=_first_at(LEARNED, seen, right, MORE))
        rows.append(row | {axis: row["clips"] * spent.loc[run, axis] / seen[-1] for axis in BY_FLOPS})
    return pd.DataFrame(rows)


def _first_at(level: float, seen: np.ndarray, right: np.ndarray, more: int = 0) -> float:
    """Clips seen when `right` came to a level for the first time, and was there at `more` evaluations more;
    infinite if it never did."""
    above = right >= level
    whole = np.convolve(above, np.ones(1 + more, int), "valid") == 1 + more if len(right) > more else []
    (there,) = np.nonzero(whole)
    if not len(there):
        return math.inf
    i = there[0]
    if i == 0:
        return seen[0]
    return seen[i - 1] + (seen[i] - seen[i - 1]) * (level - right[i - 1]) / (right[i] - right[i - 1])


def compared(
    runs: pd.DataFrame, sides: tuple[str, str] = SIDES, samples: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The first of `sides` beside the second in `learning_rows`: a row per size and number of frames with SEEDS
    seeds of each, `seeds` the fewer. `points`: right answers at the end, percentage points more, with Welch's
    interval over seeds (`low`, `high`, `p`), to which `samples` (a study's) add the noise of the clips that all
    are asked about. `times`: how many times the clips until LEARNED, geometric means, with Welch's interval of
    their logarithms (`times_low`, `times_high`, `times_p`), and likewise `flops` and `flops_without_vision`; NaN
    where some seed never got there, of which `learned` and `other_learned` count those that did."""
    rows = []
    for (pair, frames), mine in runs.groupby(["pair", "frames"]):
        one, other = (mine[mine["arch"] == arch] for arch in sides)
        if min(len(one), len(other)) < SEEDS:
            continue
        row = dict(pair=pair, frames=frames, seeds=min(len(one), len(other)))
        row |= dict(learned=int(np.isfinite(one["clips"]).sum()), of=len(one))
        row |= dict(other_learned=int(np.isfinite(other["clips"]).sum()), other_of=len(other))
        found = _points(samples, [one, other], [100, -100])
        row |= dict(points=found.value, low=found.low, high=found.high, p=found.p)
        for name, axis in zip(HOW_SOON, ("clips", *BY_FLOPS)):
            found = _ratio(one[axis], other[axis])
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            row |= {f"{name}_p": found.p}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["pair", "frames", "seeds"])


def _ratio(one: pd.Series, other: pd.Series) -> Estimate:
    """Of the geometric means of two groups of seeds, with Welch's interval of their logarithms; NaN where one
    of them is infinite."""
    if not np.isfinite([*one, *other]).all():
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    logs = [np.log(side.to_numpy(float)) for side in (one, other)]
    seeds = [_noise(log) for log in logs]
    found = student_estimate(float(logs[0].mean() - logs[1].mean()), seeds, (0.0, 1))
    return Estimate(*map(math.exp, (found.value, found.low, found.high)), found.p)


def _points(samples: pd.DataFrame | None, sides: list[pd.DataFrame], weights: list[float]) -> Estimate:
    """Right answers of groups of runs (rows of `learning_rows`), weighted and added, with Student's interval
    over the seeds of each and, where `samples` has several clips, over the clips that all of them share."""
    rights = [side["right"].to_numpy(float) for side in sides]
    value = sum(weight * right.mean() for weight, right in zip(weights, rights))
    seeds = [_noise(weight * right) for weight, right in zip(weights, rights) if len(right) > 1]
    clips = (0.0, 1)
    if samples is not None and samples["clip_id"].nunique() > 1:
        by_clip = [
            samples[samples["run"].isin(side["run"])].groupby("clip_id")["right"].mean() for side in sides
        ]
        moved = sum(weight * clip for weight, clip in zip(weights, by_clip))
        clips = _noise(moved)
    return student_estimate(float(value), seeds, clips)


def _noise(values: np.ndarray | pd.Series) -> Noise:
    """Of the mean of independent values."""
    return float(values.var(ddof=1) / len(values)), len(values) - 1


def learning_table(study: Results) -> pd.DataFrame:
    """`learning_rows` over seeds, as the page has it: a row per size, number of frames and architecture."""
    rows = []
    order = {arch: i for i, arch in enumerate(ARCHITECTURES)}
    groups, rises = learning_rows(study).groupby(["pair", "frames", "arch"]), still_rising(study)
    for (pair, frames, arch), mine in sorted(groups, key=lambda g: (*g[0][:2], order[g[0][2]])):
        found = _points(study.samples, [mine], [100])
        rows.append(
            {
                "size": pair,
                "frames": frames,
                "architecture": arch,
                "seeds": len(mine),
                "right at the end, %": with_interval(found.value, found.low, found.high, 1, signed=False)
                if len(mine) > 1
                else f"{found.value:.1f}",
                f"seeds that came to {100 * LEARNED:.0f} %": f"{np.isfinite(mine['clips']).sum()} of {len(mine)}",
                "after so many clips, median": _median(mine["clips"]),
                f"and were there {MORE} evaluations later": _median(mine["lasting"]),
                "from the third to the last quarter, points": _rise_text(*rises[pair, frames, arch]),
            }
        )
    return pd.DataFrame(rows)


def still_rising(study: Results) -> dict[tuple[str, int, str], tuple[float, float, float]]:
    """How many percentage points more answers are right in the last quarter of a run's evaluations than in the one
    before, by size, number of frames and architecture: the mean over seeds with Student's interval (NaN of one)."""
    found = {}
    for who, mine in study.evaluations.sort_values("samples_seen").groupby(["pair", "frames", "arch"]):
        rights = mine.groupby("run")["right"].agg(list)
        quarter = max(len(rights.iloc[0]) // 4, 1)
        rises = rights.map(lambda each, n=quarter: 100 * (np.mean(each[-n:]) - np.mean(each[-2 * n : -n])))
        found[who] = (rises.mean(), *t_interval(rises))
    return found


def _rise_text(value: float, low: float, high: float) -> str:
    return f"{value:+.1f}" if math.isnan(low) else with_interval(value, low, high, 1)


def _open_ends(study: Results) -> str:
    """Whose right answers still rose at the end, a clause; nothing where none did."""
    rising = [
        f"{arch} at {pair} ({_rise_text(value, low, high)})"
        for (pair, _, arch), (value, low, high) in still_rising(study).items()
        if low > 0
    ]
    return (
        f"still rising, so that where it ends is open, points from the third to the last quarter: {', '.join(rising)}"
        if rising
        else ""
    )


def _median(clips: pd.Series) -> str:
    """With the fewest and the most; nothing where no seed came there."""
    if not np.isfinite(clips).any():
        return ""
    return f"{_clips(clips.median())} ({_clips(clips.min())} to {_clips(clips.max())})"


def _clips(count: float) -> str:
    return f"{count:,.0f}" if math.isfinite(count) else "not within the run"


def contrasts(study: Results, name: str = WRITTEN_DOWN) -> pd.DataFrame:
    """`compared` of the foveated model and each of BESIDE that is there, `beside`, where `p` and `times_p` are what
    Holm's correction leaves for all that are planned, of which those that are not there count too: runs that are
    still to come must not take a word back. Not of the `primary` one, which was written down for one study."""
    runs, tables = learning_rows(study), []
    for arch in BESIDE:
        table = compared(runs, (SIDES[0], arch), study.samples)
        tables.append(table.assign(beside=arch))
    found = pd.concat([table for table in tables if len(table)], ignore_index=True)
    chosen = (found["beside"] == SIDES[1]) & (found["pair"] == PRIMARY_SIZE) & (name == WRITTEN_DOWN)
    all_learned = found["times"].notna()
    found["primary"] = np.select([chosen & all_learned, chosen], ["times_p", "p"], "")
    cells = [
        (i, p)
        for p in ("p", "times_p")
        for i in found.index
        if found.at[i, "primary"] != p and (p == "p" or all_learned[i])
    ]
    missing = [1.0] * (_comparisons(study, name) - len(cells))
    for (i, p), left in zip(cells, holm([*(found.at[cell] for cell in cells), *missing])):
        found.at[i, p] = left
    return found


def _planned(study: Results, name: str, priority: int | None = None) -> Counter[tuple[str, str]]:
    """Seeds of each size and architecture that a study's grid file has, of at most this priority number."""
    (frames,) = study.runs["frames"].unique()
    return sources.planned(name, frames, priority)


def _comparisons(study: Results, name: str) -> int:
    """How many Holm's correction is for: points and clips beside each of BESIDE at each size, planned or there,
    but for the primary one."""
    there = set(map(tuple, study.runs[["pair", "arch"]].to_numpy())) | set(_planned(study, name))
    return 2 * sum(arch in BESIDE for _, arch in there) - (name == WRITTEN_DOWN)


def contrasts_table(study: Results, name: str = WRITTEN_DOWN) -> pd.DataFrame:
    """`contrasts`, as the page has them: a row per architecture and size."""
    rows = []
    for row in contrasts(study, name).to_dict("records"):
        told = dict(beside=row["beside"], size=row["pair"], seeds=f"{row['of']} and {row['other_of']}")
        told["points right at the end"] = f"{_interval(row, '', 1, True)}; {_p(row, 'p')}"
        for axis, words in HOW_SOON.items():
            told[f"times {words}"] = (
                _interval(row, axis) + (f"; {_p(row, 'times_p')}" if axis == "times" else "")
                if math.isfinite(row[axis])
                else f"{row['learned']} of {row['of']} seeds, {row['other_learned']} of {row['other_of']}"
            )
        rows.append(told)
    return pd.DataFrame(rows)


def run_again() -> pd.DataFrame:
    """`contrasts_table` of the published study as far as it has come; empty before it has."""
    study = questions()
    return contrasts_table(study) if study else pd.DataFrame()


def _interval(row: dict, name: str, digits: int = 2, signed: bool = False) -> str:
    value, low, high = (
        row[key] for key in ((name, f"{name}_low", f"{name}_high") if name else ("points", "low", "high"))
    )
    return with_interval(value, low, high, digits, signed)


def _p(row: dict, name: str) -> str:
    return f"p {p_value(row[name])}" + ", primary" * (row["primary"] == name)


def learning(study: Results, name: str = WRITTEN_DOWN) -> str:
    """Whether the foveated model learns it sooner, and ends better, than the baseline and than what reads as few
    tokens: words that follow the p values of `contrasts`, a head and a list under it without the last full stop."""
    table = contrasts(study, name)
    told = [
        f"beside {what} {_beside(row, whose)}"
        for arch, (what, whose) in BESIDE.items()
        for row in table[table["beside"] == arch].to_dict("records")
    ]
    seen = study.evaluations["samples_seen"].max()
    (passes,) = {1 + config.fine_passes for config in study.runs["config"] if config.arch == SIDES[0]}
    swept = sources.rates_path(name)
    head = (
        f"**Who learns to answer about one of three to five shapes**: the foveated model {_in_short(table)}; {seen:,.0f} clips at "
        f"a constant rate, each of which it reads {passes} times, in a world that was found by trying the foveated model alone"
    )
    rates = (
        "each architecture has the learning rate that was best on another seed after as many steps"
        f"{swept_shorter(study, read_table(swept)) if swept.exists() else ''}"
    )
    apart = f", but that beside the baseline at {PRIMARY_SIZE}, written down beforehand" * bool(
        (table["primary"] != "").any()
    )
    corrected = (
        f"words on clips and on points follow Holm's correction for the {_comparisons(study, name)} comparisons that are planned, "
        f"run yet or not{apart}; FLOPs have intervals alone{_interim(study, name)}"
    )
    return ";\n  - ".join(filter(None, [head, *told, _open_ends(study), rates, corrected]))


def _in_short(table: pd.DataFrame) -> str:
    """`contrasts` beside the baseline in a sentence's words: how soon, where every seed learned it, and where they
    end, with the sizes of which that is so."""
    rows = table[table["beside"] == SIDES[1]].to_dict("records")
    learned = [row for row in rows if math.isfinite(row["times"])]
    other = f"than the {SIDES[1]}"
    soon = (
        f"fewer clips {other}",
        f"more clips {other}",
        f"no fewer and no more clips {other}, as far as can be told",
    )
    ends = (f"fewer right answers {other}", f"more right answers {other}", "no difference that can be told")
    told = [f"ends with {', '.join(_by_word(rows, '', 0, ends))}"]
    if learned:
        counts = ", ".join(_by_word(learned, "times", 1, soon))
        told.insert(0, f"comes to {100 * LEARNED:.0f} % right after {counts}")
    return ", ".join(told)


def _by_word(rows: list[dict], name: str, none: float, words: tuple[str, str, str]) -> list[str]:
    """Each of `words` that is said of some row, with the sizes of those."""
    said = {word: [row["pair"] for row in rows if _word(row, name, none, words) == word] for word in words}
    return [f"{word} ({', '.join(pairs)})" for word, pairs in said.items() if pairs]


def _interim(study: Results, name: str) -> str:
    """How many of the seeds are there that are planned first, where some are not, and what has none; clauses or
    nothing."""
    planned = _planned(study, name, priority=1)
    there = study.runs.groupby(["pair", "arch"]).size()
    told = ""
    counts = {
        pair: (min(there.get((pair, arch), 0) for arch in SIDES), seeds)
        for (pair, arch), seeds in planned.items()
        if arch == SIDES[0]
    }
    if left := [f"{count} of {seeds} at {pair}" for pair, (count, seeds) in counts.items() if count < seeds]:
        told += f"; seeds so far {', '.join(left)}, looked at as they come, so that this may turn"
    if none := [f"{arch} at {pair}" for pair, arch in planned if (pair, arch) not in there]:
        told += f"; not run yet: {', '.join(none)}"
    return told


def _beside(row: dict, whose: str) -> str:
    where = f"at {row['pair']} ({row['of']} and {row['other_of']} seeds): "
    if math.isfinite(row["times"]):
        clips, flops, without = (_interval(row, axis) for axis in HOW_SOON)
        sooner = _word(row, "times", 1, ("sooner", "later", "not to be told apart"))
        soon = (
            f"it comes to {100 * LEARNED:.0f} % right for the first time after {clips} times the clips ({sooner}), {flops} times "
            f"the training FLOPs, {without} times those without frozen vision"
        )
    else:
        soon = (
            f"{row['learned']} of {row['of']} seeds come to {100 * LEARNED:.0f} % right, of {whose} "
            f"{row['other_learned']} of {row['other_of']}"
        )
    word = _word(row, "", 0, ("fewer", "more", "no difference can be told"))
    return f"{where}{soon}, and at the end {_interval(row, '', 1, True)} points right ({word})"


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


def steered_again() -> pd.DataFrame:
    """`steering_table` of the published study's runs that were scored; empty before any was."""
    rows = gazes(WRITTEN_DOWN)
    return pd.DataFrame() if rows is None else steering_table(rows)


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

{learning(study, name)}.

![Right answers of every run on the way, frame by frame; the dotted line is {100 * LEARNED:.0f} %](figures/{name}_curves.png)

The foveated model beside each: right answers at the end, percentage points more, and how many times as much it needs until {100 * LEARNED:.0f} %
are right for the first time (where some seed never got there, how many of each did). Points hold the noise of seeds and of the clips that are asked about,
ratios that of seeds alone; runs are evaluated every {_apart(study):,.0f} clips, so that a run's own count is known to some half of that. {_written_down(name)}

{contrasts_table(study, name).to_markdown(index=False)}
{_gaze(name, study)}{tuned_rates(name, study)}
Cells: `{name}/`. Again: `fvlm grid params/{name}.yaml --study mine`.
""")
    return f"""## Questions, run again: who learns it, and how soon

Asked which shape has a colour, of clips with three to five shapes; an answer is right if the model would write it word
for word, frame by frame. Trained on one to five shapes. Intervals are Student's t over seeds, Welch's where two
architectures are compared, those of right answers with the noise of the clips too. What was chosen by trying which: the world, the layers of
vision, how strongly a state steers and three fine passes on the foveated model alone (LOG.md, 2026-11-23); on the question also the
read-out of what a look attends to, with which the foveated model left its plateau sooner (2026-11-25, one seed); the LLM's input scale
mostly on the baseline (2026-11-25); of the others nothing but the learning rate was tried. Rates are those with the lowest
loss where a sweep ended, on one seed: not the ones that learn soonest, and a sweep that ends earlier favours who learns early.{_depth(studies)}

{chr(10).join(parts)}"""


def _depth(studies: dict[str, Results]) -> str:
    """Where looks read, in a sentence, where that differs from what the other architectures read."""
    told = dict.fromkeys(clause for study in studies.values() for clause in other_depth(study))
    return "".join(f" {clause[0].upper()}{clause[1:]}." for clause in told)


def _written_down(name: str) -> str:
    if name != WRITTEN_DOWN:
        return "All *p* are corrected by Holm."
    return (
        f"The primary contrast, written down before the first run (LOG.md), is the clips beside {SIDES[1]} at {PRIMARY_SIZE}, or "
        "the points there if some seed never got so far; all other *p* are corrected by Holm."
    )


def _apart(study: Results) -> float:
    """Clips between two evaluations, the most of any run."""
    return max(
        rows["samples_seen"].sort_values().diff().max() for _, rows in study.evaluations.groupby("run")
    )


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
