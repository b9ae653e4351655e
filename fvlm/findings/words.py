"""Numbers and comparisons in words, the same on the page and in the README."""

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.config import RunConfig
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.scaling import GapScaling, Results
from fvlm.scaling.gaps import Gap
from fvlm.studies.grid import read_grid
from fvlm.studies.question import CROWDED, GRID
from fvlm.text import span, with_interval

DATE = "2026-11-25"  # since when an LLM from scratch has its input scaled
SCHEDULES = dict(  # of learning rates
    constant="constant",
    wsd="constant, then falling to zero over the last {percent:.0f} % of the steps",
    cosine="falling to zero on a cosine",
)


def rate_over_steps(config: RunConfig) -> str:
    """How a run's learning rate goes."""
    return SCHEDULES[config.schedule].format(percent=100 * config.decay)


def beside_controls(task: str, samples: pd.DataFrame, archs) -> list[str]:
    """The foveated model beside each control on a task, a line each."""
    return [
        f"On {task}, beside {ARCHITECTURES[arch].description}: {found}."
        for arch in archs
        if (found := beside(samples, arch))
    ]


def answers_beside(samples: pd.DataFrame, table: pd.DataFrame, gazes: pd.DataFrame, arch: str) -> str:
    """The foveated model's loss on the answer beside a control's at every size, then how far that control had
    come and what the comparison is worth. Words follow the intervals. samples, table, gazes:
    `sources.questions`; no full stop."""
    gaps = {pair: sources.against(part, [arch]).get(arch) for pair, part in samples.groupby("pair")}
    names = trained_sizes(sources.study("question"), gaps)
    told = ", ".join(f"{lower_or_higher(gap)} at {names[pair]}" for pair, gap in gaps.items() if gap)
    return f"its loss on the answer is {told}; {_control_s_worth(table, gazes, arch)}"


def _control_s_worth(table: pd.DataFrame, gazes: pd.DataFrame, arch: str) -> str:
    """Whether a control's right answers are above a guess among the shapes, seed by seed, and what its runs
    lacked."""
    config, short = read_grid(GRID).cells[0].config, ARCHITECTURES[arch].short
    runs = table[table["run"].str.contains(f"_{short}_")]
    guess = (1 / gazes.drop_duplicates("clip_id")["objects"]).mean()
    above, rates = int((runs["right_low"] > guess).sum()), sources.rates_path("question")
    flaws = []
    if not rates.exists() or arch not in set(read_table(rates)["arch"]):
        flaws.append("at a rate that was not tuned for it")
    if to_be_run_again(config):
        flaws.append(f"with the input scale of before {DATE}")
    answers = (
        f"but after the {config.steps} steps of these runs the control is right on {percent_range(runs['right'])} % of "
        f"clips with {CROWDED} shapes or more, a guess among the shapes on {100 * guess:.0f} %: it had"
    )
    if above == 0:
        learned, what = "not learned the task", "this tells who learns sooner"
    elif above == len(runs):
        learned, what = "learned more than to guess", "this tells how far each had come"
    else:
        learned = f"learned more than to guess in {above} of {len(runs)} runs"
        what = "this tells how far each had come"
    if above == len(runs) and not flaws:
        return f"{answers.removeprefix('but ')} {learned}"
    again = ", and is to be run again" if to_be_run_again(config) else ""
    return (
        f"{answers} {learned}{', ' * bool(flaws)}{' and '.join(flaws)}, so that {what}, not what "
        f"{ARCHITECTURES[arch].description.partition(' for ')[0]} can reach{again}"
    )


def to_be_run_again(config: RunConfig) -> bool:
    """Whether a run is of an LLM from scratch whose input was not scaled yet."""
    return config.tiny and not config.scale_input


def trained_sizes(study: Results | None, pairs) -> dict[str, str]:
    """How each of these sizes is called where it is met first: by its name and how many parameters the
    foveated model trains there, if the study's runs are there."""
    names, unit = {pair: pair for pair in pairs}, "M trained parameters"
    if study is not None:
        if not any(config.read_attended for config in study.runs["config"]):
            unit += "; these runs are without the read-out of what a look attends to"
        runs = study.runs[(study.runs["arch"] == "foveated") & study.runs["pair"].isin(names)]
        for pair, count in runs.groupby("pair")["params_trainable"].mean().items():
            names[pair], unit = f"{pair} ({count / 1e6:.2f} {unit})", "M"
    return names


def of_a_saliency_model(study: Results | None) -> bool:
    """Whether the vision encoder's weights, by what their runs recorded, came with a saliency model."""
    return study is not None and bool(study.runs["weights"].str.contains("saliency").any())


def seen_through(study: Results | None) -> str:
    """What to know of gazes on such weights, a line to put below another; nothing where they are others."""
    if not of_a_saliency_model(study):
        return ""
    return (
        "\nThe vision encoder is DINOv2-small as a saliency model ships it and may have been tuned for saliency: "
        "on other weights the same models may look elsewhere."
    )


def by_shapes(right: pd.DataFrame) -> str:
    """Who tells which shape is meant: right answers by the number of shapes, beside those of a guess among
    what is there."""
    counts, guess = (
        ", ".join(map(str, right.columns)),
        ", ".join(f"{100 / count:.0f}" for count in right.columns),
    )
    return f"On questions, right answers in percent, with {counts} shapes in the clip: {_shares(right)}; a guess among them {guess}."


def longer(study: Results, right: pd.DataFrame) -> str:
    """What training for more steps makes of that."""
    config, seeds = study.runs["config"].iloc[0], study.runs["seed"].nunique()
    steps = f"{config.steps} steps instead of {read_grid(GRID).cells[0].config.steps}"
    where = f"{', '.join(study.runs['pair'].unique())}, {seeds} seed{'s' * (seeds > 1)}, learning rate {config.learning_rate:g}"
    return f"Right answers by the number of shapes after {steps} ({where}), in percent: {_shares(right)}."


def _shares(right: pd.DataFrame) -> str:
    means = right.groupby("arch", observed=True).mean()
    return "; ".join(f"{arch} {', '.join(f'{value:.0f}' for value in row)}" for arch, row in means.iterrows())


def question_rates(sizes: list[str]) -> str:
    """At which rates these sizes of the question were trained."""
    configs = {cell.config.pair: cell.config for cell in read_grid(GRID).cells}
    rates = ", ".join(f"{pair} {configs[pair].learning_rate:g}" for pair in sizes)
    how = rate_over_steps(configs[sizes[0]])
    return f"The questions' learning rate ({how}), tuned on a held-out seed, the same for all architectures of a size: {rates}."


def trends(gaps: dict[str, GapScaling]) -> list[str]:
    """A sentence for each number of frames: from the smallest size to the largest, and whether that is a
    trend."""
    lines = []
    for name, gap in gaps.items():
        table, where = gap.table, frames_of(name)
        small, large = (
            f"{row['raw_percent']:+.2f} % at {row['pair']}" for row in (table.iloc[0], table.iloc[-1])
        )
        lines.append(f"{where}: {small} to {large}; {trend(gap)}.")
    return lines


def frames_of(name: str) -> str:
    """`micro, 8 frames` to `8 frames`."""
    return name.removeprefix("micro, ")


def trend(gap: GapScaling) -> str:
    """Whether the gap grows with size, in words that follow the interval."""
    found = gap.trend.set_index("kind").loc["raw"]
    if not np.isfinite(found["slope"]):
        return "a trend needs three sizes"
    word = (
        "no trend can be told"
        if found["low"] <= 0 <= found["high"]
        else f"at equal clips it {'shrinks' if found['high'] < 0 else 'grows'} with size"
    )
    slope = with_interval(found["slope"], found["low"], found["high"])
    return f"{slope} points per tenfold parameters: {word}"


def beside(samples: pd.DataFrame, arch: str) -> str:
    """The foveated model's loss over a control's at every size that has both, in words that follow the
    intervals."""
    told = []
    for pair, part in samples.groupby("pair", sort=False):
        if gap := sources.against(part, [arch]).get(arch):
            told.append(f"{percent(gap)} % at {pair}, {verdict(gap)}")
    return "; ".join(told)


def lower_or_higher(gap: Gap) -> str:
    """A gap in percent of the other's loss, in words that follow its interval."""
    low, high = gap.percent_interval
    digits = 0 if min(map(abs, (gap.percent, low, high))) >= 1 else 1
    if high < 0:
        return f"{-gap.percent:.{digits}f} % lower ({span(-high, -low, digits, signed=False)})"
    if low > 0:
        return f"{gap.percent:.{digits}f} % higher ({span(low, high, digits, signed=False)})"
    return f"not to be told apart ({gap.percent:+.{digits}f} %, {span(low, high, digits)})"


def verdict(gap: Gap) -> str:
    return verdict_of(*gap.interval)


def verdict_of(low: float, high: float) -> str:
    """What the interval of a difference in loss says of the first of two."""
    return "it is better" if high < 0 else "it is worse" if low > 0 else "no difference can be told"


def corrected_verdict(low: float, high: float, adjusted: float) -> str:
    """As `verdict_of`, where the p value after correction for all that is compared stands as well."""
    return verdict_of(low, high) if adjusted < 0.05 else verdict_of(-1, 1)


def p_value(p: float) -> str:
    if np.isnan(p):
        return "not known"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def budget(results: Results) -> str:
    """How long what was trained, where."""
    runs, rows = results.runs, results.evaluations
    config = runs["config"].iloc[0]
    devices = ", ".join(sorted(rows["device"].unique()))
    hours = runs["seconds"].sum() / 3600
    precision = _precisions(runs)
    return (
        f"{len(runs)} runs, {config.steps} steps of {config.effective_batch} clips each, learning rate "
        f"{rate_over_steps(config)}, {precision}, on {devices}: {hours:.1f} hours of one process, "
        "evaluations included."
    )


def _precisions(runs) -> str:
    """The precision of all runs, or of each pair's."""
    by_pair = {
        pair: " and ".join(sorted({config.precision for config in configs}))
        for pair, configs in runs.groupby("pair", sort=False)["config"]
    }
    if len(set(by_pair.values())) == 1:
        told = next(iter(by_pair.values()))
    else:
        told = ", ".join(f"{pair} in {precision}" for pair, precision in by_pair.items())
    known = " (the frozen vision model in bf16, the rest in fp32)" if "bf16_vision" in told else ""
    return told + known


def still_falling(results: Results) -> str:
    """How far from converged the models are: what the steps between the last two evaluations still gave, per
    architecture."""
    losses = results.evaluations.pivot_table(index="arch", columns="step", values="loss_autoregressive")
    before, last = losses.columns[-2:]
    gained = 100 * (1 - losses[last] / losses[before])
    archs = ", ".join(f"{arch} {gained[arch]:.1f}" for arch in ARCHITECTURES if arch in gained)
    return f"Training was short: from step {before} to {last} the loss still fell by (percent) {archs}."


def nats(gap: Gap) -> str:
    return f"{with_interval(gap.nats, *gap.interval, 3, unit=' nats')}, {gap.percent:+.1f} %,"


def percent(gap: Gap) -> str:
    return with_interval(gap.percent, *gap.percent_interval)


def lowest_to_highest(values, digits: int = 1, signed: bool = False) -> str:
    return span(values.min(), values.max(), digits, signed)


def percent_range(values) -> str:
    return lowest_to_highest(100 * values, 0)
