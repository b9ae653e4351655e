"""Keeping notebooks whole: `python -m fvlm.notebooks` writes the generated cells, pairs and executes them.

python -m fvlm.notebooks train.ipynb     executes one notebook in place, without widget state
"""

import sys
from pathlib import Path

from fvlm.config import REPOSITORY, parameters_cell

FOLDER = REPOSITORY / "notebooks"


def write_parameters(path: Path):
    """Put `RunConfig`'s fields, with their defaults and help, into a notebook's parameters cell (.py half)."""
    text = path.read_text()
    head, _, rest = text.partition('# %% tags=["parameters"]\n')
    if rest:
        _, _, tail = rest.partition("\n\n# %%")
        path.write_text(f'{head}# %% tags=["parameters"]\n{parameters_cell()}\n\n# %%{tail}')


def pair(path: Path):
    """Bring the .ipynb along with its .py; outputs of cells that did not change stay."""
    import jupytext

    target = path.with_suffix(".ipynb")
    notebook = jupytext.read(path)
    if target.exists():
        from jupytext.combine import combine_inputs_with_outputs

        notebook = combine_inputs_with_outputs(notebook, jupytext.read(target), fmt=None)
    jupytext.write(notebook, target)


def execute(path: Path):
    """Run a notebook in place, as it is stored, without widget state."""
    from papermill import execute_notebook

    execute_notebook(str(path), str(path), cwd=str(path.parent), store_widget_state=False, progress_bar=False)
    strip(path)


def strip(path: Path):
    """Take out what differs from run to run without meaning, papermill's records and execution times, and live widgets:
    of an output that is one, what it shows without a kernel stays."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        cell.metadata.pop("tags", None) if not cell.metadata.get("tags") else None
    nbformat.write(notebook, path)


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(p.name for p in FOLDER.glob("*.py"))
    for name in names:
        source = FOLDER / Path(name).with_suffix(".py").name
        if source.name == "train.py":  # the one whose parameters are RunConfig's
            write_parameters(source)
        pair(source)
        execute(source.with_suffix(".ipynb"))
        print(f"executed {source.with_suffix('.ipynb').name}")
