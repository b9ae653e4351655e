"""The records of the architectures. What holds for every one of them, a new one too, is also tested in
tests/models (tokens and queries, padding, saving), tests/costs (FLOPs) and tests/test_config.py (names)."""

import ast
import re

import pytest
from conftest import REPOSITORY, python

from fvlm import RunConfig
from fvlm.architectures import ARCH_OF_SHORT, ARCHITECTURES
from fvlm.models import VideoLanguageModel, model_class
from fvlm.plots import ARCH_COLOURS

RECORDS = ARCHITECTURES.values()


def test_names_short_names_and_colours_are_distinct():
    for values in zip(*((r.name, r.short, r.colour.lower(), r.description) for r in RECORDS)):
        assert len(set(values)) == len(ARCHITECTURES)
    assert all(re.fullmatch("[a-z0-9]+", record.short) for record in RECORDS), "as a cell's name has it"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_record_is_all_that_names_colour_and_class_come_from(arch):
    record = ARCHITECTURES[arch]
    assert RunConfig(llm="tiny", frames=8, arch=arch).cell == f"T-T_8f_{record.short}"
    assert RunConfig.from_cell(f"S-S_8f_{record.short}").architecture is record
    assert issubclass(model_class(arch), VideoLanguageModel)
    assert ARCH_COLOURS[arch] == record.colour


def test_no_other_file_lists_the_architectures():
    """A list elsewhere is what a new architecture would be missing from. A few by name, as what is compared,
    are no such list."""
    names = {*ARCHITECTURES, *ARCH_OF_SHORT}
    for path in [*(REPOSITORY / "fvlm").rglob("*.py"), *(REPOSITORY / "notebooks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            listed = names & {part.value for part in parts if isinstance(part, ast.Constant)}
            assert len(listed) < 4, f"{path}, line {node.lineno}: {listed}"


def test_a_name_can_be_checked_without_torch():
    code = "import sys; sys.modules['torch'] = None\nfrom fvlm.architectures import ARCHITECTURES"
    python("-c", code)
