"""The command line. A user's mistake ends with exit status 2 and one message; no traceback."""

import argparse
import contextlib
import difflib
import math
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

from fvlm.config import ConfigError, RunConfig, shown
from fvlm.data.video import SHORT
from fvlm.files import find_folder, own_folder, require_writable, where
from fvlm.text import coloured, fitted
from fvlm.training.results import load_run

VERBS = {  # by what one wants to do, in the order they are listed
    "Make a dataset": ("prepare",),
    "Train": ("train", "grid", "tune", "mix"),
    "Ask a model about videos": ("ask", "describe", "watch", "push", "pack"),
    "Look at what was trained": ("evaluate", "gaze", "swap", "question"),
    "Measure this machine": ("bench", "features"),
    "Keep this repository whole": ("findings", "figures", "notebooks"),
}


# What of a verb's work is kept when it is interrupted, so that the same command goes on.
RESUMES = ("prepare", "train", "grid", "tune", "question", "features")


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # what can't be written there is written as \x or \u and digits
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if wrong := _unknown_verb(arguments):
        return _failed(wrong)
    try:
        options, unknown = parser().parse_known_args(arguments)
        if unknown:
            return _failed(_unknown_option(arguments[0], unknown))
        status = options.run(options) or 0
        sys.stdout.flush()  # here, where it is known what to do if nobody reads
        return status
    except ConfigError as error:
        return _failed(str(error))
    except BrokenPipeError:  # who read what is printed, `head` perhaps, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_how_to_go_on(arguments)}", file=sys.stderr)
        return 130


def _failed(message: str, status: int = 2) -> int:
    """Say what is wrong; the status that the command ends with."""
    print(f"{coloured('error:', 'red', sys.stderr)} {message}", file=sys.stderr)
    return status


def _how_to_go_on(arguments: list[str]) -> str:
    command = shlex.join(["fvlm", *arguments])
    if arguments[0] in RESUMES:
        return f"the same command goes on: {command}"
    return f"fvlm {arguments[0]} keeps nothing of what it has begun: {command} starts again"


def _unknown_verb(arguments: list[str]) -> str | None:
    """What to say where the first argument is no verb."""
    verbs = [verb for of in VERBS.values() for verb in of]
    if not arguments or arguments[0].startswith("-") or arguments[0] in verbs:
        return None
    return (
        f"fvlm {shown(arguments[0])}: no such verb{_meant(arguments[0], verbs)}; valid are {', '.join(verbs)}"
    )


def _unknown_option(verb: str, unknown: list[str]) -> str:
    commands = next(action for action in parser()._actions if isinstance(action.choices, dict))
    valid = [name for action in commands.choices[verb]._actions for name in action.option_strings]
    first = unknown[0].partition("=")[0]
    told = f"fvlm {verb}: unknown {shown(first)}{_meant(first, valid)}"
    return f"{told}; valid are {', '.join(name for name in valid if name.startswith('--'))}"


def _meant(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def parser() -> argparse.ArgumentParser:
    """The whole command line; what it parses has a `run` that does it."""
    parser = argparse.ArgumentParser(
        prog="fvlm",
        usage="fvlm VERB [...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Foveated video language models: one visual token per frame.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="VERB", help=argparse.SUPPRESS)
    add = dict(
        prepare=_add_prepare,
        train=_add_train,
        grid=_add_grid,
        tune=_add_tune,
        mix=_add_mix,
        ask=_add_ask,
        describe=_add_describe,
        watch=_add_watch,
        push=_add_push,
        pack=_add_pack,
        evaluate=_add_evaluate,
        gaze=_add_gaze,
        swap=_add_swap,
        question=_add_question,
        bench=_add_bench,
        features=_add_features,
        findings=_add_findings,
        figures=_add_figures,
        notebooks=_add_notebooks,
    )
    for verbs in VERBS.values():
        for verb in verbs:
            add[verb](commands)
    parser.epilog = _listed(commands.choices)
    return parser


def _listed(parsers: dict[str, argparse.ArgumentParser]) -> str:
    """All verbs under what they are for, with the first sentence of each."""
    lines = []
    for purpose, verbs in VERBS.items():
        lines += [f"{purpose}:", *(f"  {verb:10} {parsers[verb].description}" for verb in verbs), ""]
    return "\n".join(
        [
            *lines,
            "fvlm VERB --help shows a verb's options and an example. `python -m fvlm` is the same command.",
        ]
    )


def _command(commands, name, run, help, example):
    parser = commands.add_parser(
        name,
        prog=f"fvlm {name}",
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_runs(parser):
    parser.add_argument(
        "--run",
        dest="folders",
        action="extend",
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folders of finished runs",
    )


def _add_publish(parser):
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write among the published results themselves, for who keeps them (default: beside them)",
    )


def _at_least(least: int):
    """A type of argument: whole numbers from `least` on."""

    def whole(text: str) -> int:
        try:
            if (number := int(text)) >= least:
                return number
        except ValueError:  # also of more digits than Python converts
            pass
        raise argparse.ArgumentTypeError(f"{shown(text)}: a whole number from {least} on is expected")

    return whole


def _between(low: float, high: float = float("inf"), open_: bool = True):
    """A type of argument: numbers from `low`, itself excluded if `open_`, up to `high`; none without end."""

    def number(text: str) -> float:
        try:
            value = float(text)
            if (low < value if open_ else low <= value) and value <= high and math.isfinite(value):
                return value
        except ValueError:
            pass
        wanted = f"{'over' if open_ else 'from'} {low:g}" + (f", at most {high:g}" if high < math.inf else "")
        raise argparse.ArgumentTypeError(f"{shown(text)}: a number {wanted} is expected")

    return number


def _output(options, name: str) -> Path:
    """Where `--out` wants the rows, by default beside the first run's results; known to be writable, before
    anything is computed."""
    out = Path(options.out).expanduser() if options.out else _beside(options.folders[0]) / name
    require_writable(out, f"--out {out}")
    return out


def _beside(folder: str) -> Path:
    """The folder of a run or, if it is published, where a user's own files about it go."""
    run = load_run(folder).folder
    return own_folder(run.parent) / run.name


def _settings(pairs: list[str]) -> dict:
    """`["steps=20"]` to `{"steps": "20"}`; RunConfig knows the types."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(
                f"--set {pair}: expected name=value, such as --set steps=20 seed=1; what is no setting "
                "stands before it"
            )
    return dict(pair.split("=", 1) for pair in pairs)


class _Bar:
    """A text progress bar that ends with its `with` block; drawn rarely where nobody watches."""

    _bar = None

    def _open(self, **options):
        from tqdm import tqdm

        self._bar = tqdm(mininterval=0.5 if sys.stderr.isatty() else 10, **options)

    def close(self):
        if self._bar is not None:
            self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


# ── prepare ──────────────────────────────────────────────────────────────────────────────────────


def _add_prepare(commands):
    example = (
        "fvlm prepare videos/ --out data/mine_8f --frames 8 --caption caption --workers 2\n"
        "  fvlm prepare --verify data/mine_8f"
    )
    from fvlm.data.sources import CAPTIONS

    parser = _command(
        commands,
        "prepare",
        _prepare,
        "Turn captioned videos into a dataset for training, or check one.",
        example,
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a folder with metadata.csv or .jsonl, or with a .txt or .json beside each video, a table "
        "(.csv, .jsonl, .parquet) of paths, URLs or the videos themselves, .tar files, a Hugging Face "
        "dataset id or folder, or shapes (shapes-stills, -compared, -text); folder: table: hub: tar: images: "
        "before it says which; several: pictures to compare; text: texts alone",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the dataset goes")
    parser.add_argument(
        "--verify", metavar="FOLDER", help="hash and decode a prepared dataset again; names what is wrong"
    )
    parser.add_argument(
        "--frames", type=_at_least(1), default=8, help="frames per clip (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=_at_least(14), default=224, help="side of a frame in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--clips", type=_at_least(1), help="stop at so many good clips (default: all; the study had 5000)"
    )
    parser.add_argument(
        "--shard", type=_at_least(1), default=100, help="clips per shard (default: %(default)s)"
    )
    parser.add_argument(
        "--caption",
        help="caption column (default: caption, name or text); a.b is the column b within a; folder: the "
        "name of the folder that a video is in",
    )
    parser.add_argument(
        "--captions",
        choices=CAPTIONS,
        default="draw",
        help="of several captions of one clip: draw one for each position of an epoch, make all of them "
        "clips, or take the first (default: %(default)s)",
    )
    parser.add_argument(
        "--video",
        help="column of the video or its path (default: file_name, video, path, url, contentUrl, …)",
    )
    parser.add_argument("--split", default="train", help="of a Hugging Face dataset (default: %(default)s)")
    parser.add_argument(
        "--workers", type=_at_least(1), default=2, help="processes that decode (default: %(default)s)"
    )
    parser.add_argument(
        "--max-skipped",
        type=_between(0, 1, open_=False),
        default=0.5,
        help="share of clips that may be unusable (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew, and replace what was prepared in the folder"
    )
    parser.add_argument(
        "--allow-private",
        action="store_true",
        help="fetch URLs of this machine and of its network too (default: of public addresses alone)",
    )
    parser.add_argument(
        "--retry-skipped",
        action="store_true",
        help="try again all that was skipped; what failed for a reason that may be gone (a server that was "
        "down) is always tried again",
    )


def _prepare(options) -> int:
    from fvlm.data.prepare import PrepareError, Settings, prepare, prepared_already, verify

    if options.verify:
        wrong = verify(options.verify)
        print("\n".join(wrong) or f"{options.verify}: every shard and every frame is as it was written")
        return 1 if wrong else 0
    if not options.source or not options.out:
        raise ConfigError(
            "prepare needs SOURCE and --out FOLDER (or --verify FOLDER); see fvlm prepare --help"
        )
    names = ("source", "frames", "size", "clips", "shard", "caption", "video", "split", "captions")
    settings = Settings(**{name: getattr(options, name) for name in names})
    retry = options.retry_skipped
    already = not options.overwrite and prepared_already(settings, options.out, retry)
    with PrepareBar() as bar:
        try:
            manifest = prepare(
                settings,
                options.out,
                options.workers,
                options.max_skipped,
                options.overwrite,
                progress=bar,
                retry_skipped=retry,
                allow_private=options.allow_private,
            )
        except (PrepareError, KeyboardInterrupt) as error:
            bar.close()
            print(f"error: {error}" if str(error) else "stopped; the same command goes on", file=sys.stderr)
            return 1
    print_manifest(manifest, options.out, already)
    return 0


def print_manifest(manifest: dict, folder, already: bool = False):
    """What a prepared dataset holds, what was skipped, what should be known and what to do next. already:
    it was there before."""
    from fvlm.data.prepare import next_command, warning

    splits = ", ".join(f"{count} {split}" for split, count in manifest["splits"].items())
    print(
        f"{manifest['clips']} clips of {manifest['frames']} frames at {manifest['size']} px ({splits}) in "
        f"{folder}"
    )
    if already:
        print(
            "It was prepared already: the source was not read. Where that has changed, prepare again with "
            "--overwrite, or into another folder"
        )
    if manifest["clips_with_repeated_last_frame"]:
        print(
            f"{manifest['clips_with_repeated_last_frame']} clips had fewer frames: their last one is repeated"
        )
    for note, count in manifest.get("notes", {}).items():
        if note != SHORT:
            print(f"{count} of the clips: {note}")
    for reason, count in manifest["skipped"].items():
        examples = [skip for skip in manifest["skipped_clips"] if skip["reason"] == reason]
        print(
            f"skipped, {reason}: {count}, such as {examples[0]['where']}: {examples[0]['detail'] or reason}"
        )
    if manifest["skipped"] or manifest.get("notes"):
        print(f"All of them are listed in {folder}/manifest.json")
    if told := warning(manifest):
        print(told)
    if next_ := next_command(manifest, folder):
        print(f"Next: {next_}")


class PrepareBar(_Bar):
    """A text progress bar: clips, clips per second, time left, what was skipped."""

    def __call__(self, clips, of, skipped):
        if self._bar is None:  # what was there before is no part of this run's rate
            self._open(total=of, initial=max(clips - 1, 0), unit="clip")
        if skipped:
            self._bar.set_postfix(skipped=sum(skipped.values()), refresh=False)
        self._bar.update(clips - self._bar.n)


# ── train ────────────────────────────────────────────────────────────────────────────────────────


def _add_train(commands):
    example = "fvlm train --cell T-T_8f_fov --set steps=20 --set seed=1"
    parser = _command(commands, "train", _train, "Train one grid cell, or go on with one.", example)
    parser.add_argument(
        "--cell",
        default="T-T_8f_fov",
        help="pair, frames and architecture, such as S-S_8f_fov (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any other fields of RunConfig; repeatable",
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="WHERE",
        help="tensorboard, trackio or wandb; repeatable (pip install 'fvlm[report]')",
    )
    parser.add_argument(
        "--compare",
        metavar="FOLDER",
        help="results of the same run, kept elsewhere: how far are the new ones off?",
    )


def _train(options) -> int:
    from fvlm.measures import measure_if_cheap
    from fvlm.training.callbacks import report_to
    from fvlm.training.launch import train, with_own_name
    from fvlm.training.progress import Stopped, TrainingError
    from fvlm.training.results import require_same_run

    config = RunConfig.from_cell(options.cell, **_settings(options.set))
    kept = load_run(find_folder(options.compare)) if options.compare else None
    if kept:
        require_same_run(kept, config)
    config = with_own_name(config)
    print(
        f"{config.cell}, seed {config.seed}: {config.steps} steps x {config.effective_batch} samples on "
        f"{config.device}, {config.precision}"
    )
    there = (config.folder / "config.json").exists() and load_run(config.folder).finished
    if there and not (config.overwrite and config.changes_from(load_run(config.folder).config)):
        print(f"already trained: {where(config.folder)}")
    with ProgressBar() as bar, _stops_at_a_checkpoint(config):
        try:
            run = train(config, [bar, *map(report_to, options.report)])
        except Stopped as stopped:
            bar.close()
            print(f"{stopped}\nGo on: fvlm train{_typed(options)}", file=sys.stderr)
            return 130
        except TrainingError as error:
            bar.close()
            return _failed(str(error), 1)
    last = run.evaluations.iloc[-1]
    print(
        f"validation loss {last.loss_parallel:.3f} nats per token (frame by frame: "
        f"{last.loss_autoregressive:.3f})"
    )
    clips = run.validation_clips(2)
    for clip, text in zip(clips, run.write(clips)):
        print(
            f"\n  is:   {clip.caption if config.task == 'caption' else f'{clip.question} {clip.answer}'}\n  "
            f"says: {text}"
        )
    if found := run.attribute_accuracy():
        print(f"\n{found}")
    if (measures := measure_if_cheap(run)) is not None:
        told = ", ".join(f"{row.measure} {row.value:.3g}" for row in measures.itertuples())
        print(f"\nOn {measures['clips'].iloc[0]} validation clips (measured/ has intervals): {told}")
    print(f"\nResults: {run.folder}")
    if kept:
        return _compare(kept, run)
    print(*next_steps(run), sep="\n")
    return 0


def next_steps(run) -> list[str]:
    """What can be opened next, as commands that work for this very run."""
    name = where(run.folder)
    steps = []
    if not RunConfig().changes_from(run.config) and run.folder == RunConfig().folder:
        steps.append(
            ".venv/bin/jupyter lab notebooks/train.ipynb   (it finds this run: curve, captions and gaze)"
        )
    if run.config.architecture.has_queries:
        notebook = f"FVLM_RUN={shlex.quote(name)} .venv/bin/jupyter lab notebooks"
        steps.append(f"{notebook}/attention.ipynb   (where it looks)")
        steps.append(f"{notebook}/model.ipynb   (how it works)")
    else:
        steps.append(f".venv/bin/fvlm evaluate --run {shlex.quote(name)}   (how good its texts are)")
    return [f"Open next: {steps[0]}", *(f"      then: {step}" for step in steps[1:])]


def _typed(options) -> str:
    """The options of `fvlm train` again, as they are typed."""
    settings = f" --set {shlex.join(options.set)}" if options.set else ""
    reports = "".join(f" --report {name}" for name in options.report)
    compare = f" --compare {shlex.quote(options.compare)}" if options.compare else ""
    return f" --cell {options.cell}{settings}{reports}{compare}"


@contextlib.contextmanager
def _stops_at_a_checkpoint(config: RunConfig):
    """Inside, Ctrl-C ends the run that trains at a checkpoint, which it writes after its current step; a
    second one ends it at once."""
    from fvlm.training.progress import request_stop

    def stop(*_):
        signal.signal(signal.SIGINT, before)
        if not config.folder.exists():
            raise KeyboardInterrupt
        request_stop(config.folder, now=True)
        print("\nstopping at a checkpoint; Ctrl-C again ends it at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # signals are the main one's
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _compare(kept, again) -> int:
    """Status 1 if a loss differs by more than the seeds do."""
    from fvlm.training.results import compare_runs

    table = compare_runs(kept, again)
    print(f"\nBeside {kept.folder}, nats per text token; seeds: highest less lowest of that study's seeds\n")
    print(table.dropna(subset="kept").round(4).to_string(index=False))
    worse = table[table["difference"].abs() > table["seeds"].fillna(float("inf"))]
    print("differs by more than the seeds do" if len(worse) else "as near as another seed, or nearer")
    return 1 if len(worse) else 0


class ProgressBar(_Bar):
    """A text progress bar: loss, samples per second, time left."""

    def __call__(self, progress):
        if self._bar is None:  # now it trains; what was there before is no part of this run's rate
            self._open(total=progress.steps, initial=progress.step - 1, unit="step")
        postfix = {"loss": f"{progress.loss:.3f}", "samples/s": f"{progress.samples_per_second:.1f}"}
        if progress.evaluations:
            postfix["val"] = f"{progress.evaluations[-1]['loss_parallel']:.3f}"
        self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(progress.step - self._bar.n)


# ── ask, describe, watch ─────────────────────────────────────────────────────────────────────────


def _add_asked(commands, name, run, help, example):
    parser = _command(commands, name, run, help, example)
    parser.add_argument(
        "video", metavar="VIDEO", help="a video, a picture, a folder of pictures or a camera's number"
    )
    parser.add_argument(
        "--run",
        dest="folder",
        metavar="FOLDER",
        help="of a finished run (default: the newest in outputs/, of questions if it is asked one)",
    )
    parser.add_argument(
        "--tokens", type=_at_least(1), default=64, metavar="N", help="longest text (default: %(default)s)"
    )
    return parser


def _add_gaze_film(parser):
    parser.add_argument("--gaze", metavar="FILE", help="write where it looked as .html, .mp4 or .gif")


def _add_ask(commands):
    example = 'fvlm ask clip.mp4 "Which shape is red?" --gaze looked.html'
    parser = _add_asked(commands, "ask", _ask, "Ask a trained model about a video.", example)
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="(default: it describes)")
    _add_gaze_film(parser)


def _ask(options) -> int:
    run = _asked_run(options, options.question is not None)
    _from_camera(run, options)
    print(run.model.answer(options.video, options.question, max_new_tokens=options.tokens))
    return _film(run, options, options.question)


def _add_describe(commands):
    example = "fvlm describe clip.mp4 --gaze looked.mp4"
    help = "Let a trained model describe a video, whole or stretch by stretch."
    parser = _add_asked(commands, "describe", _describe, help, example)
    parser.add_argument("--every", metavar="TIME", help="a line for each stretch of 2s, 500ms or 1m")
    _add_gaze_film(parser)


def _describe(options) -> int:
    from fvlm.ask import parse_seconds, timed_lines

    every = parse_seconds(options.every) if options.every else None
    if every is not None and options.gaze:
        raise ConfigError("--gaze shows where it looked for one line: with --every there are several")
    run = _asked_run(options, asked=False)
    _from_camera(run, options)
    print(*timed_lines(run, options.video, every, max_new_tokens=options.tokens), sep="\n")
    return _film(run, options, None)


def _add_watch(commands):
    example = 'fvlm watch clip.mp4 --ask "Which shape is red?" --every 2s --window 64'
    help = "Stream a video through a trained model, one step a frame, and print what it says meanwhile."
    parser = _add_asked(commands, "watch", _watch, help, example)
    parser.add_argument("--ask", dest="question", metavar="QUESTION", help="(default: it describes)")
    parser.add_argument("--every", default="2s", metavar="TIME", help="between lines (default: %(default)s)")
    parser.add_argument(
        "--rate",
        type=_between(0),
        default=4.0,
        help="frames it sees a second of video (default: %(default)s)",
    )
    parser.add_argument(
        "--window",
        type=_at_least(0),
        default=64,
        help="frames it keeps at most; 0: all (default: %(default)s)",
    )


def _watch(options) -> int:
    from fvlm.ask import parse_seconds
    from fvlm.data.live import live_frames
    from fvlm.watching import lines_of, watch

    every = parse_seconds(options.every)
    run = _asked_run(options, options.question is not None)
    session = run.model.stream(options.question, options.window or None)
    for glimpse in watch(session, live_frames(options.video, options.rate), every, options.tokens):
        for line in lines_of([glimpse]):
            print(line, flush=True)
    return 0


def _asked_run(options, asked: bool):
    from fvlm.ask import choose_run, expectation

    gaze = getattr(options, "gaze", None)
    if gaze:
        require_writable(Path(gaze), f"--gaze {gaze}")
    run = choose_run(options.folder, task="question" if asked else "caption", queries=bool(gaze))
    print(*expectation(run, asked), sep="\n", file=sys.stderr)
    return run


def _from_camera(run, options):
    """Look through a camera now, for as many frames as the model reads, where a camera's number is given."""
    from fvlm.data.live import from_camera, is_camera

    if is_camera(options.video):
        options.video = from_camera(options.video, run.config.frames)


def _film(run, options, question) -> int:
    if options.gaze:
        from fvlm.ask import film

        print(f"Where it looked: {film(run, options.video, question, options.gaze)}")
    return 0


# ── push ─────────────────────────────────────────────────────────────────────────────────────────


def _add_push(commands):
    help = "Push a trained model to the Hugging Face hub, with a card written from its run."
    example = "fvlm push me/my-model --run outputs/runs/T-T_8f_fov_seed0"
    parser = _command(commands, "push", _push, help, example)
    parser.add_argument("repo", metavar="OWNER/NAME", help="where to; made if it is not there")
    parser.add_argument("--run", dest="folder", metavar="FOLDER", required=True, help="of a finished run")
    parser.add_argument("--private", action="store_true", help="for its owner alone")
    parser.add_argument(
        "--clips", type=_at_least(1), default=32, help="that its gaze is scored on (default: 32)"
    )


def _push(options) -> int:
    from huggingface_hub.errors import HfHubHTTPError

    from fvlm.hub import push_run

    try:
        print(push_run(load_run(options.folder), options.repo, options.private, options.clips))
    except HfHubHTTPError as error:
        raise ConfigError(f"{options.repo}: the hub refused it: {str(error).splitlines()[0]}") from error
    return 0


# ── pack ─────────────────────────────────────────────────────────────────────────────────────────


def _add_pack(commands):
    help = "Copy what is needed to look at a run, a few megabytes: its tables and the trained part alone."
    example = "fvlm pack --run outputs/runs/T-T_8f_fov_seed0 --out shared/T-T_8f_fov_seed0"
    parser = _command(commands, "pack", _pack, help, example)
    parser.add_argument("--run", dest="folder", metavar="FOLDER", required=True, help="of a finished run")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="a new folder")


def _pack(options) -> int:
    require_writable(Path(options.out).expanduser() / "config.json", f"--out {options.out}")
    packed = load_run(find_folder(options.folder)).pack(Path(options.out).expanduser())
    size = sum(path.stat().st_size for path in packed.folder.rglob("*") if path.is_file())
    print(f"{packed.folder}: {size / 1e6:.1f} MB; frozen weights are named in trained/frozen.json")
    return 0


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────


def _add_evaluate(commands):
    example = "fvlm evaluate --run outputs/runs/T-T_8f_fov_seed0 outputs/runs/T-T_8f_bas_seed0 --clips 200"
    help = "How good are the texts that runs write? Losses and text measures, and runs compared."
    parser = _command(commands, "evaluate", _evaluate, help, example)
    _add_runs(parser)
    parser.add_argument("--dataset", metavar="DATA", help="another than each run's own")
    parser.add_argument(
        "--clips", type=_at_least(1), default=100, help="validation clips (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="of the tables (default: the first run's measured/)")


def _evaluate(options) -> int:
    from fvlm.measures import MEASURES, differences, measure, write_tables
    from fvlm.text import with_interval
    from fvlm.training.learned import yardstick

    out = Path(options.out).expanduser() if options.out else _beside(options.folders[0]) / "measured"
    require_writable(out / "measures.csv", f"--out {out}")
    rows = []
    for folder in options.folders:
        with GazeBar(Path(folder).name, options.clips) as bar:
            rows += measure(load_run(folder), options.dataset, options.clips, progress=bar)
    table = write_tables(rows, out)
    yardsticks = {
        Path(folder).name: yardstick(load_run(folder), options.dataset) for folder in options.folders
    }
    for name in table["measure"].unique():
        print(f"{name}: {MEASURES[name]}")
    print(f"\nWith bootstrap 95 % intervals over {table['clips'].min()} clips\n")
    tables = [("", table)] + ([("less ", differences(rows))] if len(options.folders) > 1 else [])
    for title, found in tables:
        for (run, name), part in found.groupby([found["run"], found.get("less", found["run"])], sort=False):
            print(f"{run} {title and title + name}".strip())
            for row in part.itertuples():
                told = with_interval(row.value, row.low, row.high, digits=3, signed=bool(title))
                beside = f"; {yardsticks[run]}" if row.measure == "loss" and not title else ""
                print(f"  {row.measure:12} {told}{beside}")
    print(f"\nTables: {out}")
    return 0


# ── gaze ─────────────────────────────────────────────────────────────────────────────────────────


def _add_gaze(commands):
    example = "fvlm gaze --run outputs/runs/T-T_8f_fov_seed0 outputs/runs/T-T_8f_sta_seed0"
    parser = _command(
        commands,
        "gaze",
        _gaze,
        "Does the gaze find what is asked about? Scores against the boxes of shapes.",
        example,
    )
    _add_runs(parser)
    parser.add_argument(
        "--clips", type=_at_least(1), default=100, help="validation clips (default: %(default)s)"
    )
    parser.add_argument("--mode", default="autoregressive", choices=["autoregressive", "parallel", "static"])
    parser.add_argument(
        "--summary",
        default="mean",
        choices=["mean", "last", "selective", "value"],
        help="of layers and heads",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="Parquet file of all rows (default: gaze.parquet in the first run's folder)",
    )


def _gaze(options) -> int:
    from fvlm.files import write_table
    from fvlm.gaze.scores import OBJECT_SCORES, SCORES, gaze_scores, summarise
    from fvlm.tables import gaze_table

    out, rows = _output(options, "gaze.parquet"), []
    for folder in options.folders:
        with GazeBar(Path(folder).name, options.clips) as bar:
            rows += gaze_scores(load_run(folder), options.clips, options.mode, options.summary, bar)
    write_table(out, rows)
    summary = summarise(rows)
    for scores in (SCORES, OBJECT_SCORES):
        for name, meaning in scores.items():
            print(f"{name}: {meaning}")
        print(f"\n{gaze_table(summary, scores).to_string(index=False)}\n")
    print(
        f"Means and bootstrap 95 % intervals over clips; {options.mode}, {options.summary} over layers and "
        "heads"
    )
    print(f"\nRows: {out}")
    return 0


class GazeBar(_Bar):
    """A text progress bar: clips of a run that were scored."""

    def __init__(self, run: str, clips: int):
        self._about = dict(total=clips, unit="clip", desc=run)

    def __call__(self, clip):
        if self._bar is None:
            self._open(**self._about)
        self._bar.update()


# ── swap ─────────────────────────────────────────────────────────────────────────────────────────


def _add_swap(commands):
    example = "fvlm swap --run outputs/runs/T-T_8f_fov_seed0 --clips 64"
    help = (
        "Does a model use the frames at all? Its loss with each clip's own frames, and with another clip's."
    )
    parser = _command(commands, "swap", _swap, help, example)
    _add_runs(parser)
    parser.add_argument(
        "--clips",
        type=_at_least(1),
        default=100,
        help="validation clips, two at least (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="Parquet file of all rows (default: swapped.parquet in the first run's folder)",
    )


def _swap(options) -> int:
    from fvlm.files import write_table
    from fvlm.gaze.attention import swapped_frames
    from fvlm.scaling.tables import swapped_table

    out, rows = _output(options, "swapped.parquet"), []
    for folder in options.folders:
        run = load_run(folder)
        clips = [clip for clip in run.validation_clips(options.clips) if clip.shows]  # no texts alone
        if len(clips) < options.clips:
            print(f"{run.folder.name}: its validation split has {len(clips)} clips, not {options.clips}")
        if len(clips) < 2:
            raise ConfigError(f"{run.folder.name}: swapping frames takes two clips")
        found = swapped_frames(run.model, clips, run.tokenizer, run.config.task)
        rows += [dict(run=run.folder.name) | row for row in found]
    write_table(out, rows)
    print("Nats per text token, frame by frame; the difference with its bootstrap 95 % interval over clips\n")
    print(swapped_table(rows).round(4).to_string(index=False))
    print(f"\nRows: {out}")
    return 0


# ── grid ─────────────────────────────────────────────────────────────────────────────────────────


def _add_grid(commands):
    from fvlm.studies.executors import EXECUTORS

    example = (
        "fvlm grid params/smoke.yaml\n  fvlm grid params/study.yaml --only 'S-S_*' --list\n\n"
        "Ctrl-C stops every cell at its next checkpoint, a second one at once; the same command goes on."
    )
    parser = _command(
        commands, "grid", _grid, "Train every cell of a grid file, one executed notebook each.", example
    )
    parser.add_argument(
        "file", metavar="FILE", help="params/study.yaml, params/micro.yaml, params/smoke.yaml or your own"
    )
    parser.add_argument(
        "--list", action="store_true", help="cells, what has become of them, FLOPs, expected time and memory"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and run nothing")
    parser.add_argument(
        "--only", metavar="PATTERN", help="cells whose name fits, such as 'S-S_*' or '*_seed0'"
    )
    parser.add_argument(
        "--priority",
        type=_at_least(1),
        metavar="N",
        help="cells of at most this priority number (1 is first)",
    )
    parser.add_argument(
        "--jobs",
        type=_at_least(1),
        metavar="N",
        help="at most so many cells at once, which share the cores (default: as many as fit)",
    )
    parser.add_argument(
        "--retries",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="try a failed cell again so often (default: 0)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="take up again what failed before")
    parser.add_argument("--overwrite", action="store_true", help="replace results of other configurations")
    parser.add_argument(
        "--again",
        action="store_true",
        help="train cells too whose results are published; into outputs/runs, beside those",
    )
    _add_publish(parser)
    parser.add_argument("--study", metavar="NAME", help="keep results under another name than the file's")
    parser.add_argument(
        "--on",
        choices=list(EXECUTORS),
        default="local",
        help="where cells run (default: %(default)s)",
    )
    parser.add_argument(
        "--hang",
        type=_between(0),
        metavar="MINUTES",
        help="without a sign of life before a cell is ended",
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="a RunConfig field for every cell",
    )


LIST_SECONDS = 6  # of a list's CPU time, after which no further memory is worked out; some 4 are its start


def _grid(options) -> int:
    from fvlm.studies.executors import EXECUTORS
    from fvlm.studies.grid import (
        FINISHED,
        HANG_MINUTES,
        STOPPED,
        GridRun,
        apart,
        read_grid,
        refuse_changed,
    )
    from fvlm.studies.page import study_page
    from fvlm.studies.progress import Table, cells_table, in_colour, list_cells, summary

    grid = read_grid(options.file, _settings(options.set), options.study).select(
        options.only, options.priority
    )
    if not options.publish:
        grid = apart(grid, options.again)
    if options.list:
        cells = list_cells(grid, planning=LIST_SECONDS)
        for line in fitted(cells_table(cells), "note"):
            print(in_colour(line, sys.stdout))
        if left := int(cells["memory_bytes"].isna().sum()):
            print(
                f"The memory of {left} cells is not worked out yet: the same command goes on with it, --only "
                "with those of a pattern"
            )
        return 0
    refuse_changed(grid, options.overwrite)
    if options.dry_run:
        todo = [cell for cell in grid.cells if cell.state() != FINISHED]
        print(
            "\n".join(f"{cell.name}: {cell.state()}" for cell in todo)
            or "nothing to do: every cell is finished"
        )
        return 0
    folder = grid.cells[0].folder.parent
    table, done = Table(), set()

    def on_change(run):
        table(run)
        finished = {
            status.cell.name
            for status in run.statuses
            if status.state == FINISHED and status.cell.folder.exists()
        }
        if finished - done:
            done.update(finished)
            study_page(folder)

    run = GridRun(
        grid,
        EXECUTORS[options.on](folder, options.jobs, grid.slurm),
        options.retries,
        options.retry_failed,
        options.overwrite,
        HANG_MINUTES if options.hang is None else options.hang,
        on_change,
    )
    complete = run.run()
    for status in run.statuses:
        if status.why and status.state != FINISHED:
            print(f"{status.cell.name}: {status.state}, {status.why}\n  {status.cell.folder}/train.ipynb")
    print(summary(run))
    if kept := [cell for cell in grid.cells if not cell.folder.exists() and cell.is_published]:
        print(
            f"{len(kept)} of them are published, in {where(kept[0].published.parent)}: --again trains them "
            f"too, into {where(folder)}"
        )
    if done:
        print(f"Open next: {folder / 'index.html'}")
    if complete:
        return 0
    if any(status.state == STOPPED for status in run.statuses) or run.stopping:
        print("stopped; the same command goes on")
        return 130
    return 1


# ── bench ────────────────────────────────────────────────────────────────────────────────────────


KINDS = ("train", "data", "features", "evaluate", "gaze", "generate", "peers", "scaling", "stream")


def _add_bench(commands):
    parser = _command(
        commands, "bench", _bench, "Measure this machine.", "fvlm bench train --cell S-S_8f_fov --samples 4"
    )
    parser.add_argument(
        "what",
        choices=[*KINDS, "gpu"],
        help="train: a training step against the machine's own matrix product; data: drawing, preparing, "
        "reading, waiting; features: training with a filled feature store and without; evaluate: all three "
        "losses against the parallel one alone; gaze: the explorer and the causal gaze; generate: looking, "
        "and writing a text; peers: a training step beside SmolVLM's; scaling: time and memory against "
        "frames, LLM and batch; stream: frames a second and memory of a stream, beside 16, 64 and 81 tokens "
        "a frame; gpu: first whether a device computes what a CPU does, then training steps of "
        "every cell of the study at its largest micro-batch",
    )
    parser.add_argument(
        "--cell",
        help="one, or several joined by commas (default: S-S_8f_fov; of features: five cells of the tiny "
        "pairs; of gpu: the study's)",
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of RunConfig",
    )
    parser.add_argument(
        "--samples",
        type=_at_least(1),
        help="clips per step (default: 4; of features and gpu: the cell's effective batch)",
    )
    parser.add_argument("--repeats", type=_at_least(1), default=5, help="(default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="NAME=VALUE",
        help="train: two settings in turns, each one or more NAME=VALUE with spaces between",
    )
    parser.add_argument(
        "--minutes",
        type=_between(0),
        default=8.0,
        help="time for scaling and gpu; what is left out is said (default: 8)",
    )
    parser.add_argument("--json", metavar="FILE", help="write what was measured, with device and commit")


def _bench(options) -> int:
    from fvlm import bench
    from fvlm.bench.features import CELLS
    from fvlm.bench.report import table, write_report
    from fvlm.costs.machine import require_device

    given = _settings(options.set) | ({"device": options.device} if options.device else {})
    if options.compare and options.what != "train":
        raise ConfigError(f"--compare: fvlm bench train compares two settings, {options.what} does not")
    if options.json:
        require_writable(Path(options.json), f"--json {options.json}")
    if options.what == "gpu":
        return _bench_gpu(options, given)
    samples, repeats = options.samples or 4, options.repeats
    cells = {cell: {} for cell in (options.cell or "S-S_8f_fov").split(",")}
    if options.what == "features" and not options.cell:
        cells = CELLS
    measured = {}
    for cell, settings in cells.items():
        config = RunConfig.from_cell(cell, **settings | given)
        require_device(config.device)
        if options.compare:
            both = {
                name: RunConfig.from_cell(cell, **settings | given | _settings(name.split()))
                for name in options.compare
            }
            if len(both) < 2:
                raise ConfigError(f"--compare: {options.compare[0]} twice")
            measured[cell] = bench.compare_train(both, samples, repeats)
        elif options.what == "gaze":
            measured[cell] = bench.bench_gaze(config, repeats)
        elif options.what == "stream":
            measured[cell] = bench.bench_stream(config, repeats)
        elif options.what == "scaling":
            measured[cell] = bench.bench_scaling(config, repeats, options.minutes)
        elif options.what == "features":
            measured[cell] = bench.bench_features(config, options.samples, repeats)
        else:
            measured[cell] = getattr(bench, f"bench_{options.what}")(config, samples, repeats)
    if len(measured) > 1 and options.what not in (
        "peers",
        "scaling",
        "stream",
    ):  # those have a table for each cell
        print(table(list(measured.values())))
    if options.json:
        write_report(Path(options.json), f"bench {options.what}", config, measured)
    return 0


def _bench_gpu(options, given: dict) -> int:
    from fvlm.bench.gpu import bench_gpu
    from fvlm.bench.report import write_report
    from fvlm.studies.grid import read_grid

    given = {"features": False} | given
    if options.samples:
        given["effective_batch"] = options.samples
    if options.cell:
        checked = cells = [RunConfig.from_cell(cell, **given) for cell in options.cell.split(",")]
    else:
        grid = read_grid(find_folder("params/study.yaml"), overrides=given)
        cells = [cell.config for cell in grid.cells]
        checked = [RunConfig.from_cell(cell, **given) for cell in ("T3-T_8f_fov", "S-S_8f_fov")]

    def keep(found: dict):
        if options.json:
            write_report(Path(options.json), "bench gpu", cells[0], found)

    found = bench_gpu(checked, cells, options.repeats, options.minutes, keep)
    return 1 if found["failed"] else 0


# ── features ─────────────────────────────────────────────────────────────────────────────────────


def _add_features(commands):
    help = "What frozen vision models made of clips, kept on disk for all runs: list, fill ahead, remove."
    example = "fvlm features --list\n  fvlm features --fill --cell T1-T_8f_fov --clips 2400"
    parser = _command(commands, "features", _features, help, example)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="what is kept, and how much of what may be")
    what.add_argument("--fill", action="store_true", help="compute what a run will see, before it is trained")
    what.add_argument("--clear", action="store_true", help="remove all of it")
    parser.add_argument("--cell", default="T1-T_8f_fov", help="of --fill (default: %(default)s)")
    parser.add_argument(
        "--clips", type=_at_least(1), help="of --fill: training clips (default: all that the run sees)"
    )
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="a field of RunConfig"
    )


def _features(options) -> int:
    from fvlm.data.store import clear, limit, root, stores

    if options.clear:
        print(f"removed {clear() / 1e9:.2f} GB")
        return 0
    if options.fill:
        return _fill(options)
    found = stores()
    for stored in found:
        about = ", ".join(
            f"{name} {value}" for name, value in stored.about.items() if name not in ("vision", "dtype")
        )
        print(f"{stored.folder.name}  {stored.clips:>7} clips  {stored.size / 1e9:8.2f} GB  {about}")
    used = sum(stored.size for stored in found)
    most = limit(used)
    print(f"{used / 1e9:.2f} GB of {most / 1e9:.2f} (FVLM_FEATURES_GB) in {root()}")
    if used >= most:
        print("No more is kept, runs compute what they miss: a higher FVLM_FEATURES_GB or --clear makes room")
    return 0


def _fill(options) -> int:
    from fvlm.costs.machine import require_device
    from fvlm.data.store import limit, stores
    from fvlm.models import build_model
    from fvlm.training.features import fill

    config = RunConfig.from_cell(options.cell, **_settings(options.set))
    require_device(config.device)
    if not config.freeze_vision or config.arch == "blind":
        raise ConfigError(
            f"{config.cell}: features are kept of a frozen vision model alone (freeze_vision=true)"
        )
    with FillBar() as bar:
        counts = fill(config, build_model(config), options.clips, bar)
    print("{clips} clips: {there} there already, {kept} kept now, in {folder}".format(**counts))
    if left := counts["clips"] - counts["there"] - counts["kept"]:
        used = sum(stored.size for stored in stores())
        print(
            f"{left} not kept: no room. {used / 1e9:.2f} GB of {limit(used) / 1e9:.2f} are taken; "
            f"FVLM_FEATURES_GB sets how many may be"
        )
    return 0


class FillBar(_Bar):
    """A text progress bar: clips whose features are there."""

    def __call__(self, done: int, of: int):
        if self._bar is None:
            self._open(total=of, unit="clip")
        self._bar.update(done - self._bar.n)


# ── tune ─────────────────────────────────────────────────────────────────────────────────────────


def _add_tune(commands):
    example = "fvlm tune params/micro.yaml --rates 0.00025,0.0005 --only 'T[45]-T_*'"
    parser = _command(
        commands, "tune", _tune, "Try learning rates for each size of a grid, on a held-out seed.", example
    )
    parser.add_argument("grid", metavar="FILE", help="a grid file, such as params/micro.yaml")
    parser.add_argument("--rates", help="joined by commas (default: five, doubling from 2.5e-4)")
    parser.add_argument(
        "--share", type=_between(0, 1), default=1.0, help="of the grid's steps (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="PATTERN", help="cells whose name fits, such as 'T[45]-T_*'")
    parser.add_argument("--archs", help="joined by commas, such as fov,bas,avg (default: fov,bas)")
    parser.add_argument("--jobs", type=_at_least(1), help="cells that run at once (default: as a grid's)")
    _add_publish(parser)


def _tune(options) -> int:
    from fvlm.architectures import ARCH_OF_SHORT
    from fvlm.studies.tune import RATES, TUNED, best_rates, own_rates, run_sweep, sweep

    try:
        rates = [float(rate) for rate in options.rates.split(",")] if options.rates else RATES
    except ValueError:
        raise ConfigError(
            f"--rates {options.rates}: expected numbers joined by commas, such as 0.00025,0.0005"
        ) from None
    shorts = options.archs.split(",") if options.archs else []
    if unknown := set(shorts) - set(ARCH_OF_SHORT):
        raise ConfigError(f"--archs {', '.join(unknown)}: valid are {', '.join(ARCH_OF_SHORT)}")
    archs = tuple(ARCH_OF_SHORT[short] for short in shorts) or TUNED
    grids = sweep(options.grid, rates, options.share, options.only, archs=archs, publish=options.publish)
    table, done = run_sweep(grids, options.jobs)
    if len(table):
        print(
            table.pivot(index=["steps", "pair", "arch"], columns="rate", values="loss").round(4).to_string()
        )
        print(best_rates(table).round(4).to_string(index=False))
        print(own_rates(table).round(4).to_string(index=False))
    if not done:
        print("not every run is finished; the same command goes on", file=sys.stderr)
    return 0 if done else 1


# ── mix ──────────────────────────────────────────────────────────────────────────────────────────


def _add_mix(commands):
    help = "Train on many mixtures of the same data, fit what they say, and put it to the test."
    example = (
        "fvlm mix params/mix/design.yaml\n  fvlm mix params/mix/evaluation.yaml --predict\n"
        "  fvlm mix params/mix/evaluation.yaml"
    )
    parser = _command(commands, "mix", _mix, help, example)
    parser.add_argument("design", metavar="FILE", help="a design, such as params/mix/design.yaml")
    parser.add_argument("--list", action="store_true", help="the mixtures and what has become of their runs")
    parser.add_argument(
        "--predict",
        action="store_true",
        help="of an evaluation: write down what the design's laws predict, before it is run",
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="mixtures whose folder's name fits, such as 'v25_*'"
    )
    parser.add_argument("--jobs", type=_at_least(1), help="cells that run at once (default: as a grid's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a RunConfig field for every cell"
    )
    _add_publish(parser)


def _mix(options) -> int:
    import fnmatch

    from fvlm.scaling.mix_tables import outcome_table, weights_table
    from fvlm.scaling.mixtures import predict, read_prediction
    from fvlm.studies.grid import refuse_changed
    from fvlm.studies.mix import read_design, run_design

    design = read_design(options.design, options.publish)
    if options.predict:
        if not design.design:
            raise ConfigError(f"--predict: {design.path} names no design whose laws predict")
        runs = read_design(design.design, options.publish).runs()
        seeds = len(design.grid.get("seeds", [0]))
        found = predict(runs, design.mixtures, seeds, design.folder)
        print(weights_table(found).to_string(index=False))
        print(f"Written down: {design.folder / 'prediction.json'}")
        return 0
    grids = [
        grid
        for grid in design.grids(_settings(options.set))
        if options.only is None or fnmatch.fnmatchcase(grid.study, options.only)
    ]
    if not grids:
        raise ConfigError(f"no mixture fits --only {options.only}")
    if options.list:
        print(*(f"{g.study}/{cell.name}: {cell.state()}" for g in grids for cell in g.cells), sep="\n")
        return 0
    for grid in grids:
        refuse_changed(grid, overwrite=False)
    runs, done = run_design(grids, grids[0].cells[0].folder.parent.parent, options.jobs)
    if prediction := read_prediction(design.folder):
        print(outcome_table(prediction, runs).to_string(index=False))
    print(f"{len(runs[['mixture', 'cell', 'seed']].drop_duplicates()) if len(runs) else 0} runs are kept")
    if not done:
        print("not every run is finished; the same command goes on", file=sys.stderr)
        return 1
    print("Open next: notebooks/mix.ipynb")
    return 0


# ── question ─────────────────────────────────────────────────────────────────────────────────────


def _add_question(commands):
    help = "Can a question steer the gaze? Train and score foveated models and their controls on questions."
    parser = _command(
        commands, "question", _question, help, "fvlm question\n  fvlm question --all --only 'T1-T_*'"
    )
    parser.add_argument(
        "--grid",
        metavar="FILE",
        help="another grid file whose task is question (default: params/question.yaml)",
    )
    parser.add_argument(
        "--all", action="store_true", help="two other sizes and the 16-token baseline too (27 runs)"
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="of these the runs whose name fits; the others stay as they are"
    )
    _add_publish(parser)


def _question(options) -> int:
    from fvlm.studies.grid import apart
    from fvlm.studies.question import grid, run_question
    from fvlm.training.progress import TrainingError

    runs = grid(options.grid, every=options.all, only=options.only)
    if not options.publish:
        runs = apart(runs, again=True)  # their models are needed, and published runs have none
    try:
        print(run_question(runs).round(3).to_string(index=False))
        print(f"Results: {where(runs.cells[0].folder.parent)}")
    except TrainingError as error:
        return _failed(str(error), 1)
    return 0


# ── findings, figures, notebooks ─────────────────────────────────────────────────────────────────


def _add_findings(commands):
    help = "Write outputs/FINDINGS.md and the README's answer, table and tree from the results and files."
    parser = _command(commands, "findings", _findings, help, "fvlm findings")
    parser.add_argument(
        "--predict",
        action="store_true",
        help="predict the sizes of the study of captions that have no run yet from those that have",
    )


def _findings(options) -> int:
    from datetime import date

    from fvlm.findings.page import write_findings
    from fvlm.findings.prediction import predict

    if options.predict:
        print(predict(date.today().isoformat()))
    print(*write_findings(), sep="\n")
    return 0


def _add_figures(commands):
    example = "fvlm figures --run outputs/trained/T1-T_2f_fov_seed0"
    parser = _command(commands, "figures", _figures, "Draw the README's pictures.", example)
    parser.add_argument(
        "--run",
        dest="folder",
        metavar="FOLDER",
        help="the run on questions whose gaze is drawn (default: the one that comes with the repository)",
    )


def _figures(options) -> int:
    from fvlm.findings.figures import draw_captions, draw_costs, draw_question_gaze, draw_questions

    asked = draw_question_gaze(*([options.folder] if options.folder else []))
    print(asked, *draw_captions(), *draw_questions(), draw_costs(), sep="\n")
    return 0


def _add_notebooks(commands):
    help = "Write the notebooks' generated cells, pair them with their .py, and execute them in place."
    parser = _command(commands, "notebooks", _notebooks, help, "fvlm notebooks train")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as train (default: all)")


def _notebooks(options) -> int:
    from fvlm.notebooks import renew

    print(*renew(options.names), sep="\n")
    return 0
