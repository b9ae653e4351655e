"""fvlm: video language models that spend one visual token per frame.

The names below are loaded when first used, so that `import fvlm` stays quick."""

import importlib

_HOMES = {
    "RunConfig": "config", "ConfigError": "config", "build_model": "models", "load_model": "models",
    "train": "training", "load_run": "results", "Run": "results",
}  # fmt: skip
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"fvlm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fvlm' has no attribute {name!r}")
