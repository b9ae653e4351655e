"""What the tests of faults tried when they were last run whole: the README's block from outputs/trust.json."""

from pathlib import Path

from fvlm.files import read_json_object
from fvlm.findings import sources

PATH = sources.OUTPUTS / "trust.json"


def readme_trust(path: Path | None = None) -> str:
    """The README's block: what `make test-long` counted, on which commit and day; nothing before it has run
    whole."""
    path = path or PATH
    if not path.exists():
        return ""
    found = read_json_object(path)
    tried = [f"{number:,} {kind}" for kind, number in found["tried"].items() if number]
    failures = found["failures"]
    ended = "no test failed" if not failures else f"**{failures} failed**: {', '.join(found['failed'])}"
    return (
        f"Faults, bad input and hostile input, last tried whole on {found['date']} at commit {found['commit']} "
        f"(`make test-long`, {found['tests']:,} tests): {', '.join(tried)}; {ended}."
    )
