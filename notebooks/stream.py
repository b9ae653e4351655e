# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does it see while it watches?
#
# *One token a frame is one small LLM step a frame: a model can watch for as long as a video lasts, look where it decides
# to, speak at any moment, and be asked something else meanwhile.* `model.stream()` is the autoregressive mode without a
# known end. With a window, time and memory per frame have a bound.
#
# The run is what `make train` leaves: some minutes of training on 3,000 drawn clips. It knows coloured shapes and nothing
# else. So on the film of shapes below its words are measured against the truth; on a real video, expect the gaze to move
# and the words to be wrong. Before `make train` it is a stand-in of 160 clips, which has learned nothing: then all its words
# are guesses, and the menu says so in red. Pick another run in the menu, or name one with `-p run FOLDER` or `FVLM_RUN`, and
# your own video with `-p video FILE`.

# %% tags=["parameters"]
# Parameters
run: str = "auto"  # folder of a run with queries; auto: FVLM_RUN, or what make train leaves, or a quick one that has learned nothing
video: str = "auto"  # a video file; auto: ten seconds of people on bicycles, fetched once
minutes: float = 3.0  # how long the film of shapes is

# %% tags=["nbval-ignore-output"]
from fvlm.parameters import check_parameters
from fvlm.watching import run_to_show
from fvlm.widgets.runs import RunPicker

check_parameters(globals())
picker = RunPicker(run, first=run_to_show(run))
picker

# %% tags=["nbval-ignore-output"]
from fvlm.ask import expectation

shown = picker.run
print(*expectation(shown, asked=False), sep="\n")

# %% [markdown]
# ## A real video
#
# Four frames a second, in the order they come. The model says something every two seconds. Press play: the light is the
# attention of the one query that read the frame, the line its centre over the last frames. No kernel is needed.

# %% tags=["nbval-ignore-output"]
from fvlm.data.live import live_frames
from fvlm.plots.watching import stream_player
from fvlm.watching import lines_of, video_to_show, watch

session = shown.model.stream(window=64)
glimpses = list(watch(session, live_frames(video_to_show(video), rate=4), every=2))
stream_player(glimpses, "described while it plays")

# %% tags=["nbval-ignore-output"]
print(*lines_of(glimpses), f"{session.seen} frames seen, {session.memory / 1e6:.2f} MB kept of them", sep="\n")

# %% [markdown]
# ## A film of known truth
#
# Validation clips of the built-in world, one after the other, as one video of several minutes: four seconds each, cut
# hard. The session does not know where a clip ends; with a window of eight frames it forgets the last one while it looks
# at the next. At the end of each it is asked what it sees.

# %% tags=["nbval-ignore-output"]
from fvlm.config import REPOSITORY
from fvlm.data.film import write_film
from fvlm.watching import captions_right, streamed_beside_alone, streamed_captions

film = REPOSITORY / "outputs" / "exports" / "shapes.mp4"
shots = write_film(shown.validation_clips(round(60 * minutes / 4)), film, rate=2)
captions = streamed_captions(shown, film, shots, window=8, rate=2)
captions.head(4)[["start", "end", "streamed", "true"]].style.format(precision=0).hide(axis="index")

# %% [markdown]
# How many of the objects' colours, shapes, sizes and ways to go it tells right, with 95 % intervals over clips. *alone*: the
# same model on each clip by itself, as it was trained. *beside another shot*: the same words held against the wrong clip,
# which is what knowing the world without looking gives.

# %% tags=["nbval-ignore-output"]
captions_right(captions).style.format(precision=3).hide(axis="index")

# %% [markdown]
# Is watching worse than being shown? Two intervals that overlap do not tell; the differences on the same
# shots may. It is one run: another seed may differ by more.

# %% tags=["nbval-ignore-output"]
print(streamed_beside_alone(captions))

# %% [markdown]
# ## Asked something else while it plays
#
# A question stands before the frames, so it steers every look from then on. Here the same ten seconds of the film are
# watched twice, and the second time a question comes after four. Below, how far the attention map then is from the
# one without a question (half the sum of differences: 0 the same, 1 nowhere alike). Whether it moves to what was asked
# about is another matter: this run was never trained on questions; those of `fvlm question` were, and `attention.ipynb`
# measures it.

# %% tags=["nbval-ignore-output"]
from fvlm.watching import moved_by

question = "Which shape is red?"
moved_by(shown, film, question, after=4.0, until=10.0, rate=2).style.format(precision=3).hide(axis="index")

# %% [markdown]
# ## Frames a second, and memory
#
# One token a frame, against the frames it has seen: without a window the cache grows by one token a frame. With one it
# grows until the window is full, which then lets go of its older half: *kept* and *kilobytes* are the most that were held
# since the row before. (`fvlm bench stream` puts it beside models of 16, 64 and 81 tokens a frame.)

# %% tags=["nbval-ignore-output"]
from fvlm.watching import pace

pace(shown, film, windows=(None, 64)).style.format(precision=1).hide(axis="index")

# %% [markdown]
# ## Watch for yourself
#
# Press play and type a question while it runs: the gaze and the words change from the next frame on. Boxes are the truth.
# Without a kernel a picture of the first frames stands here.

# %% tags=["nbval-ignore-output"]
from fvlm.widgets.stream import Watcher

watcher = Watcher(shown, film, window=8, shots=shots)
[watcher.step() for _ in range(7)]
watcher

# %% [markdown]
# Next: [`attention.ipynb`](attention.ipynb) looks at one clip closely, [`train.ipynb`](train.ipynb) trains a run of your own.
