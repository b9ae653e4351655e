"""What is installed and fetched is bounded, listed, and has a licence and a checksum."""

import re

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fvlm import ConfigError, supply
from fvlm.weights import HUB_IDS, WHEELS

PINNED = dict(line.split("==") for line in supply.CONSTRAINTS.read_text().splitlines() if "==" in line)
LISTED = supply.THIRD_PARTY.read_text()


@pytest.mark.parametrize("line", supply.asked_for())
def test_every_dependency_has_an_upper_bound_and_a_tested_version_within_it(line):
    asked = Requirement(line)
    assert any(part.operator in ("<", "==", "<=") for part in asked.specifier), "a new version may break it"
    assert PINNED[supply.plain(asked.name)] in asked.specifier


def test_the_makefile_installs_the_tested_versions_and_audits_them():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "--constraint constraints.txt -e '.[dev]'" in makefile
    assert "$(READY): pyproject.toml constraints.txt\n" in makefile
    assert "-m pip_audit --requirement constraints.txt" in makefile
    apart = re.search(r"^APART := (.+)$", makefile, re.M)[1].split()
    assert all(PINNED[name] == version for name, version in (one.split("==") for one in apart))


def test_constraints_are_versions_and_nothing_else():
    lines = supply.CONSTRAINTS.read_text().splitlines()
    assert lines[0].startswith("#") and all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines[1:])
    assert len(PINNED) == len(lines) - 1 > 100
    assert PINNED["torch"] in SpecifierSet("==2.13.0")


def test_every_tested_version_can_be_installed_on_the_lowest_python_that_is_allowed(monkeypatch):
    assert supply.too_new() == {}
    allowed = supply._project()
    monkeypatch.setattr(supply.metadata, "metadata", asks)
    for lowest, names in (("3.11.5", []), ("3.11.4", ["pytest"]), ("3.11", ["pytest"])):
        project = allowed | {"requires-python": f">={lowest},<3.13"}
        monkeypatch.setattr(supply, "_project", lambda project=project: project)
        assert list(supply.too_new()) == names
    with pytest.raises(ConfigError, match="older ones: pytest .Python >=3.11.5"):
        supply.write()


def asks(name: str) -> dict:
    return {"Requires-Python": ">=3.11.5"} if name == "pytest" else {}


def test_everything_that_is_fetched_is_listed_with_licence_and_checksums():
    for name, wheel in WHEELS.items():
        (row,) = [line for line in LISTED.splitlines() if f"`{wheel.requirement}`" in line]
        assert wheel.sha256 in row and wheel.member_sha256 in row and supply.OF_WEIGHTS[name] in row
    for name, repo in HUB_IDS.items():
        assert f"| {name} | `{repo}` | {supply.OF_WEIGHTS[name]} |" in LISTED
    for name, version in PINNED.items():
        assert re.search(rf"^\| {re.escape(name)} \| {re.escape(version)} \| [^|]+ \|$", LISTED, re.M), name


def test_both_files_are_what_their_writer_makes_of_these_versions(monkeypatch):
    monkeypatch.setattr(supply, "needed", lambda: PINNED)
    known = {name: row.split(" | ")[2].rstrip(" |") for name in PINNED for row in rows(name)}
    monkeypatch.setattr(supply, "licence", known.get)
    assert supply.constraints() == supply.CONSTRAINTS.read_text() and supply.third_party() == LISTED


def rows(name: str) -> list[str]:
    return [line for line in LISTED.splitlines() if re.match(rf"\| {re.escape(name)} \| [\w.]+ \| ", line)]
