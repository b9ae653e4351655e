# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Prepare data
#
# *What will the model be shown, and can it be trusted?* This notebook takes any source of captioned video, shows it,
# prepares it for training, and checks what came out.
#
# A source is a folder with `metadata.csv` or `metadata.jsonl` (`file_name`, a caption column) or with a `.txt` or `.json`
# beside each video, a table of paths, URLs or the videos themselves (WebVid's columns work unchanged), WebDataset `.tar`
# files, a Hugging Face dataset, or the built-in world `shapes`.

# %% tags=["parameters"]
# Parameters
source: str = "shapes"  # folder, table, .tar files, Hugging Face dataset id, or shapes (settings after a colon)
folder: str = "auto"  # where the prepared dataset goes; auto: outputs/data/<source>_<frames>f of this repository
frames: int = 8  # frames per clip
size: int = 112  # side of a frame in pixels; 224 for the pretrained cells
clips: int = 200  # how many good clips; the study had 5,000
caption: str = None  # caption column, where it has not a usual name; folder: the name of the folder a video is in
captions: str = "draw"  # several captions of one clip: draw one for each position of an epoch, all as clips, or the first
video: str = None  # column of the video, its path or URL, likewise
workers: int = 2  # processes that decode

# %%
from fvlm.data.prepare import settings_from_notebook

settings, folder = settings_from_notebook(globals())
settings

# %% [markdown]
# ## What is there
#
# The first clips of the source, as they will be stored. Press play. On `shapes` the boxes are the objects' true places;
# the thick one is what the question asks about.

# %% tags=["nbval-ignore-output"]
from fvlm.data.prepare import preview
from fvlm.plots.clips import clip_player

clip_player(preview(settings, 4))

# %% [markdown]
# How the first clips are read. *orientation* is what the file asks for: turned, mirrored. *read* says whether frames were
# sought by the file's index or the file was decoded from its start, which takes longer. *gap* is the longest time in
# seconds that one frame is shown: where it is long, or the rate is variable, frames are still sampled by time, so that one
# may come several times, and *different* says how many there are. A clip that can't be used has its reason under *notes*.

# %% tags=["nbval-ignore-output"]
from fvlm.data.prepare import how_read

how_read(settings, 12)

# %% [markdown]
# ## The built-in world
#
# What is drawn how often, how large it is in DINOv2's patches, and how far a guesser gets who hears the question and
# does not look. Near chance is what a benchmark for looking needs: whatever a model knows beyond it, it has seen.

# %%
from fvlm.data import ShapesWorld, card

world = ShapesWorld.parse(settings.source.partition(":")[2] if settings.source.startswith("shapes") else "", size=size)
card.attributes(world).pivot_table(index="attribute", values="share", aggfunc=["count", "min", "max"]).round(3)

# %%
card.box_sides(world).groupby("size")["patches"].describe()[["count", "min", "50%", "max"]].round(2)

# %% tags=["nbval-check-output"]
guesses = card.language_only(world)
guesses.round(3)

# %% tags=["nbval-ignore-output"]
from fvlm.plots import question_guesses

question_guesses(guesses)

# %% [markdown]
# ## Prepare
#
# What is unusable is skipped, counted and listed in the manifest. A preparation that was interrupted goes on.

# %% tags=["nbval-ignore-output"]
from fvlm.cli import PrepareBar, print_manifest
from fvlm.data.prepare import prepare, prepared_already
from fvlm.files import where

already = prepared_already(settings, folder)
with PrepareBar() as bar:
    manifest = prepare(settings, folder, workers, progress=bar)
print_manifest(manifest, where(folder), already)

# %% [markdown]
# ## Check
#
# Lengths are the median and the range. Captions longer than 128 tokens are cut by training.

# %% tags=["nbval-ignore-output"]
from fvlm.weights import load_tokenizer

card.prepared_card(folder, load_tokenizer("tiny"))

# %%
from fvlm.data.prepare import verify

verify(folder) or "every shard and every frame is as it was written"

# %% [markdown]
# ## Next
#
# Train on it, in `train.ipynb` or from a terminal:

# %% tags=["nbval-ignore-output"]
from fvlm.data.prepare import next_command

print(next_command(manifest, where(folder), notebook=True))

# %% [markdown]
# Next: [`train.ipynb`](train.ipynb) trains on it: `dataset` is the folder.
