"""Figures as files."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from fvlm.config import ConfigError
from fvlm.notebooks import picture_errors


def save_figures(
    figures: dict[str, go.Figure],
    folder: str | Path,
    kinds: Sequence[str] = ("html",),
    whole: bool = False,
) -> list[Path]:
    """Write figures as files `<name>.<kind>`; kinds: html (opens without a kernel, Plotly beside it, or in
    the page if it shall be `whole`, to be sent on), svg, png.

    svg and png need kaleido and a Chromium: ConfigError says which is missing and how it is installed."""
    folder = Path(folder)
    if unknown := set(kinds) - {"html", "svg", "png"}:
        raise ConfigError(f"kinds = {', '.join(sorted(unknown))}: valid are html, svg, png")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        for kind in kinds:
            path = folder / f"{name}.{kind}"
            if kind == "html":
                figure.write_html(path, include_plotlyjs=True if whole else "directory")
            else:
                _write_image(figure, path)
            written.append(path)
    return written


def _write_image(figure: go.Figure, path: Path):
    with picture_errors(path.name):
        figure.write_image(
            path, width=900, height=figure.layout.height or 460, scale=2 if path.suffix == ".png" else 1
        )
