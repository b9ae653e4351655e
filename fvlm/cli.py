"""The command line. A user's mistake ends with exit status 2 and one message; no traceback."""

import argparse
import sys

from fvlm.config import ConfigError, RunConfig


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fvlm", description="Foveated video language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_bench(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _command(commands, name, run, help, example):
    parser = commands.add_parser(
        name, help=help, description=help, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _settings(pairs: list[str]) -> dict:
    """`["steps=20"]` to `{"steps": "20"}`; RunConfig knows the types."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--set {pair}: expected name=value, such as --set steps=20")
    return dict(pair.split("=", 1) for pair in pairs)


# ── train ────────────────────────────────────────────────────────────────────────────────────────


def _add_train(commands):
    example = "python -m fvlm train --cell T-T_8f_fov --set steps=20 --set seed=1"
    parser = _command(commands, "train", _train, "Train one grid cell, or go on with one.", example)
    parser.add_argument(
        "--cell", default="T-T_8f_fov", help="pair, frames and architecture, such as S-S_8f_fov (default: %(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other field of RunConfig; repeatable")


def _train(options) -> int:
    from fvlm.training import TrainingError, train

    config = RunConfig.from_cell(options.cell, **_settings(options.set))
    print(f"{config.cell}, seed {config.seed}: {config.steps} steps x {config.effective_batch} samples on {config.device}")
    with ProgressBar(config) as bar:
        try:
            run = train(config, on_progress=bar)
        except TrainingError as error:
            bar.close()
            print(f"error: {error}", file=sys.stderr)
            return 1
    last = run.evaluations.iloc[-1]
    print(f"validation loss {last.loss_parallel:.3f} nats per token (frame by frame: {last.loss_autoregressive:.3f})")
    clips = run.validation_clips(2)
    for clip, text in zip(clips, run.write(clips)):
        print(f"\n  is:   {clip.caption if config.task == 'caption' else f'{clip.question} {clip.answer}'}\n  says: {text}")
    print(f"\nResults: {run.folder}")
    print("Open next: .venv/bin/jupyter lab notebooks/train.ipynb   (it finds this run and shows its curve, captions and gaze)")
    return 0


class ProgressBar:
    """A text progress bar: loss, samples per second, time left."""

    def __init__(self, config: RunConfig):
        from tqdm import tqdm

        self._bar = tqdm(total=config.steps, unit="step", mininterval=0.5 if sys.stderr.isatty() else 10)

    def __call__(self, progress):
        postfix = {"loss": f"{progress.loss:.3f}", "samples/s": f"{progress.samples_per_second:.1f}"}
        if progress.evaluations:
            postfix["val"] = f"{progress.evaluations[-1]['loss_parallel']:.3f}"
        self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def close(self):
        self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


# ── bench ────────────────────────────────────────────────────────────────────────────────────────


def _add_bench(commands):
    parser = _command(
        commands, "bench", _bench, "Measure this machine.", "python -m fvlm bench train --cell S-S_8f_fov --samples 4"
    )
    parser.add_argument("what", choices=["train"], help="train: a training step against the machine's own matrix product")
    parser.add_argument("--cell", default="S-S_8f_fov", help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="clips per step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")


def _bench(options) -> int:
    from fvlm.bench import bench_train

    bench_train(RunConfig.from_cell(options.cell), options.samples, options.repeats)
    return 0
