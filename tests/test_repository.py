"""The files around the code: what they name exists, and they agree with each other."""

import os
import re
import subprocess
import sys
import tomllib

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, result_columns, tracked

from fvlm import load_run
from fvlm.findings.page import PAGE, published
from fvlm.studies.page import study_page
from fvlm.studies.question import configs, results

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
README = (REPOSITORY / "README.md").read_text()
FINDINGS = " ".join(PAGE.read_text().split())  # without the padding of its tables
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", MAKEFILE, re.M))  # and their commands


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
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= set(TARGETS)
    notebooks = {p.name for p in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\b(\w+\.ipynb)\b", README)) >= notebooks, "the table lists every notebook"


def test_the_readme_describes_every_column_of_every_kept_evaluation():
    """tests/training holds a new run's columns to the README's table too."""
    kept = [REPOSITORY / name for name in tracked() if name.endswith("/evaluations.parquet")]
    assert len(kept) > 80
    for path in kept:
        assert set(pd.read_parquet(path).columns) <= set(result_columns()), path


def test_nothing_tracked_is_large_or_left_over():
    for name in tracked():
        path = REPOSITORY / name
        assert not path.exists() or path.stat().st_size <= 5_000_000, name
    assert not [n for n in tracked() if n.startswith((".venv", "notebooks/out/S"))]


def test_every_link_of_a_committed_study_s_page_leads_somewhere():
    folders = [REPOSITORY / "outputs" / name for name in published()]
    pages = [study_page(folder) for folder in folders if any(folder.glob("*/train.html"))]
    assert len(pages) >= 4
    for page in pages:
        links = re.findall(r'<td><a href="([^"]+)"', page.read_text())
        assert links and [link for link in links if not (page.parent / link).exists()] == [], page


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        pytest.param(f"pyright --pythonpath {sys.executable}", marks=pytest.mark.slow),
    ],
)
def test_what_make_lint_runs_finds_nothing(command):
    assert command.partition(" --pythonpath")[0] in TARGETS["lint"]
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_ci_runs_the_readme_s_test_command_with_a_browser():
    commands = (REPOSITORY / ".ci/run").read_text().splitlines()
    assert commands[-1] == "FVLM_REQUIRE_BROWSER=1 make test" and "\nmake test " in README


def test_the_workflow_runs_what_ci_runs():
    (job,) = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    steps = job["steps"]
    assert [step["run"] for step in steps if "fvlm" in str(step) or "make" in str(step)] == []
    assert steps[-1] == {"run": ".ci/run"} and os.access(REPOSITORY / ".ci/run", os.X_OK)
    (python,) = (step["with"]["python-version"] for step in steps if "setup-python" in str(step))
    assert PROJECT["requires-python"].startswith(f">={python},") and job["runs-on"].startswith("ubuntu-")


def test_make_test_leaves_nothing_out_and_make_test_fast_what_is_slow():
    test, fast = (TARGETS[name].split() for name in ("test", "test-fast"))
    assert set(fast) - set(test) == {"tests", "-m", '"not', 'slow"'} and "--durations=15" in test
    assert "-m" not in test and "-k" not in test


def test_contributing_names_targets_and_files_that_exist():
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)`", page))
    assert {"test", "test-fast", "lint", "notebooks"} <= named <= set(TARGETS)
    paths = re.findall(
        r"`((?:tests|fvlm|notebooks|outputs|\.ci|\.github)/[\w./-]+|[\w.]+\.(?:md|toml|yml))`", page
    )
    assert len(paths) > 5
    assert [p for p in paths if not (REPOSITORY / p).exists() and not p.startswith("outputs/runs")] == []


def test_the_citation_is_that_of_the_project():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {name: citation[name] for name in ("cff-version", "title", "version", "license", "authors")} == {
        "cff-version": "1.2.0",
        "title": PROJECT["name"],
        "version": PROJECT["version"],
        "license": PROJECT["license"],
        "authors": [{"name": "The fvlm authors"}],
    }


def test_the_log_is_dated_newest_day_first():
    days = re.findall(r"^## (.*)$", (REPOSITORY / "LOG.md").read_text(), re.M)
    assert days == sorted(days, reverse=True) and len(set(days)) == len(days) >= 3
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for day in days)


def test_the_smallest_cell_s_numbers_are_the_committed_results():
    """The tiny model sees: under the blind control with the same budget and clips, by three seeds without
    overlap."""
    runs = {
        p.parent.name: pd.read_parquet(p) for p in (REPOSITORY / "outputs/sees").glob("*/evaluations.parquet")
    }
    names = ["loss_autoregressive", "loss_parallel"]
    final = {
        arch: [runs[f"T-T_8f_{arch}_seed{s}"][names].iloc[-1] for s in range(3)] for arch in ("fov", "bli")
    }
    assert "| frame by frame | all frames at once (parallel) |" in FINDINGS
    for arch, seeds in final.items():
        for seed, losses in enumerate(seeds):
            row = f"| `T-T_8f_{arch}` | {seed} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |"
            assert row in FINDINGS
    for name in names:
        assert max(losses[name] for losses in final["fov"]) < min(losses[name] for losses in final["bli"])
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
