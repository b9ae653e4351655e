"""`index.html` of a study's folder."""

import html
import warnings
from pathlib import Path

import pandas as pd

from fvlm.scaling.intervals import t_half_width
from fvlm.training.results import LOSSES


def study_page(folder: Path) -> Path:
    """Write `index.html` of a study's folder: the validation curves, each cell's last losses as means over
    seeds, and every run with a link to its executed notebook; runs that are on their way too. The tables are
    sorted by a click and filtered; the page needs no other file and no network. A run that can't be read is
    named with what is wrong."""
    from fvlm.files import write_text
    from fvlm.plots import training_curves
    from fvlm.training.results import load_study

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        study = load_study(folder, unfinished=True)
    left_out = [str(one.message) for one in warned if str(one.message).startswith("left out")]
    last = study.evaluations.groupby("run").tail(1)
    curves = training_curves(study.evaluations).to_html(
        full_html=False, include_plotlyjs=True, config=dict(responsive=True)
    )
    page = _PAGE.format(
        title=html.escape(folder.name),
        curves=curves,
        cells=_table(cells_rows(last)),
        runs=_table([_run_row(folder, row) for row in last.itertuples()]),
        left_out="".join(f"<p>{html.escape(message)}</p>" for message in left_out),
    )
    return write_text(folder / "index.html", page)


def cells_rows(last: pd.DataFrame) -> list[dict]:
    """A row per cell: its runs' last losses as means over seeds with Student's 95 % intervals, and how far
    they are. last: the last evaluation of every run."""
    rows = []
    for cell, runs in last.groupby("cell", sort=False):
        row = {"cell": html.escape(cell), "seeds": len(runs), "steps": _span(runs["step"])}
        for name in LOSSES:
            row[name.removeprefix("loss_")] = _mean(runs[name])
        rows.append(row | {"minutes": f"{runs['seconds'].mean() / 60:.1f}"})
    return rows


def _mean(values: pd.Series) -> str:
    if values.isna().any():
        return ""
    half = f" ± {t_half_width(values.std(), len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{half}"


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _run_row(folder: Path, row) -> dict:
    name = html.escape(row.run)
    page = folder / row.run / "train.html"
    return {
        "run": f'<a href="{name}/train.html">{name}</a>' if page.exists() else name,
        "step": row.step,
        "samples": row.samples_seen,
        "parallel": f"{row.loss_parallel:.3f}",
        "autoregressive": f"{row.loss_autoregressive:.3f}",
        "visual tokens": row.visual_tokens,
        "parameters": f"{row.params_total / 1e6:.1f} M",
        "training FLOPs": f"{row.flops:.2e}",
        "minutes": f"{row.seconds / 60:.1f}",
        "memory": f"{row.peak_memory_bytes / 1e9:.1f} GB",
        "weights": html.escape(row.weights),
    }


def _table(rows: list[dict]) -> str:
    return pd.DataFrame(rows).to_html(index=False, escape=False, border=0)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px sans-serif; margin: 2em auto; max-width: 1300px; padding: 0 1em }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: 0.3em 0.7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
th {{ cursor: pointer }}
input {{ font: inherit; padding: 0.2em 0.5em }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Losses are nats per text token on validation clips, at each run's last evaluation; ± is Student's 95 %
interval of the mean over seeds. A click on a column's name sorts.</p>
{curves}
<h2>Cells</h2>
{cells}
<h2>Runs</h2>
<p><input type="search" placeholder="filter, such as T1 fov" aria-label="filter the runs"></p>
<div id="runs">{runs}</div>
{left_out}
<script>
for (const head of document.querySelectorAll("th")) {{
  head.onclick = () => {{
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex, down = head.dataset.down !== "yes";
    const value = row => row.cells[column].textContent;
    const order = (a, b) => value(a).localeCompare(value(b), undefined, {{numeric: true}});
    const number = row => Number.parseFloat(value(row));
    const byNumber = [...body.rows].every(row => !Number.isNaN(number(row)));
    const sorted = [...body.rows].sort(byNumber ? (a, b) => number(a) - number(b) : order);
    body.append(...(down ? sorted : sorted.reverse()));
    head.dataset.down = down ? "yes" : "no";
  }};
}}
document.querySelector("input").oninput = event => {{
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll("#runs tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
}};
</script>
</body>
</html>
"""
