# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What do 16 times fewer visual tokens cost, and does it shrink with scale?
#
# *One visual token per frame, aimed by a query, against 16 that are not. How much higher is the loss, at which size, and
# how sure is that?* This notebook reads any study of this repository, finished or still running, and the ten
# published cells of nanoSmol, which travel with the package.

# %% tags=["parameters"]
# Parameters
studies: str = "auto"  # folders of studies, or nanosmol, joined by commas; auto: nanosmol, and micro, study, study_cpu of outputs/ if there
losses_of: str = "auto"  # the one study whose losses are drawn; auto: micro if it is there, or else nanoSmol
target: str = "B-L_8f_fov"  # the cell that is predicted before it is run

# %%
from fvlm.parameters import check_parameters
from fvlm.plots import all_figures
from fvlm.scaling import all_gaps, open_results, read_gaze_scores, tables

check_parameters(globals())
results = open_results(studies)
gaps = all_gaps(results)
draw, draw_nanosmol = all_figures(results, gaps), all_figures(open_results("nanosmol"))
draw_one = all_figures(results.of(losses_of), truth=read_gaze_scores(studies))

# %% tags=["nbval-ignore-output"]
tables.runs_there(results)

# %% [markdown]
# ## The answer first
#
# *Run again* with 24,000 clips a run and the input scale that was mended on 2026-11-25 (`params/captions.yaml`), as far as that
# has come: the foveated model's loss over the baseline's, at equal clips (at the end) and at equal compute (while the
# learning rate is full), and how many times the baseline's clips it needs for the same loss.

# %% tags=["nbval-check-output"]
from fvlm.findings.captions import run_again

run_again()

# %% tags=["nbval-ignore-output"]
from fvlm.findings.figures import run_again_figure

run_again_figure()

# %% [markdown]
# Asked about one of several shapes (`params/questions.yaml`), how soon is each architecture right, and where does it end? The
# foveated model beside each other: points right at the end, and how many times the clips and FLOPs it needs until 80 % are right.

# %% tags=["nbval-check-output"]
from fvlm.findings import questions

questions.run_again()

# %% [markdown]
# Every run on its way, a dotted line at 80 %. The rate is constant, so each evaluation is a valid end.

# %% tags=["nbval-ignore-output"]
from fvlm.findings.figures import questions_figure

questions_figure()

# %% [markdown]
# All runs called `micro` below are older: short, with the scale that has been mended since and with other settings, so that LLMs
# from scratch had learned less than they can (`outputs/FINDINGS.md`, *Withdrawn*). Their figures can't be compared with these.
#
# The gap is how much more loss the foveated model has than the baseline of the same cell, in percent, frame by
# frame, on the same validation clips and seeds. Studies of this repository have samples and seeds, so each gap has a
# hierarchical bootstrap 95 % interval. *Per tenfold* is the trend, in points per tenfold parameters: above zero the cost
# grows with size, below it shrinks; it needs three sizes. `outputs/FINDINGS.md` says the same in words.
# `fvlm grid params/micro.yaml --study mine` makes such a study on a CPU; with `studies = "outputs/mine"` its
# results show here while it runs.

# %% tags=["nbval-check-output"]
tables.answer(gaps)

# %% [markdown]
# nanoSmol published no samples and one seed. Its gaps are the hollow points: where they are is known, how far
# another seed would move them is not.

# %% tags=["nbval-ignore-output"]
draw["gap_vs_scale"]()

# %% [markdown]
# `study_cpu` is the smallest pretrained pair, trained for two hours on a CPU. Does each model use its frames, and how
# much beside the other? A gap is a cost only between models that do, so their frames were swapped for another clip's
# (`fvlm swap`; nats per text token, frame by frame). Where that changes nothing, the gap says how quickly a text is learnt,
# not what 16 tokens hold; where it changes little, the gap may still grow with training. What it is at the study's own
# budget takes a GPU (`params/study.yaml`).

# %% tags=["nbval-check-output"]
tables.shown(tables.swapped(studies))

# %% [markdown]
# ## nanoSmol, replayed
#
# It reported that a correction for parameters (the baseline is larger) brings the gap from +2.81 to +2.44 % at 135M and
# from +2.37 to +1.60 % at 360M, "at 64 frames": the cost shrinks with scale. From its own ten rows:

# %% tags=["nbval-check-output"]
tables.shown(tables.replayed_correction())

# %% [markdown]
# The four published numbers are those of the **8-frame** rows, with linear interpolation (2.45 and 1.59 from losses rounded
# to three digits). The 64-frame rows say the opposite: the corrected gap *grows* with the LLM, from 2.6 to 3.2 % in parallel
# and from 2.7 to 3.8 % frame by frame, which is how the model is used. Each of these corrections reads one of two curves
# outside its two points.
#
# What can be concluded: with one seed and 50 validation clips, neither the fall at 8 frames nor the rise at 64. No interval
# can be drawn, because the loss of single clips was not published; both changes are about one percent of the loss. To know,
# it takes the same cells with several seeds and the loss of each of several hundred shared clips, as every run here keeps.

# %% [markdown]
# ### "LLM size matters more than DINO size"

# %% tags=["nbval-check-output"]
tables.shown(tables.size_claims())

# %% [markdown]
# A larger LLM lowered the loss by 5 to 7 % in four comparisons of four; a larger DINOv2 raised it a little in the two there are,
# both at 8 frames. The direction is consistent. But the LLM grew by three times as many parameters and more, the base DINOv2 has
# no run at 64 frames, and 4,480 samples may be too few to use a better vision encoder. It holds for this budget; it is no law.

# %% [markdown]
# ### "Train/inference gap below 0.6 %"

# %% tags=["nbval-check-output"]
tables.shown(tables.inference_claim())

# %% [markdown]
# True of all five cells, and the mean hides the one that matters: at 64 frames the larger LLM has eight times the
# gap of the smaller. With two sizes and one seed nobody can say whether that is a trend, but it is the wrong direction for
# the claim that training in parallel is safe at scale.

# %% [markdown]
# ### "64 frames are worse than 8"

# %% tags=["nbval-check-output"]
tables.shown(tables.frames_claim())

# %% [markdown]
# True of all four, foveated or not. More frames cannot hold less information, so this is about training: 280 steps, and
# a caption that eight frames already answer. The foveated model loses more from it at 360M than the baseline does.

# %% [markdown]
# ## What is a FLOP?
#
# nanoSmol reported 1.1 to 3 times fewer FLOPs. Its convention: three times a fixed cost per frame for the encoder,
# three times 6N per token for the LLM, although 6N already is a forward and a backward pass. `fvlm.costs.flops` counts every
# matrix product (a multiply-accumulate is 2) and is checked against PyTorch's counter.

# %% tags=["nbval-check-output"]
tables.shown(tables.flops_conventions())

# %% [markdown]
# Counted, the foveated cells are 1.2 to 2.0 times cheaper, and at 8 frames mostly because of the baseline's LLM: DINOv2, which
# both run on every frame, is 55 to 98 % of the foveated cell's work. Sixteen times fewer tokens are not sixteen times less
# work. The convention overstates the LLM, and with it the saving where the LLM reads many tokens. Gradient checkpointing,
# where it is needed, adds about a third to either; it is in neither count.

# %% tags=["nbval-ignore-output"]
draw_nanosmol["flops_breakdown"]()

# %% [markdown]
# ## What is a parameter?
#
# All that are trained, all (with a frozen vision model, as in `micro`, more), without embeddings, or as nanoSmol
# counted (with a head that was never trained). The gaps above are corrected by those that are trained; the explorer below
# takes any.

# %% tags=["nbval-check-output"]
tables.shown(tables.parameter_conventions())

# %% [markdown]
# ## Loss against compute
#
# Losses on different data share no axis: from here on those of one study are drawn, `losses_of`.
#
# A power law is drawn only where runs identify one: at least four, of three different sizes, whose refits do not run
# away. Below the figure stands why a law is missing. It does not show what longer training would give.

# %% tags=["nbval-ignore-output"]
draw_one["loss_vs_flops_fitted"]()

# %% [markdown]
# ## Loss against size, tokens and frames
#
# The first shows sizes of the same vision model and frames. The second has the question's two sides in it: tokens on
# the axis, architectures as colours. It cannot tell the number of tokens from how they are made; the static and mean-pooled
# controls, with as many tokens as the foveated model, can.

# %% tags=["nbval-ignore-output"]
draw_one["model_size_scaling"]()

# %% tags=["nbval-ignore-output"]
draw_one["token_efficiency"]()

# %% tags=["nbval-ignore-output"]
draw["train_inference_gap"]()

# %% [markdown]
# ## Before the next cell is run
#
# What nanoSmol's finished cells predict for the one it did not finish: least squares in log N, and the
# 95 % prediction interval of one more gap.

# %% tags=["nbval-check-output"]
tables.shown(tables.prediction(target))

# %% [markdown]
# Three single gaps leave one degree of freedom, and an interval that holds everything from a clear win to a clear loss: the
# prediction is "not known". Which pair of cells, foveated and baseline, would narrow the line at that size most:

# %% tags=["nbval-check-output"]
tables.shown(tables.next_of_nanosmol(target))

# %% [markdown]
# Running the cell itself narrows it most, and costs most. A second seed of the largest size that was run comes next;
# a larger vision model with the small LLM tells nothing about it.

# %% [markdown]
# ## Look for yourself
#
# Any study, any figure, any convention, log or linear. Laws and trends go through the range that you choose; a click on a
# point leaves its runs out, and below the figure stands whose a point is, with its page. *Curves of single runs* lays any
# runs over one another, smoothed if you like; *read again* while a grid is running. Without a kernel a figure stands here.

# %% tags=["nbval-ignore-output"]
from fvlm.widgets.scaling import ScalingExplorer

explorer = ScalingExplorer(studies)
explorer

# %% [markdown]
# ## Appendix: ten more figures
#
# Where the parameters are, in nanoSmol's cells.

# %% tags=["nbval-ignore-output"]
draw_nanosmol["parameter_breakdown"]()

# %% [markdown]
# The same losses as perplexity; and what is bought with compute: the stepped line joins the cells that no cheaper one of the
# same architecture beats.

# %% tags=["nbval-ignore-output"]
draw_one["perplexity_vs_flops"]()

# %% tags=["nbval-ignore-output"]
draw_one["efficiency_frontier"]()

# %% tags=["nbval-ignore-output"]
draw_one["frame_scaling"]()

# %% [markdown]
# Runs on their way. These need the evaluations of runs, and the last two a constant learning rate: before the end of a
# decaying schedule a loss is not that of a shorter run.

# %% tags=["nbval-ignore-output"]
draw_one["training_curves"]()

# %% tags=["nbval-ignore-output"]
draw_one["iso_flop_curves"]()

# %% tags=["nbval-ignore-output"]
draw_one["iso_loss"]()

# %% [markdown]
# How much was each parameter taught? Where it saw far fewer text tokens than the line, data, not size, may be what limits a
# cell.

# %% tags=["nbval-ignore-output"]
draw["chinchilla_ratio"]()

# %% tags=["nbval-ignore-output"]
draw_one["gaze_vs_loss"]()

# %% [markdown]
# A law that was fitted to small models, drawn on to SmolVLM's sizes, with its band. It says where this recipe would go if
# nothing changed on the way.

# %% tags=["nbval-ignore-output"]
draw_one["smolvlm_extrapolation"]()

# %% [markdown]
# Files for a paper: `save_figures` writes every figure, as html, svg or png.

# %% tags=["nbval-ignore-output"]
from fvlm.config import REPOSITORY
from fvlm.files import where
from fvlm.plots import save_figures

figures = draw_one | {name: draw[name] for name in ("gap_vs_scale", "train_inference_gap", "chinchilla_ratio")}
written = save_figures({name: figure() for name, figure in figures.items()}, REPOSITORY / "outputs" / "exports" / "scaling")
print(len(written), "files in", where(written[0].parent))

# %% [markdown]
# Next: [`train.ipynb`](train.ipynb) trains a cell more, [`attention.ipynb`](attention.ipynb) shows where one looks.
