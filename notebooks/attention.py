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
# *A foveated model reads each frame through one query. Where does that query look, does it follow the question, and
# would the answer change if it looked elsewhere?* With one query per frame, its attention is the whole visual channel.
# So these maps are no reconstruction: they are the weights inside the forward pass.
#
# The runs are those of `make question`: one to five shapes, "Which shape is red?" before the first frame; a
# foveated model, and a static control whose one query cannot be steered. Where they are not there, two quick runs stand
# in, trained here in about a minute, which have learned nothing yet. Name your own with `-p runs FOLDER,FOLDER`.

# %% tags=["parameters"]
# Parameters
runs: str = "auto"  # folders of a foveated and a static run, joined by a comma; auto: those of make question, or quick ones
clips: int = 60  # validation clips that scores are taken on
clip_number: int = 2  # which validation clip is looked at closely

# %%
from fvlm.parameters import check_parameters
from fvlm.studies.question import chosen_runs
from fvlm.tables import run_table

check_parameters(globals())
foveated, static = chosen_runs(runs)

# %% tags=["nbval-ignore-output"]
run_table([foveated, static])

# %% [markdown]
# ## What a query is
#
# After each frame the LLM emits a query. It crosses the vision model layer by layer and, at each, shares its attention
# among CLS and patches. `gaze` returns all of it: what goes to patches and what goes to CLS sum to one.

# %%
from fvlm.gaze.attention import EncodedClip

clip = foveated.validation_clips(clip_number + 1)[clip_number]
seen = EncodedClip(foveated.model, clip, foveated.tokenizer, foveated.config.task)
look = seen.gaze("autoregressive")

# %% tags=["nbval-check-output"]
print("maps (T, layers, heads, h, w)", look.maps.shape, "| queries (T, Q)", look.queries.shape)
print("patches and CLS share all attention:", bool(abs(look.maps.sum((3, 4)) + look.cls_mass - 1).max() < 1e-5))

# %% [markdown]
# ## Static and dynamic gaze on one clip
#
# Above each map its frame; the dot is the attention-weighted centre, the full white box what the question asks about.
# First the foveated model, then its static control, which sends the same query to every frame of every clip.

# %% tags=["nbval-ignore-output"]
from fvlm.plots.gaze import gaze_strip

print(clip.question, "| true:", clip.answer, "| says:", look.caption)
gaze_strip(look, clip.boxes, clip.target, "foveated")

# %% tags=["nbval-ignore-output"]
control = EncodedClip(static.model, clip, static.tokenizer, static.config.task).gaze()
print(clip.question, "| true:", clip.answer, "| says:", control.caption)
gaze_strip(control, clip.boxes, clip.target, "static control")

# %% [markdown]
# ## Does it follow the question?
#
# The same frames, asked about another object. A gaze that follows the question moves to the other box.

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.scores import another_question

other = another_question(foveated, clip)
look_again = seen.asked(other).gaze()
print(other.question, "| true:", other.answer, "| says:", look_again.caption)
gaze_strip(look_again, other.boxes, other.target, "foveated, another question")

# %% [markdown]
# ## Which layers decide?
#
# How often each head's most attended patch is on the object asked about. The scale starts at chance. Are there a few heads
# that find it, and many that look elsewhere? Then the mean map is broader than any one of them.

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.scores import gaze_scores, layer_hits, summarise
from fvlm.plots.gaze import layers_figure

scores = gaze_scores(foveated, clips) + gaze_scores(static, clips)
truth = summarise(scores)
layers_figure(layer_hits(foveated, clips), chance=truth["chance"].mean())

# %% [markdown]
# ## Does it matter?
#
# Attention need not be use. So patches are hidden from the query and the change of the answer's loss is measured: the
# most attended ones, and as many at random. If the gaze matters the first line rises above the second. Bars are the
# 5th to 95th percentile over clips.

# %% tags=["nbval-ignore-output"]
from fvlm.gaze.attention import causal_gaze
from fvlm.plots.gaze import causal_figure

asked = foveated.validation_clips(clips // 3)
causal = [row for c in asked for row in causal_gaze(foveated.model, c, foveated.tokenizer, foveated.config.task, draws=4)]
causal_figure(causal)

# %% [markdown]
# What lies under the target's box, against as many patches elsewhere, and the whole map moved by half the frame:

# %% tags=["nbval-ignore-output"]
import pandas as pd

pd.DataFrame(causal).query("what in ['target', 'elsewhere', 'shifted']").groupby("what")["change"].describe().round(3)

# %% [markdown]
# ## The truth table
#
# Scores against the boxes of `shapes`, means with bootstrap 95 % intervals over clips. *own*: the clip's question. *other*:
# another question, scored on the first one's target, which a gaze that follows the question leaves. `hit` next to
# `chance` and `centre` (a model that always looks at the middle); `mass` above 1 is a preference for the target.

# %% tags=["nbval-ignore-output"]
from fvlm.tables import gaze_table

gaze_table(truth)

# %% [markdown]
# ## Every run, every size
#
# The same of all runs whose scores are kept in `outputs/question`, those without queries too: answer loss (nats per
# token) and right answers, frame by frame, on the clips with three shapes or more.

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

explorer = Explorer([foveated, static])
explorer

# %% [markdown]
# ## Take it away
#
# A clip under its gaze as a film, or as a page with a slider that opens in any browser without a kernel.

# %% tags=["nbval-ignore-output"]
from fvlm.config import REPOSITORY
from fvlm.files import where
from fvlm.plots.gaze import save_gaze

folder = REPOSITORY / "outputs" / "exports"
for kind in ("gif", "html"):
    print(where(save_gaze(look, folder / f"gaze.{kind}", clip.boxes, clip.target, f"{clip.question} {look.caption}")))
