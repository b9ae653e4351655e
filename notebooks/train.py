# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train one cell
#
# *How much quality does a video language model keep when it spends one visual token per frame, and decides with
# each token where to look next?* One run of this notebook is one cell of the grid that answers it.
#
# As stored, it trains a small cell on the built-in world, minutes on a CPU. Every other cell is a parameter away:
# `papermill train.ipynb out/S-S_8f_fov.ipynb -p llm 135m`.

# %% tags=["parameters"]
# Parameters
# what is changed first
llm: str = "auto"  # tiny (tiny1-tiny5), 135m, 360m, 1.7b, a hub id or a local folder; auto: 135m with a GPU, else tiny
frames: int = 8  # frames per clip
arch: str = "foveated"  # foveated, baseline or a control: the names in fvlm/architectures.py
dataset: str = "shapes"  # shapes (settings after a colon), the folder of a prepared dataset, a mixture such as a:0.7,b:0.3, or a mix's file
steps: int = "auto"  # optimizer steps; auto: 280, 375 for a tiny LLM
seed: int = 0  # decides weights, data order, everything
# the model
vision: str = "auto"  # tiny, small, base, a hub id or a local folder; auto: tiny with a tiny LLM, else small
vision_layers: int = "auto"  # first layers of the vision model that are used; auto: 4 with tiny, else all
fine_passes: int = 1  # fine passes after the coarse one
query_init_scale: float = "auto"  # how far an LLM state moves a query at the start, in query norms; auto: 1 for questions, else 0.1
scale_input: bool = "auto"  # multiply what the LLM reads by the root of its width; auto: for a tiny LLM, else not
read_attended: bool = "auto"  # a query also brings back what the last vision layer's attention falls on; auto: for a tiny LLM, else not
read_final: bool = False  # with read_attended: that as the last vision layer leaves it, not as it enters there
freeze_vision: bool = "auto"  # do not train the vision model; auto: only when the LLM is tiny
freeze_llm: bool = False  # do not train the LLM
# what it learns from, and how it is evaluated
task: str = "caption"  # caption or question
allow_epochs: bool = False  # allow more than one pass over the training clips
effective_batch: int = "auto"  # samples per optimizer step, whatever fits in memory; auto: 16, 8 for a tiny LLM
eval_every: int = "auto"  # steps between evaluations; auto: 14 (20 evaluations), 125 for a tiny LLM
eval_samples: int = "auto"  # validation samples per evaluation; auto: 500 with a GPU, else 100 (64 for a tiny LLM)
# the optimizer
learning_rate: float = "auto"  # AdamW rate of the LLM and the vision model; auto: 3e-5, 5e-4 for a tiny LLM
connector_learning_rate: float = "auto"  # AdamW rate of all that is neither; auto: the same as learning_rate
warmup: int = "auto"  # steps of linear warm-up; auto: 50, 40 for a tiny LLM
schedule: str = "auto"  # constant, wsd (in the end a decay to zero) or cosine; auto: constant, wsd for a tiny LLM
decay: float = 0.3  # share of the steps, at the end, over which wsd decays
weight_decay: float = "auto"  # AdamW weight decay of matrices; auto: 0.01
max_grad_norm: float = 1.0  # gradient norm above which gradients are scaled down
# the machine: none of these changes a result by more than rounding
micro_batch: int = "auto"  # samples per forward pass; auto: the largest that fits, found by trying
gradient_checkpointing: bool = "auto"  # recompute activations, do not keep them; auto: only if one sample does not fit otherwise
precision: str = "auto"  # fp32, bf16 (mixed) or bf16_vision (a frozen vision model alone); auto: bf16 where the machine is faster in it
features: bool = True  # keep what a frozen vision model makes of clips for all runs, in a store on disk (fvlm features)
compile: bool = False  # torch.compile the two backbones
processes: int = 1  # processes that share each step, one GPU each; the effective batch stays the same
fsdp: bool = False  # with several processes, shard weights, gradients and moments over them too (FSDP)
device: str = "auto"  # cpu, cuda or cuda:N; auto: a GPU if there is one
# where results go
out: str = "auto"  # where results go; auto: outputs/ of this repository, whatever the working directory
study: str = "runs"  # folder inside out that keeps runs which belong together
overwrite: bool = False  # replace results that another configuration left in the same folder

# %%
from fvlm.parameters import run_config
from fvlm.training.launch import with_own_name

config = with_own_name(run_config(globals()))
config.cell

# %% [markdown]
# ## What will run

# %% tags=["nbval-ignore-output"]
from fvlm.tables import plan

plan(config)

# %% [markdown]
# ## Training
#
# The curve redraws itself as training goes on. A tiny cell goes through three phases: it learns the grammar, stays
# for a while at what can be said without looking, then begins to see. If this cell was trained before with the same
# parameters, its results are read instead; with others it is a run of its own. Stop it with the button or with
# Kernel ▸ Interrupt: run the cell again, and it goes on from there.

# %% tags=["nbval-ignore-output"]
from fvlm.widgets.live import train_live

run = await train_live(config)

# %% [markdown]
# ## Results
#
# Of the run above, or of any other in the menu. Losses are nats per text token on validation clips. *parallel* is how the model was trained: all frames at once, each
# query from the coarse pass. *autoregressive* is how it is used: frame by frame. *static* sends one learned
# query to every frame.

# %% tags=["nbval-ignore-output"]
from fvlm.widgets.runs import RunPicker

picker = RunPicker(run.folder, queries=False)
picker

# %% tags=["nbval-ignore-output"]
from fvlm.tables import results_table

run = picker.run
results_table(run)

# %% tags=["nbval-ignore-output"]
from fvlm.plots import training_curve, with_badge

with_badge(training_curve(run.evaluations, title=f"{run.config.cell}, seed {run.config.seed}"), run)

# %% [markdown]
# What it says of four validation clips, beside what is there:

# %% tags=["nbval-ignore-output"]
from fvlm.tables import predictions

clips = run.validation_clips(4)
predictions(run, clips).style.format(escape="html").set_properties(**{"white-space": "pre-wrap", "text-align": "left"})

# %% [markdown]
# ## Where it looks
#
# Brightness is the attention that the query paid to each patch, the mean over all layers and heads; the dot
# is its centre. Boxes are the objects of the scene. These are the weights inside the forward pass; whether
# what they fall on is used is tested in [`attention.ipynb`](attention.ipynb), by hiding patches.

# %% tags=["nbval-ignore-output"]
from fvlm.plots import show_gaze

show_gaze(run, clips[0])

# %% [markdown]
# ## Next
#
# - [`attention.ipynb`](attention.ipynb): where does it look, and does it matter? Choose this run in its menu, the newest
#   is first.
# - [`model.ipynb`](model.ipynb) walks through a run's model, from pixels to loss; the same menu.
# - [`scaling.ipynb`](scaling.ipynb): what one token a frame costs, over sizes; [`stream.ipynb`](stream.ipynb): it watches
#   a film; [`data_prep.ipynb`](data_prep.ipynb): your own videos as training data.
# - To train this very cell again or on another machine:

# %% tags=["nbval-ignore-output"]
from fvlm.files import where
from fvlm.parameters import command

print(command(run.config))
print(f"results: {where(run.folder)}")
