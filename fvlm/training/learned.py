"""Has a run learned anything from what it sees? Beside what can be said without looking."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.files import where
from fvlm.training.results import Run, is_stand_in, load_run

if TYPE_CHECKING:
    import numpy as np

FIT = 4_000  # questions of training clips that the guesser is fitted on
NOTHING = "has learned nothing"  # what the badge says
BADGE_COLOUR = "#c1121f"
SAME = ("task", "frames", "llm", "scale_input", "eval_samples")  # of a run and of its blind control


@dataclass(frozen=True)
class Verdict:
    """Whether a run is better than what can be said without looking; None where nothing is there to compare
    it with. why: the numbers, in a sentence."""

    learned: bool | None
    why: str

    @property
    def badge(self) -> str:
        """NOTHING for a run that has learned nothing, else ""."""
        return NOTHING if self.learned is False else ""


def learned(run: Run) -> bool | None:
    """True if a run's last loss, frame by frame, is under what can be said without looking; None if there is
    nothing to compare it with. See `verdict`."""
    return verdict(run).learned


def verdict(run: Run) -> Verdict:
    """A run beside what can be said without looking, clip by clip on its validation clips.

    Asked about the built-in world it is compared with a guesser that reads the question alone
    (`fvlm.data.card.answer_odds`); otherwise with the best blind run of the same task, clips and LLM that is
    there, of its own study first. It has learned something if the upper end of the 95 % interval of the
    difference is under zero. A blind run itself, and one that was not evaluated yet, are compared with
    nothing; a notebook's stand-in that can be compared with nothing is too short to have learned."""
    if run.config.arch == "blind":
        return Verdict(None, "it is a control that sees nothing")
    try:
        samples = run.samples.set_index("clip_id")
    except ConfigError:
        return Verdict(None, "it was not evaluated yet")
    own = samples["loss_autoregressive"]
    if run.config.task == "question" and run.config.dataset.partition(":")[0] == "shapes":
        name, other = "the question alone", _guesser_losses(run.config, samples["text_tokens"].to_dict())
    else:
        name, other = _blind_losses(run)
    together = [clip for clip in own.index if clip in other]
    if len(together) < 2 and is_stand_in(run.folder):
        clips = run.config.steps * run.config.effective_batch
        return Verdict(False, f"a stand-in, trained on {clips} clips so that there is something to run")
    if len(together) < 2:
        return Verdict(None, "no blind run of the same clips is there to compare it with")
    losses = own.loc[together].to_numpy(float)
    tokens = samples.loc[together, "text_tokens"].to_numpy(float)
    return _judged(losses, losses - [other[clip] for clip in together], tokens, name)


def yardstick(run: Run, dataset: str | None = None) -> str:
    """What says if a run's loss is good, in a line to stand beside it: what can be said without looking, at
    its last evaluation. dataset: on which it was measured, its own by default; of others nothing is known."""
    if dataset and dataset != run.config.dataset:
        return "no yardstick: not the dataset it was evaluated on"
    found = verdict(run)
    if found.learned is None:
        return f"no yardstick: {found.why}"
    return f"{'better' if found.learned else 'no better'} than without looking: {found.why}"


def _judged(losses: "np.ndarray", difference: "np.ndarray", tokens: "np.ndarray", name: str) -> Verdict:
    """From clips' losses and how far those are from what they are compared with: means over text tokens, as a
    run's own loss is."""
    weights = tokens / tokens.mean()
    loss, mean = float((weights * losses).mean()), float((weights * difference).mean())
    half = 1.96 * float((weights * (difference - mean)).std(ddof=1)) / math.sqrt(len(difference))
    why = (
        f"{loss:.3f} nats a token where {name} gives {loss - mean:.3f} "
        f"({len(difference)} clips, difference {mean:+.3f} ± {half:.3f})"
    )
    return Verdict(mean + half < 0, why)


def _guesser_losses(config: RunConfig, tokens: dict[str, int]) -> dict[str, float]:
    """Nats per text token, by clip, of who answers the validation clips' questions without their frames.
    tokens: how many text tokens each clip's answer has."""
    from fvlm.data import open_dataset

    dataset, losses = open_dataset(config, "validation"), {}
    odds = _guesser(config.dataset, config.frames, config.image_size)
    for item in range(len(tokens)):
        clip = dataset.told(item)
        if clip.clip_id in tokens:
            found = odds(clip.question or "").get(clip.answer or "", -math.log(FIT))  # never seen: rare
            losses[clip.clip_id] = -found / tokens[clip.clip_id]
    return losses


@functools.lru_cache(maxsize=8)
def _guesser(dataset: str, frames: int, size: int):
    from fvlm.data import open_dataset
    from fvlm.data.card import answer_odds

    vision = "tiny" if size == 112 else "small"
    config = RunConfig(llm="tiny1", vision=vision, frames=frames, dataset=dataset, device="cpu")
    clips = open_dataset(config, "train")
    told = [clips.told(item) for item in range(FIT)]
    return answer_odds([(clip.question or "", clip.answer or "") for clip in told])


def _blind_losses(run: Run) -> tuple[str, dict[str, float]]:
    """The best blind control of a run, named, and its losses by clip; none, if none is there."""
    clips, best = set(run.samples["clip_id"]), (math.inf, "", {})
    for folder in (run.folder.parent, *_studies(run.folder.parent.parent), *_studies(REPOSITORY / "outputs")):
        for control in _blind_runs(folder, run.config):
            losses = control.samples.set_index("clip_id")["loss_autoregressive"]
            mean = float(losses.to_numpy().mean())
            if not clips.isdisjoint(losses.index) and mean < best[0]:
                best = mean, f"the blind control {where(control.folder)}", losses.to_dict()
        if best[1]:
            break
    return best[1:]


def _studies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _blind_runs(study: Path, config: RunConfig) -> list[Run]:
    """The finished blind runs of a study's folder that were given what a run of this configuration was."""
    found = []
    for path in sorted(study.glob("*_bli_seed*/config.json")):
        try:
            control = load_run(path.parent)
            same = all(getattr(control.config, name) == getattr(config, name) for name in SAME)
            if same and _world(control.config) == _world(config) and control.evaluated:
                found.append(control)
        except ConfigError:
            continue
    return found


def _world(config: RunConfig) -> str:
    """What decides a dataset's validation clips."""
    from fvlm.data import open_dataset

    return getattr(open_dataset(config, "validation"), "fingerprint", config.dataset)
