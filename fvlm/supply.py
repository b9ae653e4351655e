"""What this repository is made of: constraints.txt, which the Makefile installs from, and THIRD_PARTY.md.

The latter lists what is installed and fetched, with licences and checksums. `python -m fvlm.supply` writes
both from the environment it runs in, after dependencies were changed or renewed."""

import itertools
import re
import tomllib
from importlib import metadata
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import write_text
from fvlm.weights import HUB_IDS, WHEELS

CONSTRAINTS, THIRD_PARTY = REPOSITORY / "constraints.txt", REPOSITORY / "THIRD_PARTY.md"
OF_WEIGHTS = {  # by the name of `fvlm.weights`
    "135m": "Apache-2.0",
    "360m": "Apache-2.0",
    "1.7b": "Apache-2.0",
    "small": "Apache-2.0",
    "base": "Apache-2.0",
}
UNKNOWN = "not said"


def needed() -> dict[str, str]:
    """Versions of all packages that pyproject.toml leads to, extras included, and that are installed here, by
    their plain names."""
    from packaging.requirements import Requirement

    found, waiting, seen = {}, [Requirement(line) for line in asked_for()], set()
    while waiting:
        requirement = waiting.pop()
        name = plain(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                package = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue  # for another system or Python
            found[name] = package.version.partition("+")[0]  # of a build for CPUs as of one for GPUs
            for line in package.requires or ():
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate(dict(extra=extra)):
                    waiting.append(inner)
    found.pop("fvlm", None)
    return dict(sorted(found.items()))


def too_new() -> dict[str, str]:
    """Packages of `needed` that can't be installed on the lowest Python that pyproject.toml allows, with what
    they ask for."""
    from packaging.specifiers import SpecifierSet

    (lowest,) = [
        part.version for part in SpecifierSet(_project()["requires-python"]) if part.operator == ">="
    ]
    asked = {name: metadata.metadata(name).get("Requires-Python") or "" for name in needed()}
    return {name: asks for name, asks in asked.items() if lowest not in SpecifierSet(asks)}


def asked_for() -> list[str]:
    """What pyproject.toml asks for itself, a line each."""
    project = _project()
    lines = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    return [line for line in lines if not line.startswith("fvlm[")]


def _project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    """A package's name in the form in which all spellings of it are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(name: str) -> str:
    """The licence of an installed package, as it says itself."""
    about = metadata.metadata(name)
    said = about.get("License-Expression") or ""
    named = [kind.rpartition(" :: ")[2] for kind in about.get_all("Classifier") or () if "License ::" in kind]
    short = (about.get("License") or "").strip()
    return said or ", ".join(named) or (short if 0 < len(short) < 60 and "\n" not in short else UNKNOWN)


def constraints() -> str:
    """The text of constraints.txt."""
    head = (
        "# Every version this was last tested with. Written by python -m fvlm.supply, read by the Makefile.\n"
    )
    return head + "".join(f"{name}=={version}\n" for name, version in needed().items())


def third_party() -> str:
    """The text of THIRD_PARTY.md."""
    fetched = [
        f"| {name} | `{wheel.requirement}` | `{wheel.member}` | `{wheel.sha256}` | `{wheel.member_sha256}` | "
        f"{OF_WEIGHTS[name]} |"
        for name, wheel in WHEELS.items()
    ]
    hub = [f"| {name} | `{repo}` | {OF_WEIGHTS[name]} |" for name, repo in HUB_IDS.items()]
    packages = [f"| {name} | {version} | {licence(name)} |" for name, version in needed().items()]
    lines = [
        "# What is fetched and installed",
        "",
        "Written by `python -m fvlm.supply` from an environment that `make` set up; a test compares.",
        "",
        "## Weights that come as packages",
        "",
        "Refused if a SHA-256 is another. Pickles are never opened: weights are read from safetensors, or",
        "from these files, whose checksums are known.",
        "",
        "| name | package | file in it | SHA-256 of the package | of the file | licence |",
        "|---|---|---|---|---|---|",
        *fetched,
        "",
        "## Weights of the hub",
        "",
        "Safetensors alone; the commit and a SHA-256 are recorded with every run.",
        "",
        "| name | repository | licence |",
        "|---|---|---|",
        *hub,
        "",
        "## Packages",
        "",
        "| package | version | licence, as it says itself |",
        "|---|---|---|",
        *packages,
    ]
    return "\n".join(lines) + "\n"


def write() -> list[Path]:
    """Write both files. ConfigError where the environment lacks what pyproject.toml asks for, or has what the
    lowest Python that it allows can't install."""
    if len(needed()) < 50:
        raise ConfigError("this environment lacks most packages: make .venv/.ready sets one up")
    if found := too_new():
        told = ", ".join(f"{name} (Python {asks})" for name, asks in found.items())
        raise ConfigError(f"not for every Python that pyproject.toml allows, install older ones: {told}")
    return [write_text(CONSTRAINTS, constraints()), write_text(THIRD_PARTY, third_party())]


if __name__ == "__main__":
    print(*write(), sep="\n")
