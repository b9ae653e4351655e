"""How good are the texts that runs write? Losses and text measures, with intervals; runs compared."""

import dataclasses
import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fvlm.config import ConfigError
from fvlm.data import Clip, Collator, open_dataset
from fvlm.data.captions import attributes_right
from fvlm.training.results import Run

MEASURES = {  # in the order of tables
    "loss": "nats per text token, frame by frame; low is good",
    "perplexity": "of a text token: e to the loss; low is good",
    "exact_match": "share of texts that are the true one, but for case and spaces",
    "attributes": "of captions of shapes: share of the true objects' colours, shapes, sizes and ways to go "
    "that the text names right, its objects paired with the true ones",
    "bleu_4": "BLEU of all texts together, 0 to 100 (sacrebleu, 13a tokens)",
    "rouge_l": "ROUGE-L F1, the mean over clips, 0 to 1 (rouge-score)",
    "cider": "CIDEr, the mean over clips, 0 to 10 (pycocoevalcap; lower-case words and numbers as tokens)",
}
DRAWS = 1000
LIBRARIES = ("sacrebleu", "rouge_score", "pycocoevalcap")  # pip install 'fvlm[measures]'
CHEAP = 32  # clips that a tiny run is measured on when it is trained, in seconds


def measure(
    run: Run,
    dataset: str | None = None,
    clips: int = 100,
    size: int = 8,
    progress: Callable[[int], None] = lambda number: None,
) -> list[dict]:
    """What a run's model writes of validation clips and how far that is from what is true: a row per clip, of
    `run`, `clip_id`, `question`, `truth`, `text`, `text_tokens`, `loss` and every text measure.

    dataset: another than the run's own, as `RunConfig.dataset`. ConfigError if it does not fit, or has no
    text."""
    config = dataclasses.replace(run.config, dataset=dataset or run.config.dataset)
    data = open_dataset(config, "validation")
    count = min(clips, len(data)) if hasattr(data, "__len__") else clips
    rows = []
    for start in range(0, count, size):
        shown = [data[i] for i in range(start, min(start + size, count))]
        rows += _rows(run, shown)
        for i in range(len(shown)):
            progress(start + i)
    return score_texts(rows, shapes=config.dataset.partition(":")[0] == "shapes")


def score_texts(rows: list[dict], shapes: bool) -> list[dict]:
    """Rows of `truth` and `text` with every text measure. shapes: whether the texts have attributes."""
    return [
        row | _text_measures(row["truth"], row["text"], shapes) | dict(cider=cider)
        for row, cider in zip(rows, _ciders(rows))
    ]


@torch.no_grad()
def _rows(run: Run, clips: list[Clip]) -> list[dict]:
    task = run.config.task
    batch = Collator(run.tokenizer, task)(clips)
    out = run.model(**batch.inputs(run.model.device), mode="autoregressive")
    tokens = out.text_mask.sum(1)
    losses, texts = (out.token_losses.sum(1) / tokens).tolist(), run.write(clips)
    return [
        dict(
            run=run.folder.name,
            clip_id=clip.clip_id,
            question=clip.question if task == "question" else None,
            truth=clip.text(task),
            text=text,
            text_tokens=n,
            loss=loss,
        )
        for clip, text, n, loss in zip(clips, texts, tokens.tolist(), losses)
    ]


def _text_measures(truth: str, text: str, shapes: bool) -> dict:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True).sentence_score(text, [truth])
    return dict(
        exact_match=float(truth.lower().split() == text.lower().split()),
        attributes=attributes_right(truth, text) if shapes else math.nan,
        rouge_l=RougeScorer(["rougeL"]).score(truth, text)["rougeL"].fmeasure,
        bleu_statistics=[*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len],
    )


def _ciders(rows: list[dict]) -> list[float]:
    from pycocoevalcap.cider.cider import Cider

    truths = {i: [_words(row["truth"])] for i, row in enumerate(rows)}
    texts = {i: [_words(row["text"])] for i, row in enumerate(rows)}
    return [float(score) for score in Cider().compute_score(truths, texts)[1]]


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


# ── Over clips ───────────────────────────────────────────────────────────────────────────────────


def summarise(rows: list[dict]):
    """A DataFrame, a row per run and measure: `value` and its bootstrap 95 % interval over clips, `low` and
    `high`. Measures that a dataset does not have are left out."""
    import pandas as pd

    found = []
    for run, group in _by_run(rows).items():
        draws = draw_clips(len(group))
        for name in MEASURES:
            value, values = _over(group, name, draws)
            if math.isfinite(value):
                low, high = np.percentile(values, [2.5, 97.5])
                found.append(dict(run=run, measure=name, clips=len(group), value=value, low=low, high=high))
    return pd.DataFrame(found)


def differences(rows: list[dict]):
    """A DataFrame, a row per measure and run after the first: its `value` less that of the first run on the
    same clips, with a bootstrap 95 % interval of the difference. ConfigError if the clips or what is true of
    them differ."""
    import pandas as pd

    (first, base), *others = _by_run(rows).items()
    found, draws = [], draw_clips(len(base))
    for run, group in others:
        if [(row["clip_id"], row["truth"]) for row in group] != [(r["clip_id"], r["truth"]) for r in base]:
            raise ConfigError(f"{run} and {first} were measured on other clips, or other texts of them")
        for name in MEASURES:
            (value, values), (was, were) = _over(group, name, draws), _over(base, name, draws)
            if math.isfinite(value - was):
                low, high = np.percentile(values - were, [2.5, 97.5])
                found.append(dict(run=run, less=first, measure=name, value=value - was, low=low, high=high))
    return pd.DataFrame(found)


def write_tables(rows: list[dict], folder: Path):
    """Write `measure`'s rows as texts.parquet and their `summarise` as measures.parquet and .csv into a
    folder; returns the latter."""
    from fvlm.files import write_table, write_text

    folder.mkdir(parents=True, exist_ok=True)
    table = summarise(rows)
    write_table(folder / "texts.parquet", rows)
    write_table(folder / "measures.parquet", table.to_dict("records"))
    write_text(folder / "measures.csv", table.to_csv(index=False))
    return table


def measure_if_cheap(run: Run):
    """What `fvlm train` leaves in `measured/` of a tiny run: its measures on CHEAP clips, written once;
    returns them. None of a large run, or where the kept libraries are not installed."""
    from fvlm.files import read_table

    kept = run.folder / "measured" / "measures.parquet"
    if kept.exists():
        return read_table(kept)
    if not run.config.tiny or not all(map(find_spec, LIBRARIES)):
        return None
    return write_tables(measure(run, clips=CHEAP), kept.parent)


def _by_run(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def draw_clips(clips: int) -> np.ndarray:
    """Positions of clips drawn with replacement (DRAWS, clips), always the same."""
    return np.random.default_rng(0).integers(0, clips, (DRAWS, clips))


def token_mean(losses: np.ndarray, tokens: np.ndarray, draws: np.ndarray) -> tuple[float, np.ndarray]:
    """Nats per text token of all clips, and of each draw of clips: `losses` (clips,) are means over the
    `tokens` (clips,) of each."""
    tokens = tokens.astype(float)
    mean = lambda which: (losses[which] * tokens[which]).sum(-1) / tokens[which].sum(-1)
    return mean(np.arange(len(losses))), mean(draws)


def _over(rows: list[dict], name: str, draws: np.ndarray) -> tuple[float, np.ndarray]:
    """A measure of all clips, and of each draw of clips."""
    if name == "bleu_4":
        statistics = np.array([row["bleu_statistics"] for row in rows])
        return _bleu(statistics.sum(0)), np.array([_bleu(statistics[draw].sum(0)) for draw in draws])
    if name in ("loss", "perplexity"):
        tokens = np.array([row["text_tokens"] for row in rows])
        value, values = token_mean(np.array([row["loss"] for row in rows]), tokens, draws)
        return (value, values) if name == "loss" else (math.exp(value), np.exp(values))
    values = np.array([row[name] for row in rows], float)
    return values.mean(), values[draws].mean(1)


def _bleu(statistics: np.ndarray) -> float:
    from sacrebleu.metrics import BLEU

    counts, totals, (written, true) = np.split(statistics.astype(int), [4, 8])
    return BLEU.compute_bleu(counts.tolist(), totals.tolist(), int(written), int(true)).score
