import io
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points

import pandas as pd
import pytest
from conftest import python, tiny

from fvlm import load_run, train
from fvlm.cli import VERBS, main, next_steps, parser
from fvlm.parameters import command
from fvlm.studies.progress import cells_table, in_colour
from fvlm.text import coloured, fitted, hours
from fvlm.widgets.runs import RunPicker


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


def test_what_imports_leave_behind_is_never_searched_for_garbage():
    code = (
        "import gc, sys; from fvlm.__main__ import main; sys.argv = ['fvlm', 'nonsense']; "
        "print(main(), gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )
    assert python("-c", code).stdout.split() == ["2", "True", "True"]
    assert entry_points(group="console_scripts")["fvlm"].value == "fvlm.__main__:main"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], ["'trian'", "did you mean train?", "grid"]),
        (["benchh", "train"], ["did you mean bench?"]),
        (["xyz"], ["no such verb; valid are", "prepare"]),
        (["train", "--sett", "steps=1"], ["'--sett'", "did you mean --set?"]),
        (["grid", "params/smoke.yaml", "--onyl=T1*"], ["'--onyl'", "did you mean --only?", "--jobs"]),
    ],
)
def test_a_misspelt_verb_or_option_is_one_message_with_what_was_meant(arguments, words, capsys):
    assert main(arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and all(word in said for word in words)


def test_settings_are_given_in_one_flag_or_in_several():
    one = parser().parse_args(["train", "--set", "steps=2", "seed=1", "--set", "frames=3"])
    assert one.set == ["steps=2", "seed=1", "frames=3"] and parser().parse_args(["train"]).set == []


SMALL = ["steps=2", "eval_every=1", "eval_samples=2", "effective_batch=2"]


def typed(out, *settings) -> list[str]:
    return ["train", "--cell", "T1-T_2f_fov", "--set", f"out={out}", *SMALL, *settings]


def test_training_again_says_so_and_with_another_parameter_it_is_a_run_of_its_own(tmp_path, capsys):
    assert main(typed(tmp_path)) == 0
    first = capsys.readouterr()
    run = load_run(tmp_path / "runs" / "T1-T_2f_fov_seed0")
    assert run.finished and "already trained" not in first.out and "/2 [" in first.err
    assert main(typed(tmp_path)) == 0
    again = capsys.readouterr()
    assert f"already trained: {run.folder}" in again.out and again.err == "", "no bar"

    assert main(typed(tmp_path, "steps=3")) == 0
    other = load_run(tmp_path / "runs_steps-3" / "T1-T_2f_fov_seed0")
    said = capsys.readouterr().out
    assert other.finished and other.config.steps == 3 and load_run(run.folder).config.steps == 2
    assert "another configuration (steps was 2, is 3)" in said and str(other.folder) in said
    assert main(typed(tmp_path, "steps=3")) == 0
    assert f"already trained: {other.folder}" in capsys.readouterr().out, "the same name again"
    many = [f"{name}=0.1" for name in ("decay", "learning_rate", "weight_decay", "query_init_scale")]
    assert main(typed(tmp_path, *many)) == 0
    (long,) = set(tmp_path.glob("runs_*")) - {other.folder.parent}
    assert len(long.name) < 40 and load_run(next(long.iterdir())).config.decay == 0.1


def test_what_is_opened_next_is_a_command_that_works_for_that_run(tmp_path, monkeypatch):
    monkeypatch.delenv("FVLM_RUN", raising=False)
    short = dict(steps=1, eval_every=1, eval_samples=2, effective_batch=2, out=str(tmp_path))
    foveated, blind = (train(tiny(arch, **short)) for arch in ("foveated", "blind"))
    lines = next_steps(foveated)
    assert len(lines) == 2 and "train.ipynb" not in "".join(lines), "that has the parameters of another run"
    for line, notebook in zip(lines, ("attention", "model")):
        variable, _, opened = line.partition(": ")[2].partition("   ")[0].partition(" ")
        assert opened == f".venv/bin/jupyter lab notebooks/{notebook}.ipynb"
        monkeypatch.setenv(*variable.split("="))
        assert RunPicker().run.folder == foveated.folder
    (line,) = next_steps(blind)
    command = shlex.split(line.partition("bin/fvlm ")[2].partition("   ")[0])
    assert parser().parse_args(command).folders == [str(blind.folder)]


def test_no_bar_stands_before_an_error(tmp_path, capsys):
    assert main(typed(tmp_path, "dataset=shapes:objects=9")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")


@pytest.mark.slow
def test_ctrl_c_stops_at_a_checkpoint_and_says_how_to_go_on(tmp_path):
    long = typed(tmp_path, "steps=400", "eval_every=400")
    folder = tmp_path / "runs" / "T1-T_2f_fov_seed0"
    with subprocess.Popen([sys.executable, "-m", "fvlm", *long], stderr=subprocess.PIPE, text=True) as child:
        end = time.monotonic() + 120
        while not (folder / "progress.json").exists():
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130 and "Traceback" not in said and "goes on from step" in said
    assert list((folder / "checkpoint").glob("step-*"))
    (again,) = [line for line in said.splitlines() if line.startswith("Go on: fvlm ")]
    assert shlex.split(again.removeprefix("Go on: fvlm ")) == long


def test_an_interrupted_command_says_whether_it_goes_on(monkeypatch, capsys):
    from fvlm import cli

    for verb, words in (("grid", "the same command goes on"), ("ask", "starts again")):
        monkeypatch.setattr(cli, f"_{verb}", lambda options: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([verb, "params/smoke.yaml"]) == 130
        said = capsys.readouterr().err
        assert words in said and f"fvlm {verb} params/smoke.yaml" in said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_are_for_terminals(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("failed", "red", Terminal()) == "\x1b[31mfailed\x1b[0m"
    assert coloured("failed", "red", io.StringIO()) == "failed"
    assert "\x1b[32mfinished\x1b[0m 1" in in_colour("T1 finished 1", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("failed", "red", Terminal()) == "failed"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_list_of_cells_is_no_wider_than_the_terminal(width, monkeypatch):
    cell = dict(cell="S-S_64f_fov_seed0", priority=1, state="finished", flops=1.2e17, memory_bytes=3.1e10)
    rows = [cell | dict(seconds=86_400, note="does not fit: " + "a smaller micro-batch, " * 9)]
    rows += [cell | dict(seconds=7384, note="")]
    monkeypatch.setenv("COLUMNS", str(width))
    lines = fitted(cells_table(pd.DataFrame(rows)), "note")
    assert max(map(len, lines)) <= width
    first, last = (line for line in lines if "S-S_64f_fov_seed0" in line)
    assert "does not fit" in lines[2] and lines[2].startswith("    ") and last == lines[-1]
    assert "finished" in first
    if width >= 80:
        assert lines[0].endswith("time, h:mm") and first.endswith(" 24:00") and last.endswith(" 2:04")


def test_hours_are_h_mm():
    assert [hours(s) for s in (0, 1, 59, 61, 3600, 7384)] == ["0:00", "0:01", "0:01", "0:02", "1:00", "2:04"]


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
