"""Keeping notebooks whole: writing generated cells, pairing, executing, and their pages."""

import sys
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError
from fvlm.parameters import parameters_cell


def write_html(notebook: Path):
    """An executed notebook as a page of its own beside it, with live figures (the browser fetches plotly.js);
    written whole or not at all."""
    import nbformat
    from nbconvert import HTMLExporter
    from plotly.io import to_html

    from fvlm.files import write_text

    content = nbformat.read(notebook, as_version=4)
    script = "cdn"
    for cell in content.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get("application/vnd.plotly.v1+json")
            if figure:
                figure = {name: figure[name] for name in ("data", "layout")}
                output.data["text/html"] = to_html(
                    figure, include_plotlyjs=script, full_html=False, validate=False
                )
                script = False  # once is enough
    body, _ = HTMLExporter().from_notebook_node(content)
    write_text(notebook.with_suffix(".html"), body)


GRAMMAR = "rfc3987_syntax"


def import_jsonschema_quickly():
    """Import jsonschema (Plotly and nbformat do) without its optional checker of internationalised addresses,
    which compiles 38 grammars on import. Nothing here has such an address to check; who imports the checker
    itself still gets it."""
    absent = GRAMMAR not in sys.modules
    if absent:
        sys.modules[GRAMMAR] = None  # to jsonschema: not installed
    try:
        import jsonschema  # noqa: F401
    finally:
        if absent:
            del sys.modules[GRAMMAR]


FOLDER = REPOSITORY / "notebooks"


def write_parameters(path: Path):
    """Put `RunConfig`'s fields, with their defaults and help, into a notebook's parameters cell (.py
    half)."""
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
    """Take out what differs from run to run without meaning, papermill's records and execution times, and
    live widgets: of an output that is one, what it shows without a kernel stays."""
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


def renew(names: list[str] = ()) -> list[Path]:
    """Write generated cells, pair and execute the notebooks of `notebooks/` with these names, such as
    `train.ipynb`; all if none is named. ConfigError for one that is not there."""
    sources = [FOLDER / Path(name).with_suffix(".py").name for name in names] or sorted(FOLDER.glob("*.py"))
    for source in sources:
        if not source.exists():
            raise ConfigError(
                f"{source.stem}: valid are {', '.join(sorted(path.stem for path in FOLDER.glob('*.py')))}"
            )
    for source in sources:
        if source.name == "train.py":  # the one whose parameters are RunConfig's
            write_parameters(source)
        pair(source)
        execute(source.with_suffix(".ipynb"))
    return [source.with_suffix(".ipynb") for source in sources]
