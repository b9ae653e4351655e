import shlex

import pandas as pd
import pytest
from conftest import python, tiny

from fvlm import train
from fvlm.cli import VERBS, main, parser
from fvlm.parameters import command


@pytest.mark.parametrize("command", [verb for verbs in VERBS.values() for verb in verbs])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "example:\n  fvlm " in capsys.readouterr().out


MISTAKES = pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--cell", "S-S_8f_foo"], ["S-S_8f_foo", "fov", "bas"]),
        (["train", "--set", "llm=136m"], ["contradicts"]),
        (["train", "--set", "setps=3"], ["setps", "did you mean steps"]),
        (["train", "--set", "steps"], ["name=value"]),
        (["train", "--set", "dataset=/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)


@MISTAKES
def test_a_mistake_gives_status_2_and_one_message(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and all(word in said for word in words)


WHOLE = {
    *("--clips", "--jobs", "--frames", "--size", "--shard", "--workers"),
    *("--priority", "--retries", "--samples", "--repeats", "--tokens", "--window"),
}


def numeric_options() -> list[tuple[str, str]]:
    """Every verb's options that take a number, as the parsers have them."""
    commands = next(a for a in parser()._actions if hasattr(a, "choices") and a.choices)
    return [
        (verb, action.option_strings[-1])
        for verb, of_verb in commands.choices.items()
        for action in of_verb._actions
        if callable(action.type) and action.type is not str
    ]


@pytest.mark.parametrize(("verb", "option"), numeric_options())
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e400", "many", "", "9" * 5000])
def test_a_number_that_can_not_be_is_one_message_for_every_option(verb, option, value, capsys):
    if value == "9" * 5000 and option not in WHOLE:
        value = "-" + value
    with pytest.raises(SystemExit) as end:
        main([verb, f"{option}={value}"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and f"argument {option}" in said and "is expected" in said
    assert len(said) < 2500


def test_every_option_that_takes_a_number_says_which(capsys):
    assert {option for _, option in numeric_options()} > WHOLE
    for verb, option in (("grid", "--jobs"), ("gaze", "--clips"), ("bench", "--repeats")):
        with pytest.raises(SystemExit):
            main([verb, option, "0"])
        assert "a whole number from 1 on is expected" in capsys.readouterr().err


@pytest.mark.slow
@MISTAKES
def test_a_mistake_ends_the_command_with_that_status_and_no_traceback(arguments, words):
    done = python("-m", "fvlm", *arguments, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
def test_the_printed_command_trains_again_and_compares(tmp_path):
    cell = dict(steps=2, effective_batch=2, eval_every=2, eval_samples=2, out=str(tmp_path), study="kept")
    first, second = (train(tiny(seed=seed, **cell)) for seed in (0, 1))
    spread = abs(first.evaluations["loss_parallel"].iloc[-1] - second.evaluations["loss_parallel"].iloc[-1])
    printed = shlex.split(command(first.config))
    assert printed[:2] == ["fvlm", "train"] and printed[-2:] == ["--compare", str(first.folder)]
    again = ["-m", *printed, "--set", f"out={tmp_path}"]
    kept = pd.read_parquet(first.folder / "evaluations.parquet")

    done = python(*again)
    assert "as near as another seed, or nearer" in done.stdout
    (row,) = (line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["parallel"])
    loss = kept["loss_parallel"].iloc[-1]
    assert list(map(float, row[1:])) == pytest.approx([loss, loss, 0, spread], abs=2e-4)
    assert (tmp_path / "runs" / first.folder.name / "model").exists(), (
        "beside the kept results, not over them"
    )
    pd.testing.assert_frame_equal(kept, pd.read_parquet(first.folder / "evaluations.parquet"))

    second.evaluations.to_parquet(
        first.folder / "evaluations.parquet"
    )  # then seeds do not differ at all, and the new run does
    done = python(*again, check=False)
    assert done.returncode == 1 and "more than the seeds do" in done.stdout
    done = python(*again, "--set", "steps=4", check=False)
    assert done.returncode == 2 and "not the same run (steps was 2, is 4)" in done.stderr


@pytest.mark.slow
def test_bench_gaze_measures_the_explorer():
    said = python("-m", "fvlm", "bench", "gaze", "--cell", "T1-T_2f_fov", "--repeats", 2).stdout
    for words in ("T1-T_2f_fov", "new clip", "frame", "hide patch", "causal gaze"):
        assert words in said
