"""Colours are named in one place."""

import re

from conftest import REPOSITORY

COLOUR = re.compile(r"""["'](#[0-9a-fA-F]{3,8}|rgba?\(.*?\)|white|black|Viridis)["']""")


def test_every_colour_of_figures_and_widgets_has_its_name_in_style():
    found = {
        f"{path.name}: {match[1]}"
        for room in ("plots", "widgets")
        for path in (REPOSITORY / "fvlm" / room).glob("*.py")
        for match in COLOUR.finditer(path.read_text())
        if path.name != "style.py"
    }
    assert found == set()
