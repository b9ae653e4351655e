"""One import that would take four seconds of every kernel's start."""

import sys

GRAMMAR = "rfc3987_syntax"


def import_jsonschema_quickly():
    """Import jsonschema (Plotly and nbformat do) without its optional checker of internationalised addresses, which compiles
    38 grammars on import. Nothing here has such an address to check; who imports the checker itself still gets it."""
    absent = GRAMMAR not in sys.modules
    if absent:
        sys.modules[GRAMMAR] = None  # to jsonschema: not installed
    try:
        import jsonschema  # noqa: F401
    finally:
        if absent:
            del sys.modules[GRAMMAR]
