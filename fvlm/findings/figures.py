"""The README's pictures: one clip asked two questions, the gap at every size, what a training step costs."""

from pathlib import Path

import numpy as np

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import where
from fvlm.findings.costs import FOLDER as BENCH
from fvlm.findings.costs import scaling_report
from fvlm.training.results import Run, load_run

FOLDER = REPOSITORY / "outputs" / "figures"
GAP_TITLE = "The foveated model's loss over that of 16 tokens a frame, with 95 % intervals"
SHOWN = REPOSITORY / "outputs" / "trained" / "T1-T_2f_fov_seed0"  # the run that the first picture shows
MEASURE = "fvlm bench scaling --cell T3-T_8f_fov --json outputs/bench/scaling.json"


def draw_question_gaze(folder: str | Path = SHOWN, to: Path = FOLDER) -> Path:
    """One clip, two questions, and where the model of a run on questions looks for each. ConfigError where the
    run's model is not there."""
    from fvlm.plots.gaze import question_picture

    run = load_run(folder)
    if not run.has_model:
        raise ConfigError(f"{where(run.folder)}: its model is not there; give a run on questions that has it")
    to.mkdir(parents=True, exist_ok=True)
    picture = question_picture(*two_questions(run))
    picture.save(to / "gaze_question.png", optimize=True)
    return to / "gaze_question.png"


def two_questions(run: Run) -> tuple[list, list]:
    """The run's first validation clip that can be asked the same kind of question about another object, both
    objects in every frame and apart: the clip with each question, and the `Gaze` of each with what the model
    answers, frame by frame. Nothing that the model does decides which clip it is."""
    from fvlm.data import ShapesDataset, open_dataset
    from fvlm.gaze.attention import EncodedClip
    from fvlm.gaze.scores import other_question

    dataset = open_dataset(run.config, "validation")
    if run.config.task != "question" or not isinstance(dataset, ShapesDataset):
        raise ConfigError(
            f"{where(run.folder)}: give a run whose task is question and whose dataset is shapes"
        )
    for clip in run.validation_clips(run.config.eval_samples):
        other = other_question(dataset.world, clip)
        if other and _apart(*(clip.boxes[:, target] for target in (clip.target, other.target))):
            encoded = EncodedClip(run.model, clip, run.tokenizer, "question")
            return [clip, other], [encoded.asked(asked).gaze() for asked in (clip, other)]
    raise ConfigError(f"{where(run.folder)}: no validation clip has a second question of the same kind")


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two objects, boxes (T, 4), are both in every frame and their boxes never meet."""
    there = all((boxes[:, 2] > boxes[:, 0]).all() for boxes in (one, other))
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    return there and bool((low >= high).any(axis=1).all())


def run_again_figure():
    """The gap of the study of captions at every size along every axis, as far as it has come."""
    from fvlm.findings.captions import captions, contrasts_of, seen
    from fvlm.plots import gap_along_axes

    study = captions()
    return gap_along_axes(contrasts_of(seen(study)) if study else [], GAP_TITLE)


def draw_captions() -> list[Path]:
    """The study of captions: the gap along every axis and by what is in a clip, loss against tokens, curves.
    None where there are no runs. ConfigError if there is no kaleido."""
    from fvlm.findings.captions import captions, detail, seen
    from fvlm.plots import gap_by_detail, loss_vs_tokens, save_figures, training_curves

    study = captions()
    if study is None:
        return []
    study = seen(study)
    figures = dict(
        captions_gap=run_again_figure(),
        captions_tokens=loss_vs_tokens(study.runs),
        captions_curves=training_curves(study.evaluations, loss="loss_autoregressive"),
    )
    if found := detail(study):
        title = f"What one token a frame costs by what is in a clip, {found.pair}"
        figures["captions_detail"] = gap_by_detail(found.gaps, title)
    return save_figures(figures, FOLDER, ["png"])


def questions_figure(name: str = "questions"):
    """Right answers of every run of a study of questions on the way, as far as it has come; none before it has."""
    from fvlm.findings.questions import LEARNED, questions
    from fvlm.plots import training_curves

    study = questions(name)
    if study is None:
        return None
    return training_curves(study.evaluations, loss="right").add_hline(LEARNED, line=dict(dash="dot", width=1))


def draw_questions() -> list[Path]:
    """The studies of questions: `questions_figure` of each that has runs. ConfigError if there is no kaleido."""
    from fvlm.findings.questions import STUDIES
    from fvlm.plots import save_figures

    drawn = {f"{name}_curves": figure for name in STUDIES if (figure := questions_figure(name))}
    return save_figures(drawn, FOLDER, ["png"]) if drawn else []


def draw_costs() -> Path:
    """Time and memory against frames, LLM and batch, of outputs/bench/scaling.json. ConfigError if that is not
    there, or no kaleido."""
    from fvlm.plots import cost_scaling, save_figures

    found = scaling_report()
    if found is None:
        raise ConfigError(f"{where(BENCH)}: no scaling.json. `{MEASURE}` measures")
    (measured,) = found["measured"].values()
    (path,) = save_figures(dict(costs=cost_scaling(measured)), FOLDER, ["png"])
    return path
