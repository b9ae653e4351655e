import pytest
from conftest import python


@pytest.mark.parametrize("command", ["train", "bench"])
def test_help_shows_an_example(command):
    assert "example:\n  python -m fvlm " in python("-m", "fvlm", command, "--help").stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--cell", "S-S_8f_foo"], ["S-S_8f_foo", "fov", "bas"]),
        (["train", "--set", "llm=136m"], ["contradicts"]),
        (["train", "--set", "setps=3"], ["setps", "did you mean steps"]),
        (["train", "--set", "steps"], ["name=value"]),
        (["train", "--set", "dataset=/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_message(arguments, words):
    done = python("-m", "fvlm", *arguments, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_bench_gaze_measures_the_explorer():
    said = python("-m", "fvlm", "bench", "gaze", "--cell", "T1-T_2f_fov", "--repeats", 2).stdout
    for words in ("T1-T_2f_fov", "new clip", "frame", "hide patch", "causal gaze"):
        assert words in said
