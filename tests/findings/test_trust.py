"""The README quotes what `make test-long` counted, and nothing before it has run."""

import json

import pytest
from conftest import REPOSITORY, python

from fvlm.findings.page import END, README, mark
from fvlm.findings.trust import PATH, readme_trust

COUNTED = dict(
    date="2026-12-01",
    commit="0123456789ab",
    tried={"kill points": 220, "bad inputs": 10_500, "damaged files": 0},
    tests=900,
    failures=0,
    failed=[],
)


def test_the_readme_quotes_the_last_long_run_and_nothing_without_one():
    quoted = README.read_text().partition(mark("trust"))[2].partition(END)[0].strip()
    assert quoted == readme_trust() and bool(quoted) == PATH.exists()


def test_what_was_counted_is_said_with_its_day_and_commit(tmp_path):
    assert readme_trust(tmp_path / "trust.json") == ""
    (tmp_path / "trust.json").write_text(json.dumps(COUNTED))
    said = readme_trust(tmp_path / "trust.json")
    assert all(
        words in said for words in ("2026-12-01", "0123456789ab", "220 kill points", "10,500 bad inputs")
    )
    assert "no test failed" in said and "damaged files" not in said
    (tmp_path / "trust.json").write_text(json.dumps(COUNTED | dict(failures=1, failed=["test_x"])))
    assert "**1 failed**: test_x" in readme_trust(tmp_path / "trust.json")


@pytest.mark.slow
def test_a_session_of_tests_writes_what_it_tried_and_what_failed(tmp_path):
    (tmp_path / "counting.py").write_text((REPOSITORY / "tests/counting.py").read_text())
    (tmp_path / "conftest.py").write_text("from counting import register as pytest_configure\n")
    (tmp_path / "test_hostile.py").write_text(
        "def test_one():\n    pass\n\ndef test_two(count):\n    count('bad inputs', 30)\n\n"
        "def test_three():\n    assert False\n"
    )
    trust = tmp_path / "out/trust.json"
    trust.parent.mkdir()
    for stopped in (True, False):
        more = ["-k", "nothing at all"] if stopped else []
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", tmp_path, *more]
        python(*command, check=False, env=dict(FVLM_TRUST=str(trust)))
        assert trust.exists() != stopped
    found = json.loads(trust.read_text())
    assert found["tried"]["bad inputs"] == 30 and found["tried"]["hostile addresses and archives"] == 2
    assert (
        found["failures"] == 1 and found["failed"] == ["test_hostile.py::test_three"] and found["tests"] == 2
    )
    assert found["commit"] and found["date"]


def test_make_test_long_runs_the_faults_many_times_and_renews_the_readme():
    recipe = (REPOSITORY / "Makefile").read_text().partition("\ntest-long:")[2].partition("\n\n")[0]
    assert "FVLM_FAULTS=$(FAULTS)" in recipe and "FVLM_TRUST=outputs/trust.json" in recipe
    assert "tests/faults" in recipe and "fvlm findings" in recipe
