# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where does it look, and does it matter?
#
# *A foveated model reads each frame through one query. Where does that query look, does it follow the
# question, and would the answer change if it looked elsewhere?* These maps are the weights inside the forward
# pass: all that the LLM gets of a frame is gathered with them. But from the second layer on a patch already
# holds some of what is around it, CLS holds something of the whole frame, and the query keeps what earlier
# layers gave it. So attention on a patch is not yet use of that patch's pixels; below, patches are hidden to
# test whether what is attended to is used.
#
# The run shown is one that came with the repository, with its static control, whose one query cannot be steered: two
# frames, one to five shapes, "Which shape is red?" before the first frame (`params/trained.yaml`; only what was trained
# is kept, the frozen vision model is fetched). Pick another in the menu, such as what `make train` left, or name
# one with `-p runs FOLDER` or the variable `FVLM_RUN`. The clip is the first of its validation set.

# %% tags=["parameters"]
# Parameters
runs: str = "auto"  # folder of a run with queries, perhaps a comma and that of a static one; auto: FVLM_RUN, or the repository's
clips: int = 60  # validation clips that scores are taken on
clip_number: int = 0  # which validation clip is looked at closely

# %%
from fvlm.parameters import check_parameters
from fvlm.tables import badged, run_table
from fvlm.widgets.runs import RunPicker

check_parameters(globals())

# %% tags=["nbval-ignore-output"]
picker = RunPicker(runs)
picker

# %% tags=["nbval-ignore-output"]
run, shown = picker.run, picker.runs
badged(run_table(shown))

# %% [markdown]
# ## What a query is
#
# After each frame the LLM emits a query. It crosses the vision model layer by layer and, at each, shares its attention
# among CLS and patches. `gaze` returns all of it: what goes to patches and what goes to CLS sum to one.

# %%
from fvlm.gaze.attention import EncodedClip

clip = run.validation_clips(clip_number + 1)[clip_number]
seen = EncodedClip(run.model, clip, run.tokenizer, run.config.task)
look = seen.gaze("autoregressive")

# %% tags=["nbval-check-output"]
print("patches and CLS share all attention:", bool(abs(look.maps.sum((3, 4)) + look.cls_mass - 1).max() < 1e-5))

# %% tags=["nbval-ignore-output"]
print("maps (T, layers, heads, h, w)", look.maps.shape, "| queries (T, Q)", look.queries.shape)

# %% [markdown]
# ## Static and dynamic gaze on one clip
#
# Above each map its frame; the dot is the attention-weighted centre, the full white box what the question asks about.
# First the run, then its static control if it has one, which sends the same query to every frame of every clip.

# %% tags=["nbval-ignore-output"]
from fvlm.plots import run_strip

for each in shown:
    run_strip(each, clip).show()

# %% [markdown]
# ## Does it follow the question?
#
# The same frames, asked about another object: the clip above, or the next one that has another to ask about. A gaze
# that follows the question moves to the other box. (A run on captions is asked nothing.)

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.scores import asked_twice

for asked in asked_twice(run, start=clip_number):
    run_strip(run, asked).show()

# %% [markdown]
# ## Which layers decide?
#
# How often each head's most attended patch is on the object asked about, or, of a run on captions, on one chosen at random.
# The scale starts at chance. Are there a few heads that find it, and many that look elsewhere? Then the mean map is broader
# than any one of them.

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.scores import gaze_scores, layer_hits, summarise
from fvlm.plots import with_badge
from fvlm.plots.gaze import layers_figure

truth = summarise([row for each in shown for row in gaze_scores(each, clips)])
with_badge(layers_figure(layer_hits(run, clips), chance=truth["chance"].iloc[0]), run)

# %% [markdown]
# ## Does it matter?
#
# Attention need not be use. So patches are hidden from the query and the change of the answer's loss is
# measured: the most attended ones, and as many at random. If the gaze matters the first line rises above the
# second. Patches are hidden after the vision model has read the frame, so CLS and the other patches still
# know something of them. Bars are the 5th to 95th percentile over clips.

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.attention import causal_gaze
from fvlm.plots.gaze import causal_figure

asked = run.validation_clips(max(clips // 3, 1))
causal = [row for c in asked for row in causal_gaze(run.model, c, run.tokenizer, run.config.task, draws=4)]
with_badge(causal_figure(causal), run)

# %% [markdown]
# What lies under the target's box, against as many patches elsewhere, the mean of several draws, and the features of
# all patches shifted by half the frame in every layer (which from the second layer on shifts the attention too):

# %% tags=["nbval-ignore-output"]
import pandas as pd

parts = pd.DataFrame(causal).query("what in ['target', 'elsewhere', 'shifted']")
parts.groupby(["what", "clip_id"])["change"].mean().groupby("what").describe().round(3)

# %% [markdown]
# ## The truth table
#
# Scores against the boxes of `shapes`, means with bootstrap 95 % intervals over clips. *own*: the clip's
# question. *other*: a question about another object, scored on the first one's box, which a gaze that follows the
# question leaves. Not every clip has another object to ask about: compare *other* with *own, same clips*, the
# clip's question on those alone. For a static query the two are equal, as it cannot follow a question. `hit`
# next to `chance` and `centre` (a model that always looks at the middle); `mass` above 1 is a preference for
# the target; `lag`: frames between the target's first appearance and the gaze's first hit.

# %% tags=["nbval-ignore-output"]
from fvlm.tables import gaze_table

gaze_table(truth)

# %% [markdown]
# ## Every run, every size
#
# How often the most attended patch is on the shape that is asked about, and on that shape while another is asked about, of the
# study that was run with rates of its own for each size (`params/questions.yaml`), with intervals over seeds and clips:

# %% tags=["nbval-check-output"]
from fvlm.findings.questions import steered_again

steered_again()

# %% [markdown]
# The runs of before, 600 steps with the old input scale (`outputs/question`), those without queries too: answer loss (nats
# per token) and right answers, frame by frame, on the clips with three shapes or more, and the gaze. These are other runs than
# those that come with the repository, also where a name is the same. How few the baseline has right is where 600 steps left
# it, not where it ends: with the mended input scale it learns the question too, later (`outputs/FINDINGS.md`).

# %% tags=["nbval-check-output"]
from fvlm.studies.question import results

results()[["run", "loss", "right", "hit", "hit_other", "chance"]].round(3)

# %% [markdown]
# ## Look for yourself
#
# Pick a clip, press play or use the arrow keys, choose a layer, drag over patches to hide them and see what it says then
# and where it looks instead. The tabs: two questions and the difference between their maps, runs side by side, every head
# with how often it finds the target. Without a kernel a picture stands here.

# %% tags=["nbval-ignore-output"]
from fvlm.widgets.gaze import Explorer

explorer = Explorer(shown)
explorer

# %% [markdown]
# ## Take it away
#
# A clip under its gaze as a film, or as a page with a slider that opens in any browser without a kernel.

# %% tags=["nbval-ignore-output"]
from fvlm.config import REPOSITORY
from fvlm.files import where
from fvlm.plots.gaze import gaze_title, save_gaze

folder = REPOSITORY / "outputs" / "exports"
title = gaze_title(seen.question, look.caption, clip.clip_id, run.folder.name)
for kind in ("gif", "html"):
    print(where(save_gaze(look, folder / f"gaze.{kind}", clip.boxes, clip.target, title)))

# %% [markdown]
# Next: [`model.ipynb`](model.ipynb) takes this model apart, [`stream.ipynb`](stream.ipynb) lets one watch a film,
# [`scaling.ipynb`](scaling.ipynb) asks what the one token a frame costs; [`train.ipynb`](train.ipynb) trains a run of your own.
