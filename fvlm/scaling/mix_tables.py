"""What mix.ipynb shows: mixes, laws, the optimum, what was predicted and came, and the recommendation.

Every function works before there are runs, and says then what is missing."""

import numpy as np
import pandas as pd

from fvlm.config import DOMAINS, REPOSITORY, RunConfig
from fvlm.costs.mixes import FROM, SIZES, domain_costs, gpu_hours, mix_costs
from fvlm.data.catalogue import catalogue
from fvlm.data.mix import Mix, read_mix
from fvlm.scaling import tables
from fvlm.scaling.intervals import interval_of_difference
from fvlm.scaling.mix import LAW, Limits
from fvlm.scaling.mixtures import (
    beside,
    best_mixture,
    domains_of,
    forms_compared,
    mixing_laws,
    mixture_runs,
    outcomes,
    points,
    read_prediction,
)
from fvlm.text import with_interval

DESIGN = "mix"  # the study of params/mix/design.yaml
ONE_TOKEN, SIXTEEN = "foveated", "baseline"
SMOLVLM = "SmolVLM"  # its proportions, as params/mix/evaluation.yaml names them

SHOWN = {  # as in fvlm.scaling.tables
    "arch": ("architecture", "{}"),
    "weight": ("weight", "{:.2f}"),
    "samples": ("samples", "{:,.0f}"),
    "epochs": ("epochs at most", "{}"),
    "text_tokens": ("text tokens", "{:,.0f}"),
    "visual_tokens": ("visual tokens", "{:,.0f}"),
    "flops": ("training FLOPs", "{:si}"),
    "gpu_hours": ("H100 hours", "{:.2g}"),
    "times_foveated": ("times the foveated FLOPs", "{:.2f}"),
    "off_percent": ("off by at most, % of the weight", "{:.2f}"),
    "floor": ("floor, nats per text token", "{:.3f}"),
    **{f"t_{domain}": (f"coefficient of {domain}", "{:+.2f}") for domain in DOMAINS},
    "gamma": ("exponent of the samples", "{:.2f}"),
    "noise": ("noise of a run, log loss", "{:.3f}"),
    "r2": ("R²", "{:.3f}"),
    "error": ("error, log loss", "{:.4f}"),
    "worse": ("mean square more than the best form's", "{:.5f}"),
    "p": ("p, no worse than the best form", "{:.3f}"),
    "p_mean": ("p, no better than the mean", "{:.3f}"),
    "fails": ("why the law fails", "{}"),
    "least_within_1_percent": ("least within 1 %", "{:.2f}"),
    "most_within_1_percent": ("most within 1 %", "{:.2f}"),
    "loss": ("loss, nats per text token", "{:.3f}"),
    "flat_share": ("mixtures as good", "{:.0%}"),
    "one_token": ("weight, one token a frame", "{:.2f}"),
    "sixteen_tokens": ("weight, 16 tokens", "{:.2f}"),
    "difference": ("difference", "{:+.2f}"),
    "predicted": ("predicted, nats per text token", "{:.3f}"),
    "came": ("came", "{:.3f}"),
    "error_percent": ("off, %", "{:+.1f}"),
    "largest_error_percent": ("off at most, %", "{:.1f}"),
    "percent": ("beside SmolVLM's proportions, %", "{:+.2f}"),
}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of this module as people read it (`fvlm.scaling.tables.shown`)."""
    return tables.shown(table, SHOWN)


def missing(what: str, command: str) -> pd.DataFrame:
    """A table that says what is not there yet, and how it comes there."""
    return pd.DataFrame([{"missing": what, "command": command}])


def design_missing() -> pd.DataFrame:
    return missing("the runs of the design", "fvlm mix params/mix/design.yaml")


def study_runs(study: str = DESIGN) -> pd.DataFrame:
    """The kept runs of a study of `outputs/`; empty if there are none yet."""
    return mixture_runs(REPOSITORY / "outputs" / study)


def evaluation(design: str = DESIGN) -> tuple[dict | None, pd.DataFrame]:
    """What was predicted by a design's laws, None if nothing was yet, and the runs that came of it; both from
    `outputs/<design>_evaluation`."""
    folder = REPOSITORY / "outputs" / f"{design}_evaluation"
    return read_prediction(folder), mixture_runs(folder)


def mix_table(dataset: str) -> pd.DataFrame:
    """The parts of a mix as its file has them."""
    mix = read_mix(dataset)
    columns = ("domain", "data", "samples", "epochs", "text_tokens")
    rows = [{name: getattr(part, name) for name in columns} for part in mix.parts]
    return pd.DataFrame(rows).assign(weight=np.round(mix.weights, 3))


def counts_table(runs: pd.DataFrame) -> pd.DataFrame:
    """How far the shares that runs saw are from their weights, at the worst, by domain, in percent of the
    weight."""
    if runs.empty:
        return design_missing()
    last = runs[runs["step"] == runs["steps"]]
    rows = []
    for domain in domains_of(runs):
        weight, share = last[f"weight_{domain}"], last[f"share_{domain}"]
        there = weight > 0
        off = 100 * (share[there] / weight[there] - 1).abs()
        rows.append(dict(domain=domain, runs=int(there.sum()), off_percent=float(off.max())))
    return pd.DataFrame(rows)


def laws_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The law of each architecture and domain: floor, coefficients of the weights, exponent of the samples,
    noise of a run, share explained."""
    if runs.empty:
        return design_missing()
    rows = []
    for arch in dict.fromkeys(runs["arch"]):
        laws = mixing_laws(runs, arch, bootstrap=0)
        for fit in laws.fits:
            terms = fit.theta[1 : 1 + len(laws.domains)]
            row = dict(arch=arch, domain=fit.domain, floor=float(np.exp(fit.theta[0])))
            row |= {f"t_{domain}": float(term) for domain, term in zip(laws.domains, terms)}
            row["gamma"] = float(fit.theta[-1]) if fit.form.grows else float("nan")
            rows.append(row | dict(noise=fit.noise, r2=fit.r2, runs=fit.runs))
    return pd.DataFrame(rows)


def validation_table(runs: pd.DataFrame) -> pd.DataFrame:
    """`forms_compared` of every architecture: error of each form on mixtures left out, and where the law
    fails."""
    if runs.empty:
        return design_missing()
    tables = [forms_compared(runs, arch).assign(arch=arch) for arch in dict.fromkeys(runs["arch"])]
    table = pd.concat(tables, ignore_index=True)
    return table[["arch", *[name for name in table if name != "arch"]]]


def optimum_table(runs: pd.DataFrame, limits: Limits | None = None) -> pd.DataFrame:
    """The best mixture by the laws of each architecture, with its interval, and how far one may go from it
    within a percent of its loss."""
    if runs.empty:
        return design_missing()
    tables = []
    for arch in dict.fromkeys(runs["arch"]):
        best = best_mixture(runs, arch, limits)
        tables.append(best.table().assign(arch=arch, loss=best.loss, flat_share=best.flat))
    table = pd.concat(tables, ignore_index=True)
    return table[["arch", *[name for name in table if name != "arch"]]]


def weights_table(prediction: dict) -> pd.DataFrame:
    """The mixtures of a prediction: weights by name."""
    rows = [dict(mixture=name) | weights for name, weights in prediction["mixtures"].items()]
    return pd.DataFrame(rows)


def outcome_table(prediction: dict | None, came: pd.DataFrame) -> pd.DataFrame:
    """Predicted and come, of all domains together and each."""
    if prediction is None:
        return missing("the prediction", "fvlm mix params/mix/evaluation.yaml --predict")
    table = outcomes(prediction, came)
    return table if len(table) else missing("the predicted runs", "fvlm mix params/mix/evaluation.yaml")


def failures_table(table: pd.DataFrame) -> pd.DataFrame:
    """Of `outcome_table`: how many of what was predicted came within its interval, by architecture and
    domain."""
    if "inside" not in table:
        return table
    grouped = table.groupby(["arch", "domain"], sort=False)
    return grouped.agg(
        inside=("inside", "sum"),
        of=("inside", "size"),
        largest_error_percent=("error_percent", lambda e: e.abs().max()),
    ).reset_index()


def tried_table(prediction: dict | None, came: pd.DataFrame) -> pd.DataFrame:
    """What runs at each mixture gave beside runs at SmolVLM's proportions, all domains together, in percent
    with Student's interval over seeds."""
    rows = []
    for arch in dict.fromkeys(row["arch"] for row in prediction["predicted"]) if prediction else ():
        for name in prediction["mixtures"]:
            found = beside(prediction, came, arch, name, SMOLVLM) if name != SMOLVLM else None
            if found:
                rows.append(dict(arch=arch, mixture=name) | dict(zip(("percent", "low", "high"), found)))
    if not rows:
        return missing("the predicted runs", "fvlm mix params/mix/evaluation.yaml")
    return pd.DataFrame(rows)


def moved_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Does one visual token a frame want another mixture than 16 do? By domain: the weight each wants, and
    the difference with its interval."""
    if runs.empty or not {ONE_TOKEN, SIXTEEN} <= set(runs["arch"]):
        return design_missing()
    best = {arch: best_mixture(runs, arch) for arch in (ONE_TOKEN, SIXTEEN)}
    one, many = best[ONE_TOKEN], best[SIXTEEN]
    low, high = interval_of_difference(*((each.weights, each.low, each.high) for each in (one, many)))
    return pd.DataFrame(
        dict(
            domain=one.domains,
            one_token=one.weights,
            sixteen_tokens=many.weights,
            difference=one.weights - many.weights,
            low=low,
            high=high,
        )
    )


# ── What it costs, and what to do ────────────────────────────────────────────────────────────────


def size_mix(size: str) -> Mix:
    """The mix for so many samples, one of SIZES."""
    return read_mix(f"params/mix/{size}.yaml")


def catalogue_table() -> pd.DataFrame:
    """The catalogue's names, sizes and licences; empty where the source does not say."""
    table = catalogue()[["name", "domain", "samples", "hours", "licence", "gated", "checked"]]
    numbers = {
        name: table[name].map(lambda n: "" if pd.isna(n) else f"{n:,.0f}") for name in ("samples", "hours")
    }
    return table.assign(**numbers).astype(object).fillna("")


def cost_table() -> pd.DataFrame:
    """Samples, tokens, FLOPs, GPU hours of the three mixes; S-S, M-S and B-L, foveated and baseline."""
    tables = [mix_costs(size_mix(size), samples).assign(mix=size) for size, samples in SIZES.items()]
    table = pd.concat(tables, ignore_index=True)
    return table[["mix", *[name for name in table if name != "mix"]]]


def needs_table() -> pd.DataFrame:
    """How many samples each domain needs in the three mixes, and their tokens of text."""
    config = RunConfig.from_cell("S-S_8f_fov", device="cpu", precision="fp32")
    rows = []
    for size, samples in SIZES.items():
        for row in domain_costs(size_mix(size), samples, config).to_dict("records"):
            rows.append(dict(mix=size) | {n: row[n] for n in ("domain", "weight", "samples", "text_tokens")})
    return pd.DataFrame(rows)


def provenance_table() -> pd.DataFrame:
    """What is measured, counted, published or assumed in the tables of costs."""
    return pd.DataFrame([dict(number=name, **{"from": told}) for name, told in FROM.items()])


def recommended(
    runs: pd.DataFrame, prediction: dict | None = None, came: pd.DataFrame | None = None
) -> tuple[dict[str, float], str]:
    """The weights to train with, and what they rest on: a law's optimum where it was fitted, nothing says
    that it fails, and runs there (`came`, of `prediction`) ended below runs at SmolVLM's proportions; or else
    these."""
    published = size_mix("5k").domains

    def stay(why: str) -> tuple[dict[str, float], str]:
        return published, f"published: SmolVLM's proportions, {why}"

    if runs.empty or ONE_TOKEN not in set(runs["arch"]):
        return stay("no law is fitted yet")
    compared = forms_compared(runs, ONE_TOKEN)
    fails = [row.domain for row in compared.itertuples() if row.form == LAW and row.fails]
    if fails:
        return stay(f"as the law fails for {', '.join(fails)}")
    found = prediction and beside(prediction, came, ONE_TOKEN, f"optimum of {ONE_TOKEN}", SMOLVLM)
    if not found:
        return stay("as no run has put the law's best mixture to the test yet")
    told = f"{with_interval(*found)} % of its loss on the built-in domains"
    if found[2] >= 0:
        return stay(f"as the law's best mixture was not better: {told}")
    best = prediction["optima"][ONE_TOKEN]
    weights = {domain: best[domain] for domain in domains_of(runs)}
    number = points(runs, ONE_TOKEN)["mixture"].nunique()
    rests = f"fitted to {number} mixtures of the built-in domains, and tried there: beside SmolVLM's"
    return weights, f"{rests} {told}"


def recommendation(runs: pd.DataFrame, prediction: dict | None, came: pd.DataFrame) -> str:
    """What somebody should do, in Markdown: the weights and what they rest on, and for each size what it
    takes. prediction, came: `evaluation`'s."""
    weights, rests = recommended(runs, prediction, came)
    told = ", ".join(f"{100 * weight:.0f} % {domain}" for domain, weight in weights.items())
    given = ",".join(f"{domain}={weight:.2f}" for domain, weight in weights.items())
    lines = [f"**Train with {told}** ({rests}).", ""]
    for size, samples in SIZES.items():
        mix = size_mix(size).reweighted(weights)
        costs = mix_costs(mix, samples).set_index("cell")
        fov, bas = costs.loc["B-L_8f_fov"], costs.loc["B-L_8f_bas"]
        small = costs.loc["S-S_8f_fov"]
        command = (
            f"fvlm train --cell S-S_8f_fov --set dataset=params/mix/{size}.yaml:{given} "
            f"--set steps={-(-samples // 16)}"
        )
        lines.append(
            f"- **{samples:,} samples**: `{command}`: {small['flops']:.2e} FLOPs (counted), "
            f"{small['gpu_hours']:.2g} hours of an H100 (assumed rate). B-L: {fov['gpu_hours']:.2g} hours "
            f"foveated, {bas['gpu_hours']:.2g} baseline, {bas['times_foveated']:.2f} times as many FLOPs."
        )
    return "\n".join([*lines, "", *_at_stake(tried_table(prediction, came)), _bought()])


def _at_stake(tried: pd.DataFrame) -> list[str]:
    """How much the proportions matter where it was tried; nothing where no run says."""
    if "percent" not in tried or ONE_TOKEN not in set(tried["arch"]):
        return []
    mine = tried[tried["arch"] == ONE_TOKEN].sort_values("percent")
    ends = [
        f"*{row.mixture}*, {with_interval(row.percent, row.low, row.high)} %"
        for row in (mine.iloc[0], mine.iloc[-1])
    ]
    return [
        "How much is at stake, on the built-in domains, beside SmolVLM's proportions: of "
        f"{len(mine)} other mixtures the best was {ends[0]}, the worst {ends[1]}. Other data may want other "
        "proportions: `fvlm mix` asks it of yours, with runs as small as these.",
        "",
    ]


def _bought() -> str:
    """What one token a frame buys at SmolVLM's scale."""
    costs = mix_costs(size_mix("4.4m"), SIZES["4.4m"])
    pairs = [costs.iloc[i : i + 2] for i in range(0, len(costs), 2)]
    saved = "; ".join(
        f"{one['cell'].rpartition('_')[0]} {gpu_hours(many['flops'] - one['flops']):.2g} of "
        f"{many['gpu_hours']:.2g} hours"
        for one, many in (pair.to_dict("records") for pair in pairs)
    )
    ratio = pairs[0].iloc[1]["visual_tokens"] / pairs[0].iloc[0]["visual_tokens"]
    return (
        f"At 4.4 million samples of 8 frames one visual token a frame instead of 16 reads {ratio:.0f} times "
        f"fewer visual tokens and saves: {saved}. Both look at every frame with the same vision model."
    )
