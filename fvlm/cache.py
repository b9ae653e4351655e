"""Where fvlm keeps what it has fetched, and computed once for all."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$FVLM_CACHE`, or `~/.cache/fvlm`; it may not be there yet."""
    return Path(os.environ.get("FVLM_CACHE") or Path.home() / ".cache" / "fvlm")
