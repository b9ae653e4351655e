"""The README's pictures: `fvlm figures` draws one from the run that `make train` leaves, one from
outputs/micro."""

from pathlib import Path

from fvlm.config import REPOSITORY, RunConfig
from fvlm.training.results import load_run

FOLDER = REPOSITORY / "outputs" / "figures"


def draw_gaze(clip_number: int = 1) -> Path:
    """A clip and where the smallest foveated model looks. ConfigError if that run is not there."""
    from fvlm.gaze.attention import gaze
    from fvlm.plots.gaze import gaze_picture

    run = load_run(RunConfig.from_cell("T-T_8f_fov").folder)
    clip = run.validation_clips(clip_number + 1)[clip_number]
    picture = gaze_picture(gaze(run.model, clip), clip.boxes, scale=1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture.save(FOLDER / "gaze.png", optimize=True)
    return FOLDER / "gaze.png"


def draw_gap() -> Path:
    """The gap at every size of outputs/micro, with its trend. ConfigError if there is no such study, or no
    kaleido."""
    from fvlm.plots import gap_vs_scale, save_figures
    from fvlm.scaling import all_gaps, open_results

    micro = open_results(str(REPOSITORY / "outputs" / "micro"), unfinished=False)
    (path,) = save_figures(dict(gap=gap_vs_scale(micro.runs, all_gaps(micro))), FOLDER, ["png"])
    return path
