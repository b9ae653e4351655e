"""Which run answers, how good it can be expected to be, and what it says of a video."""

import math
import re
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import find_folder, where
from fvlm.gaze.attention import as_clip
from fvlm.text import clock
from fvlm.training.learned import learned, verdict
from fvlm.training.results import Run, load_run, trained_runs

OPTION = re.compile(r"^\s*\(?([A-Z])[).:]\s*(\S.*?)\s*$", re.MULTILINE)


def choose_run(
    folder: str | Path | None = None,
    out: Path | None = None,
    task: str | None = None,
    queries: bool = False,
) -> Run:
    """The run in a folder, or without one the newest finished run of `outputs/` that has its model
    (`trained_runs`), one that came with the repository if there is no other. task: "question" or "caption";
    if there is a run of it, the newest of those. queries: only one whose model decides where to look.
    ConfigError if there is none."""
    if folder is not None:
        run = load_run(find_folder(str(folder)))
        if not run.has_model:
            raise ConfigError(f"{folder}: no model yet; training leaves it at its end")
        if queries and not run.config.architecture.has_queries:
            raise ConfigError(f"--gaze: a {run.config.arch} model has no queries, so it has no gaze")
        return run
    out = out or REPOSITORY / "outputs"
    runs = [run for run in trained_runs(out) if run.config.architecture.has_queries or not queries]
    if runs:
        return next((run for run in runs if run.config.task == task), runs[0])
    raise ConfigError(
        f"{where(out)}: no finished run with a model; `fvlm train` makes one, or give --run FOLDER"
    )


def expectation(run: Run, asked: bool) -> list[str]:
    """How good a run's model can be expected to be, in two to four lines. asked: whether it is asked a
    question."""
    found = verdict(run)
    last, config = run.evaluations.iloc[-1], run.config
    lines = [
        f"{where(run.folder)}: {config.cell}, trained on {last.samples_seen:,.0f} clips of {config.dataset} "
        f"({config.task}s)",
        f"Expect little beyond that: validation loss {last.loss_autoregressive:.3f} nats a token (perplexity "
        f"{math.exp(min(last.loss_autoregressive, 50)):.1f})"
        + (", and of other videos the words of its own world" if config.dataset.startswith("shapes") else ""),
    ]
    if found.badge:
        better = next((other for other in trained_runs(run.folder.parents[1]) if learned(other)), None)
        instead = f". --run {where(better.folder)} is one that has learned something" if better else ""
        lines.append(f"What it says means nothing, it {found.badge}: {found.why}{instead}")
    if asked != (config.task == "question"):
        lines.append(
            "It was trained to describe and has never been asked: the answer is a guess"
            if asked
            else "It was trained on questions alone: undescribed videos are new to it; ask it something"
        )
    return lines


def film(run: Run, video, question: str | None, path: str | Path) -> Path:
    """Write where a run's model, one with queries, looks in a video as .html, .mp4 or .gif. ConfigError for
    another ending."""
    from fvlm.gaze.attention import EncodedClip
    from fvlm.plots.gaze import gaze_title, map_name, save_gaze

    clip = as_clip(run.model, video, question)
    task = "question" if question else "caption"
    look = EncodedClip(run.model, clip, run.tokenizer, task).gaze()
    name = Path(video).name if isinstance(video, str | Path) else ""
    told = f"{look.mode}, {map_name()}"
    return save_gaze(look, path, title=gaze_title(question, look.caption, name, run.folder.name, told))


def timed_lines(run: Run, video, every: float | None, **generate) -> list[str]:
    """What a run's model says of a video, a line per stretch of `every` seconds; without it one line."""
    if every is None:
        return [run.model.describe(video, **generate)]
    moments = run.model.describe(video, every=every, **generate)
    return [f"{clock(moment.start)} to {clock(moment.end)}  {moment.text}" for moment in moments]


def parse_seconds(text: str) -> float:
    """`2s`, `500ms`, `1m` or `2` to seconds. ConfigError for what is none."""
    units = {"ms": 0.001, "s": 1, "m": 60, "": 1}
    number = text.rstrip("ms")
    try:
        found = float(number) * units[text[len(number) :]]
    except (KeyError, ValueError):
        raise ConfigError(f"{text}: expected a time such as 2s, 500ms or 1m") from None
    if not 0 < found < math.inf:
        raise ConfigError(f"{text}: must be more than 0 seconds")
    return found


def lettered(context: str) -> tuple[str, dict[str, str]]:
    """A question with lettered options, "(A) red" or "A. red" a line, as the question alone and the options
    by letter; all of the text and nothing where there are none."""
    found = list(OPTION.finditer(context))
    letters = [match[1] for match in found]
    if len(found) < 2 or letters != [chr(ord("A") + i) for i in range(len(found))]:
        return context.strip(), {}
    asked = context[: found[0].start()].strip()
    asked = re.sub(r"\n?\s*(options?|choices?|candidates?)\s*:?$", "", asked, flags=re.IGNORECASE).strip()
    asked = re.sub(r"^question\s*:\s*", "", asked, flags=re.IGNORECASE)
    return asked, {match[1]: match[2] for match in found}
