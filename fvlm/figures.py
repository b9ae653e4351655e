"""The README's figure: `python -m fvlm.figures` draws it from the run that `make train` leaves."""

from fvlm.attention import gaze
from fvlm.config import REPOSITORY, RunConfig
from fvlm.gaze_plots import gaze_picture
from fvlm.results import load_run

PICTURE = REPOSITORY / "outputs" / "figures" / "gaze.png"


def draw(clip_number: int = 1):
    run = load_run(RunConfig.from_cell("T-T_8f_fov").folder)
    clip = run.validation_clips(clip_number + 1)[clip_number]
    picture = gaze_picture(gaze(run.model, clip), clip.boxes, scale=1)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.save(PICTURE, optimize=True)


if __name__ == "__main__":
    draw()
    print(PICTURE)
