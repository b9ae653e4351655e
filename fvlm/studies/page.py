"""`index.html` of a study's folder."""

import html
from pathlib import Path

import pandas as pd


def study_page(folder: Path) -> Path:
    """Write `index.html` of a study's folder: every run with its last losses, a link to its executed
    notebook, and the validation curves. Runs that are on their way are there too."""
    from fvlm.files import write_text
    from fvlm.plots import training_curves
    from fvlm.training.results import load_study

    study = load_study(folder, unfinished=True)
    last = study.evaluations.groupby("run").tail(1)
    rows = []
    for row in last.itertuples():
        name = html.escape(row.run)
        page = folder / row.run / "train.html"
        rows.append(
            {
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
        )
    curves = training_curves(study.evaluations).to_html(full_html=False, include_plotlyjs="cdn")
    page = _PAGE.format(
        title=html.escape(folder.name),
        table=pd.DataFrame(rows).to_html(index=False, escape=False),
        curves=curves,
    )
    return write_text(folder / "index.html", page)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px sans-serif; margin: 2em auto; max-width: 1300px }}
table {{ border-collapse: collapse }}
th, td {{ padding: 0.3em 0.7em; border: 0; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Losses are nats per text token on validation clips, at each run's last evaluation.</p>
{table}
{curves}
</body>
</html>
"""
