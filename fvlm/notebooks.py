"""Keeping notebooks whole: writing generated cells, pairing, executing, and their pages."""

import base64
import contextlib
import io
import sys
import tempfile
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
            figure = output.get("data", {}).get(PLOTLY)
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
    """Run a notebook in place, as it is stored, without widget state and with a picture of every figure.
    ConfigError as `add_pictures`."""
    from papermill import execute_notebook

    execute_notebook(str(path), str(path), cwd=str(path.parent), store_widget_state=False, progress_bar=False)
    strip(path)
    add_pictures(path)


PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
PICTURE_WIDTH, PICTURE_HEIGHT = 800, 450  # pixels; the height where a figure does not say


def add_pictures(path: Path):
    """Give every Plotly figure that a notebook stores a picture beside it, for readers without Plotly, such
    as GitHub; JupyterLab prefers the figure. Pictures that are there stay. ConfigError without kaleido or a
    Chromium."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    bare = [data for data in outputs if PLOTLY in data and PICTURE not in data]
    for data, picture in zip(bare, _pictures([data[PLOTLY] for data in bare])):
        data[PICTURE] = base64.b64encode(_smaller(picture)).decode()
    nbformat.write(notebook, path)


def _smaller(picture: bytes) -> bytes:
    """A PNG with 128 colours of its own, a third of the bytes of one with all."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    return small.getvalue()


def _pictures(figures: list[dict]) -> list[bytes]:
    """Stored figures as PNG; all by one browser."""
    if not figures:
        return []
    with picture_errors("figures of notebooks"), tempfile.TemporaryDirectory() as scratch:
        import kaleido
        import plotly.graph_objects as go

        paths = [Path(scratch) / f"{number}.png" for number in range(len(figures))]
        kaleido.write_fig_from_object_sync(
            [
                dict(
                    fig=go.Figure(data=stored["data"], layout=stored["layout"], skip_invalid=True),
                    path=path,
                    opts=dict(
                        format="png",
                        width=PICTURE_WIDTH,
                        height=stored["layout"].get("height") or PICTURE_HEIGHT,
                    ),
                )
                for stored, path in zip(figures, paths)
            ],
            cancel_on_error=True,
        )
        return [path.read_bytes() for path in paths]


@contextlib.contextmanager
def picture_errors(what: str):
    """Inside, a picture that can't be drawn for want of kaleido or of a browser is a ConfigError that says
    how to have it. what: how the message begins."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if "kaleido" not in str(error).lower():
            raise
        raise ConfigError(f"{what}: pictures need kaleido, pip install -e '.[figures]' ({error})") from None
    except Exception as error:
        if "chrom" not in f"{type(error).__name__} {error}".lower():
            raise
        raise ConfigError(
            f"{what}: kaleido needs a Chromium or Chrome on this machine, such as Debian's chromium"
        ) from None


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
