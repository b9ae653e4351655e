"""The README's tree: every file of `fvlm/` and every grid, with how its own text begins."""

import ast
import re
from pathlib import Path

from fvlm.config import REPOSITORY

COLUMN, WIDTH = 22, 114  # where the sentences begin, and how long a line may be
OTHERS = {
    "notebooks/": "those of the table above, each .ipynb beside its .py; make notebooks after an edit",
    "outputs/": "what runs leave, a folder per study; FINDINGS.md; runs/ has those of fvlm train",
    "tests/": "mirrors fvlm/; the README's are in test_readme.py",
}


def tree() -> str:
    """As a block of text, a line per file and folder."""
    lines = _folder(REPOSITORY / "fvlm", 0)
    lines.append(_line(0, "params/", "a file per cell of the study, and grids of cells"))
    grids = [path for path in (REPOSITORY / "params").glob("*.yaml") if _grid_comment(path)]
    lines += [_line(1, path.name, _first_sentence(_grid_comment(path))) for path in sorted(grids)]
    lines.append(_line(1, "mix/", "mixes of datasets, and designs of mixtures for fvlm mix"))
    mixes = sorted((REPOSITORY / "params" / "mix").glob("*.yaml"))
    lines += [_line(2, path.name, _first_sentence(_first_comment(path))) for path in mixes]
    lines += [_line(0, name, told) for name, told in OTHERS.items()]
    return "\n".join(["```", *lines, "```"])


def _folder(folder: Path, depth: int) -> list[str]:
    """A package: its own line, its modules, then the packages inside."""
    lines = [_line(depth, f"{folder.name}/", _told(folder / "__init__.py"))]
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    lines += [_line(depth + 1, path.name, _told(path)) for path in modules]
    for inside in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += _folder(inside, depth + 1)
    return lines


def _line(depth: int, name: str, told: str) -> str:
    """A longer sentence ends with the last clause that fits."""
    line = f"{'  ' * depth + name:{COLUMN}}{told}".rstrip()
    ends = [at.start() for at in re.finditer(r"[,;:] ", line) if COLUMN < at.start() <= WIDTH]
    fitting = [line[:end] for end in ends if line[:end].count("(") == line[:end].count(")")]
    return fitting[-1] if len(line) > WIDTH and fitting else line


def _told(path: Path) -> str:
    """The first sentence of a docstring, without the list of modules that a package's may end with."""
    sentence = _first_sentence(ast.get_docstring(ast.parse(path.read_text())) or "")
    return re.split(r": `\w+\.py`", sentence, maxsplit=1)[0].replace("`", "")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s", paragraph, maxsplit=1)[0].removesuffix(".")


def _grid_comment(path: Path) -> str:
    """The first comment of a grid file; nothing of a single cell's."""
    return _first_comment(path) if "\ncells:" in path.read_text() else ""


def _first_comment(path: Path) -> str:
    return " ".join(re.match(r"((?:#.*\n)*)", path.read_text())[1].replace("#", "").split())
