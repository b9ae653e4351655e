"""Notebooks as files: paired, executed, thin and small. nbval runs them as stored, in the same `pytest`
call."""

import ast
import base64
import io
import os
import re
import shutil
import subprocess
import sys

import jupytext
import nbformat
import pytest
from conftest import REPOSITORY, python, tracked
from PIL import Image

from fvlm import ConfigError
from fvlm.notebooks import PICTURE, PICTURE_WIDTH, PLOTLY, add_pictures
from fvlm.parameters import parameters_cell

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_each_with_its_other_half():
    assert (
        {p.stem for p in NOTEBOOKS}
        == {p.stem for p in (REPOSITORY / "notebooks").glob("*.py")}
        >= {"train", "model", "data_prep"}
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_paired_halves_agree(path):
    halves = [jupytext.read(path), jupytext.read(path.with_suffix(".py"))]
    cells = [[(c.cell_type, c.source, c.metadata.get("tags", [])) for c in half.cells] for half in halves]
    assert cells[0] == cells[1], "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebooks_were_executed_without_error_and_without_widgets(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "executed from top to bottom: run `make notebooks`"
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_stored_figure_has_a_picture_for_readers_without_plotly(path):
    stored = [o.get("data", {}) for cell in code_cells(path) for o in cell.outputs]
    figures = [data for data in stored if PLOTLY in data]
    assert not [data for data in figures if PICTURE not in data], "run fvlm notebooks"
    for data in figures:
        picture = Image.open(io.BytesIO(base64.b64decode(data[PICTURE])))
        assert picture.width == PICTURE_WIDTH and len(picture.getcolors(1 << 16)) > 2, "it shows something"


@pytest.mark.slow
def test_pictures_are_added_beside_figures_and_stay(tmp_path, chromium):
    figure = dict(data=[dict(type="scatter", y=[1, 3, 2])], layout=dict(height=300))
    there = base64.b64encode(b"a picture").decode()
    outputs = [
        nbformat.v4.new_output("display_data", {PLOTLY: figure}),
        nbformat.v4.new_output("display_data", {PLOTLY: figure, PICTURE: there}),
        nbformat.v4.new_output("display_data", {"text/plain": "no figure"}),
    ]
    path = tmp_path / "figures.ipynb"
    cells = [nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    add_pictures(path)
    new, old, text = (output.data for output in nbformat.read(path, 4).cells[0].outputs)
    assert new[PLOTLY] == figure and old[PICTURE] == there and PICTURE not in text
    assert Image.open(io.BytesIO(base64.b64decode(new[PICTURE]))).size == (PICTURE_WIDTH, 300)


@pytest.mark.parametrize("browser", [None, "/nowhere/chromium", "/bin/false"])
def test_pictures_without_a_browser_that_works_are_one_message(tmp_path, monkeypatch, browser):
    output = nbformat.v4.new_output("display_data", {PLOTLY: dict(data=[dict(y=[1, 3])], layout={})})
    path = tmp_path / "figure.ipynb"
    cell = nbformat.v4.new_code_cell("1", outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.read_bytes()
    if browser is None:
        monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda **_: None)
    else:
        monkeypatch.setenv("BROWSER_PATH", browser)
    with pytest.raises(ConfigError, match="needs a Chromium"):
        add_pictures(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin(path):
    for cell in code_cells(path):
        if "parameters" not in cell.metadata.get("tags", []):
            tree = ast.parse(cell.source)
            assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)], (
                "belongs in fvlm"
            )
            assert len(cell.source.splitlines()) <= 10


def test_the_parameters_cell_is_runconfig_s():
    (cell,) = [
        c
        for c in code_cells(REPOSITORY / "notebooks" / "train.ipynb")
        if "parameters" in c.metadata.get("tags", [])
    ]
    assert cell.source == parameters_cell(), "run `make notebooks`"


# ── papermill, as typed ──────────────────────────────────────────────────────────────────────────


def papermill(*arguments, folder=REPOSITORY / "notebooks"):
    command = [str(REPOSITORY / ".venv/bin/papermill")]
    if not (REPOSITORY / ".venv/bin/papermill").exists():
        command = [sys.executable, "-m", "papermill"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
def test_papermill_s_help_shows_every_field():
    done = papermill("--help-notebook", "train.ipynb")
    for line in (line for line in parameters_cell().splitlines() if not line.startswith("#")):
        name, help = line.split(":")[0], line.split("  # ")[1]
        assert re.search(rf"^  {name}: ", done.stdout, re.M), (
            "papermill reads no parameter whose help has an equals sign"
        )
        assert " ".join(help.split()[:3]) in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value, words",
    [("lmm", "135m", ["did you mean llm", "learning_rate"]), ("llm", "136m", ["135m", "360m", "1.7b"])],
)
def test_a_typo_fails_the_run_and_names_the_valid_choices(name, value, words, tmp_path):
    done = papermill("train.ipynb", str(tmp_path / "x.ipynb"), "-p", name, value)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
def test_the_real_cell_runs_by_papermill_exactly_as_typed(tmp_path):
    from fvlm import load_run
    from fvlm.weights import fetch

    try:
        fetch("135m"), fetch("small")
    except ConfigError as error:
        pytest.skip(str(error))
    notebooks = tmp_path / "notebooks"  # a copy: a user's own executed notebook of that name stays
    (notebooks / "out").mkdir(parents=True)
    shutil.copy(REPOSITORY / "notebooks/train.ipynb", notebooks)
    assert "notebooks/out/.gitkeep" in tracked(), "papermill does not create the folder"
    typed = "train.ipynb out/S-S_8f_fov.ipynb -p llm 135m"
    typed += " -p steps 2 -p eval_every 1 -p eval_samples 4 -p effective_batch 2"
    done = papermill(*typed.split(), "-p", "out", str(tmp_path), folder=notebooks)
    assert done.returncode == 0, done.stderr[-3000:]
    run = load_run(tmp_path / "runs" / "S-S_8f_fov_seed0")
    assert run.finished and run.evaluations["step"].tolist() == [1, 2] and len(run.samples) == 4
    assert run.evaluations["params_total"].iloc[0] / 1e6 == pytest.approx(157.3, rel=1e-3)
    assert (run.evaluations["loss_parallel"] < 11).all()
    executed = nbformat.read(notebooks / "out/S-S_8f_fov.ipynb", as_version=4)
    assert "application/vnd.plotly.v1+json" in str(executed.cells)


@pytest.mark.slow
def test_training_without_a_notebook_imports_neither_jupyter_nor_plotly(tmp_path):
    code = (
        "import sys; from fvlm.cli import main\n"
        f"main('train --cell T1-T_2f_bli --set steps=1 --set eval_samples=2 --set out={tmp_path}'.split())\n"
        "print([m for m in ('IPython', 'jupyter_core', 'plotly', 'ipywidgets', 'papermill') if m in "
        "sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_the_core_imports_only_torch_transformers_and_numpy():
    code = (
        "import sys\n"
        "for name in 'pandas pyarrow datasets PIL av scipy plotly IPython onnx gguf papermill'.split():\n"
        "    sys.modules[name] = None\n"
        "import fvlm.config, fvlm.models, fvlm.training, fvlm.gaze, fvlm.data\n"
    )
    python("-c", code)


@pytest.mark.slow
def test_a_changed_reference_row_fails_the_scaling_notebook(tmp_path):
    """nbval compares the tagged numbers with those that are stored: a copy of the package with one other
    loss."""
    shutil.copytree(REPOSITORY / "fvlm", tmp_path / "fvlm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    shutil.copy(REPOSITORY / "notebooks/scaling.ipynb", tmp_path / "notebooks")
    studies = [f"outputs/{name}/" for name in ("micro", "study", "study_cpu", "captions", "questions")]
    read = (*studies, "params/")
    for file in (name for name in tracked() if name.startswith(read) and not name.endswith(".html")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    rows = tmp_path / "fvlm/data/nanosmol.csv"
    assert rows.read_text().count("M-S_8f_fov,360m,small,8,foveated,3.744") == 1
    rows.write_text(rows.read_text().replace("foveated,3.744", "foveated,3.754"))
    nbval = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval-lax",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
    ]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*nbval, "notebooks/scaling.ipynb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env=env,
    )
    failed = re.findall(r"FAILED .*::Cell (\d+)", done.stdout)
    assert done.returncode == 1 and failed, done.stdout[-2000:]
    cells = code_cells(REPOSITORY / "notebooks/scaling.ipynb")
    wrong = [cells[int(i)].source for i in failed]
    assert set(wrong) == {
        f"tables.shown(tables.{name}())" for name in ("replayed_correction", "inference_claim")
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_checks_its_parameters_before_anything_else(path):
    cells = [cell.source for cell in code_cells(path)]
    (at,) = [number for number, source in enumerate(cells) if source.startswith("# Parameters")]
    checks = ("check_parameters(globals())", "run_config(globals())", "settings_from_notebook(globals())")
    assert any(check in cells[at + 1] for check in checks)
