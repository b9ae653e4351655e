"""The catalogue: public datasets that mixes may be made of, each row checked against its source."""

from pathlib import Path

import pandas as pd

COLUMNS = (
    "name",
    "domain",
    "samples",
    "hours",
    "caption_style",
    "caption_words",
    "licence",
    "gated",
    "prepare",
    "source",
    "checked",
)


def catalogue(domain: str | None = None) -> pd.DataFrame:
    """A row per dataset; what its source does not say is missing. What the columns mean is in the file,
    `fvlm/data/catalogue.csv`. domain: of these alone."""
    table = pd.read_csv(Path(__file__).with_name("catalogue.csv"), comment="#")
    return table if domain is None else table[table["domain"] == domain].reset_index(drop=True)
