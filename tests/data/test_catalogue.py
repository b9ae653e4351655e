"""The catalogue's form: every row dated and with its source, numbers are numbers, commands parse."""

import datetime
import shlex

import pandas as pd
import pytest

from fvlm.cli import parser
from fvlm.config import DOMAINS
from fvlm.data.catalogue import COLUMNS, catalogue
from fvlm.data.sources import KINDS

ROWS = catalogue().to_dict("records")


def test_its_columns_are_those_it_says_and_names_differ():
    table = catalogue()
    assert tuple(table.columns) == COLUMNS and table["name"].is_unique and len(table) >= 12
    assert set(table["domain"]) == set(DOMAINS)
    assert len(catalogue("video")) == (table["domain"] == "video").sum() > 3
    needed = ("name", "domain", "source", "checked")
    assert table[list(needed)].notna().all().all()


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_row_has_a_source_a_date_and_what_can_be_read(row):
    day = datetime.date.fromisoformat(row["checked"])
    assert datetime.date(2026, 1, 1) <= day <= datetime.date(2030, 1, 1)
    assert row["source"].startswith("https://") and " " not in row["source"]
    for name in ("samples", "hours", "caption_words"):
        assert pd.isna(row[name]) or row[name] > 0
    assert pd.isna(row["hours"]) or row["domain"] == "video"
    assert row["gated"] in ("yes", "no") or pd.isna(row["gated"])
    if isinstance(row["prepare"], str):
        program, *arguments = shlex.split(row["prepare"])
        options = parser().parse_args(arguments)
        assert program == "fvlm" and options.command == "prepare" and options.out == "FOLDER"
        kind = options.source.partition(":")[0]
        assert kind in KINDS and (kind == "text") == (row["domain"] == "text")
        assert (kind == "several") == (row["domain"] == "images")
