"""Numbers as people read them, and what a terminal shows: colours, tables that fit."""

import math
import os
import shutil
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import pandas as pd

WHOLE_WORDS = dict(break_on_hyphens=False, break_long_words=False)  # of textwrap: a path can be copied


def with_suffix(value: float) -> str:
    """A positive number in three digits, with k, M, G, T, P or E for thousands: 1.31 M, 45 T, 0.2."""
    power = min(6, max(0, math.floor(math.log10(value) / 3 + 1e-9))) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}".strip()


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def hours(seconds: float) -> str:
    """How long something will take, as h:mm, minutes rounded up: 1:05, 0:01."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d}"


def ago(seconds: float) -> str:
    """How long ago, in one unit: 5 min ago, 3 h ago, 12 days ago."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def span(low: float, high: float, digits: int = 2, signed: bool = True) -> str:
    """From one number to another: +0.10 to +2.30."""
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{low:{form}} to {high:{form}}"


def with_interval(
    value: float, low: float, high: float, digits: int = 2, signed: bool = True, unit: str = ""
) -> str:
    """A number and its interval: +1.23 (+0.10 to +2.30), or with a unit +1.23 % (+0.10 to +2.30)."""
    return f"{value:{'+' if signed else ''}.{digits}f}{unit} ({span(low, high, digits, signed)})"


COLOURS = {"red": 31, "green": 32, "yellow": 33, "dim": 2}  # a terminal's own, by their numbers


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """The text in a terminal's colour, if the stream is one and NO_COLOR is not set; else as it is."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def fitted(table: "pd.DataFrame", note: str, width: int | None = None) -> list[str]:
    """A table as lines no longer than the terminal is wide (`width`; where none is, 100): columns that find
    no room are left out, from the last on, and the column `note` stands wrapped below its row."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    notes, table = table[note], table.drop(columns=note)
    while len(table.columns) > 1 and len(table.to_string(index=False).partition("\n")[0]) > width:
        table = table.iloc[:, :-1]
    head, *rows = table.to_string(index=False).splitlines()
    lines = [head[:width]]
    for row, told in zip(rows, notes):
        lines.append(row[:width])
        lines += textwrap.wrap(told, width, initial_indent="    ", subsequent_indent="    ", **WHOLE_WORDS)
    return lines
