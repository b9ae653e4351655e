"""The files around the code: what they name exists, and they agree with each other."""

import re
import subprocess
import sys
import tomllib

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, tracked

from fvlm import load_run
from fvlm.findings.page import PAGE
from fvlm.studies.question import configs, results

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
README = (REPOSITORY / "README.md").read_text()
FINDINGS = " ".join(PAGE.read_text().split())  # without the padding of its tables


def test_environment_yml_is_a_valid_conda_file_that_defers_to_pyproject():
    from rattler import MatchSpec

    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    *specs, pip = environment["dependencies"]
    assert pip == {"pip": ["-e .[dev]"]}
    versions = {spec.name.normalized: spec for spec in (MatchSpec(s, strict=True) for s in specs)}
    assert "pip" in versions
    assert "3.11" in str(versions["python"].version) and PROJECT["requires-python"].startswith(">=3.11")


def test_torch_is_pinned_exactly_and_what_nothing_pulls_in_is_named():
    assert "torch==2.13.0" in PROJECT["dependencies"]
    names = {re.match(r"[\w.-]+", d)[0] for d in PROJECT["dependencies"]}
    packages = (
        "jupyterlab jupytext papermill torch transformers datasets ipywidgets plotly pandas nbval pillow"
    )
    packages += " anywidget"
    assert names >= set(packages.split())


def test_everything_the_readme_names_exists():
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    paths = re.findall(r"`((?:notebooks|fvlm|params|outputs|tests)/[\w./-]*[\w/])`", README)
    assert links and paths
    missing = [p for p in links + paths if not (REPOSITORY / p).exists() and not p.startswith("outputs/runs")]
    assert missing == []
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert {t for t in re.findall(r"\bmake (\w+)", README)} <= set(targets)
    notebooks = {p.name for p in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\b(\w+\.ipynb)\b", README)) >= notebooks, "the table lists every notebook"


def test_the_readme_describes_every_result_column():
    import inspect

    from fvlm.training.loop import evaluation_row

    source = inspect.getsource(evaluation_row)
    columns = set(re.findall(r"\b(\w+)=", source.partition("return dict(")[2])) | {
        "loss_parallel",
        "loss_autoregressive",
        "loss_static",
    }
    assert {c for c in columns if f"`{c}`" not in README} == set()


def test_nothing_tracked_is_large_or_left_over():
    for name in tracked():
        path = REPOSITORY / name
        assert not path.exists() or path.stat().st_size <= 5_000_000, name
    assert not [n for n in tracked() if n.startswith((".venv", "notebooks/out/S"))]


@pytest.mark.parametrize(
    "page", sorted((REPOSITORY / "outputs").glob("*/index.html")), ids=lambda path: path.parent.name
)
def test_every_link_of_a_committed_study_s_page_leads_somewhere(page):
    if str(page.relative_to(REPOSITORY)) in tracked():
        links = re.findall(r'<a href="([^"]+)"', page.read_text())
        assert links and [link for link in links if not (page.parent / link).exists()] == []


def test_lint_and_format():
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_ci_runs_the_readme_s_test_command():
    assert "make test" in (REPOSITORY / ".ci/run").read_text() and "\nmake test " in README


def test_the_smallest_cell_s_numbers_are_the_committed_results():
    """The tiny model sees: under the blind control with the same budget and clips, by three seeds without
    overlap."""
    runs = {
        p.parent.name: pd.read_parquet(p) for p in (REPOSITORY / "outputs/sees").glob("*/evaluations.parquet")
    }
    final = {
        arch: [runs[f"T-T_8f_{arch}_seed{s}"]["loss_parallel"].iloc[-1] for s in range(3)]
        for arch in ("fov", "bli")
    }
    for arch, losses in final.items():
        assert f"| `T-T_8f_{arch}` | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |" in FINDINGS
    assert max(final["fov"]) < min(final["bli"])
    budgets = {
        (r["step"].iloc[-1], r["samples_seen"].iloc[-1], r["dataset_fingerprint"].iloc[-1])
        for r in runs.values()
    }
    assert len(runs) == 6 and len(budgets) == 1


def test_a_question_steers_the_gaze_and_that_helps():
    """Every seed of the foveated model beats every seed of its static control, in answer loss and in hits,
    intervals apart; and its gaze leaves the target when something else is asked about."""
    table = results().set_index("run")
    rows = {arch: table.loc[[f"T2-T_2f_{arch}_seed{seed}" for seed in range(3)]] for arch in ("fov", "sta")}
    for run, row in pd.concat(rows.values()).iterrows():
        shown = [
            f"{row[n]:.3f} ({row[n + '_low']:.3f} to {row[n + '_high']:.3f})"
            for n in ("loss", "right", "hit", "hit_other")
        ]
        assert f"| `{run}` | {' | '.join(shown)} |" in FINDINGS
    assert f"random is in {100 * rows['fov']['chance'].iloc[0]:.1f} % of frames" in FINDINGS
    assert rows["fov"]["loss_high"].max() < rows["sta"]["loss_low"].min()
    assert rows["fov"]["hit_low"].min() > rows["sta"]["hit_high"].max()
    assert rows["fov"]["hit_other_high"].max() < rows["fov"]["hit_low"].min()
    runs = [load_run(config.folder) for config in configs()]
    assert (
        len(
            {
                (r.evaluations["samples_seen"].iloc[-1], r.evaluations["dataset_fingerprint"].iloc[-1])
                for r in runs
            }
        )
        == 1
    )
    for config, run in zip(configs(), runs, strict=True):
        assert not config.changes_from(run.config) and len(run.samples) == config.eval_samples
