"""Imports run one way: each name in `fvlm/` imports only what stands before it, and no modules import each
other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

ORDER = (
    "registration",
    "architectures",
    "cache",
    "cpu",
    "config",
    "files",
    "text",
    "parameters",
    "notebooks",
    "weights",
    "supply",
    "data",
    "huggingface",
    "models",
    "costs",
    "training",
    "gaze",
    "tables",
    "scaling",
    "plots",
    "ask",
    "watching",
    "lmms",
    "measures",
    "hub",
    "widgets",
    "studies",
    "bench",
    "findings",
    "cli",
    "__main__",
)


def imports(root: Path) -> dict[str, set[str]]:
    """Every module of `root/fvlm` and the modules it imports, inside functions too; a package stands for its
    `__init__`."""
    modules = {}
    for path in sorted((root / "fvlm").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {target if target in modules else node.module for target in whole}
        found[name] = {target for target in targets if target in modules and target != name}
    return found


def wrong_ways(root: Path) -> list[str]:
    """Each import of `root/fvlm` that goes up in ORDER, and each circle."""
    graph = imports(root)
    rooms = {name: name.split(".")[1] for name in graph if name != "fvlm"}
    unknown = sorted(set(rooms.values()) - set(ORDER))
    wrong = [f"{room}: not in ORDER" for room in unknown]
    for name, targets in graph.items():
        for target in targets:
            if name == "fvlm" or unknown:
                continue
            if target == "fvlm" or ORDER.index(rooms[target]) > ORDER.index(rooms[name]):
                wrong.append(f"{name} imports {target}")
    try:
        TopologicalSorter({name: targets for name, targets in graph.items() if name != "fvlm"}).prepare()
    except CycleError as error:
        wrong.append("circle: " + " -> ".join(error.args[1]))
    return wrong


def test_imports_run_one_way():
    assert wrong_ways(REPOSITORY) == []


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {
                "config.py": "def f():\n    from fvlm.data import shapes\n",
                "data/__init__.py": "",
                "data/shapes.py": "",
            },
            "fvlm.config imports",
        ),
        (
            {
                "data/__init__.py": "",
                "data/a.py": "import fvlm.data.b",
                "data/b.py": "from fvlm.data.a import x",
            },
            "circle",
        ),
        (
            {
                "training/__init__.py": "from fvlm.training.loop import x",
                "training/loop.py": "from fvlm.training import y",
            },
            "circle",
        ),
        ({"elsewhere.py": ""}, "not in ORDER"),
        ({"gaze/__init__.py": "from fvlm import train"}, "fvlm.gaze imports fvlm"),
    ],
)
def test_an_import_the_wrong_way_is_seen(tmp_path, files, told):
    for name, text in ({"__init__.py": ""} | files).items():
        path = tmp_path / "fvlm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert any(told in line for line in wrong_ways(tmp_path))


def test_no_module_imports_another_s_private_names():
    taken = [
        f"{path.name}: {node.module}.{alias.name}"
        for path in (REPOSITORY / "fvlm").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fvlm"
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []
