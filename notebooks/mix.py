# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which data, in which proportions?
#
# *Video, pictures, several pictures, text alone: how much of each?* SmolVLM's full run had 33, 34, 12 and 20 % of them
# in 3.3 million samples; its experiments had five thousand clips. Here a law is fitted to small runs on many mixtures,
# its best mixture is predicted and written down, and then run. At the end stands what to do with 5 thousand, 500
# thousand and 4.4 million samples.

# %% tags=["parameters"]
# Parameters
design: str = "mix"  # folder in outputs of the design's runs, as runs/mix for those of your own; beside it mix_evaluation
mix: str = "params/mix/shapes.yaml"  # the mix whose domains the design varies

# %%
from fvlm.parameters import check_parameters
from fvlm.scaling import mix_tables as tables
from IPython.display import Markdown

check_parameters(globals())
runs = tables.study_runs(design)
prediction, came = tables.evaluation(design)

# %% [markdown]
# ## Four domains that mirror the kinds
#
# The built-in world and three siblings, in the same words: videos, stills, several stills compared, and text about
# scenes that nobody sees. Texts alone go through the same model, without a visual token.

# %% tags=["nbval-check-output"]
tables.shown(tables.mix_table(mix))

# %% [markdown]
# ## The design
#
# Two dozen mixtures, chosen so that products of weights can be told apart (D-optimal), each with at least 4 % of every
# domain. Validation has as many clips of each domain whatever the weights. How far the shares that runs saw are from
# their weights, in percent:

# %% tags=["nbval-ignore-output"]
tables.shown(tables.counts_table(runs))

# %% [markdown]
# ## The law
#
# Each domain's loss is a floor and an exponential of a linear form in the weights, which falls as a power of the samples.
# A negative coefficient helps.

# %% tags=["nbval-ignore-output"]
tables.shown(tables.laws_table(runs))

# %% [markdown]
# Does it predict mixtures that it was not fitted to, and better than simpler and richer forms do? `error` is of the log
# loss, so 0.02 are two percent; `fails` says why the law is not to be believed, where something speaks against it.

# %% tags=["nbval-ignore-output"]
tables.shown(tables.validation_table(runs))

# %% [markdown]
# ## The best mixture
#
# With the 95 % interval of each weight, from refits to resampled runs, and how far one may go from it within one percent
# of its loss: a wide range says that the proportions hardly matter there. `flat_share` is the share of all mixtures
# that are as good.

# %% tags=["nbval-ignore-output"]
tables.shown(tables.optimum_table(runs))

# %% [markdown]
# Does one visual token a frame want another mixture than 16 do?

# %% tags=["nbval-ignore-output"]
tables.shown(tables.moved_table(runs))

# %% [markdown]
# ## Predicted, and come
#
# The prediction was written down before its runs: at the best mixtures, at the uniform one, at SmolVLM's proportions and
# at two others, three seeds each. Where what came lies outside the interval the law fails. What one seed does to all of
# its runs is in no interval: the laws' own runs share one seed.

# %% tags=["nbval-ignore-output"]
outcome = tables.outcome_table(prediction, came)
tables.shown(outcome)

# %% tags=["nbval-ignore-output"]
tables.shown(tables.failures_table(outcome))

# %% [markdown]
# Beside runs at SmolVLM's proportions, all four domains together, in percent; below zero a mixture is better.

# %% tags=["nbval-ignore-output"]
tables.shown(tables.tried_table(prediction, came))

# %% [markdown]
# ## What there is to mix
#
# Public sets, each row checked against its source on the day it says. What the source did not say is empty.

# %% tags=["nbval-check-output"]
tables.catalogue_table()

# %% [markdown]
# ## What it costs
#
# The samples that each domain needs in the three mixes of `params/mix/`:

# %% tags=["nbval-check-output"]
tables.shown(tables.needs_table())

# %% tags=["nbval-check-output"]
tables.shown(tables.cost_table())

# %% [markdown]
# What is measured, counted, published or assumed:

# %% tags=["nbval-check-output"]
tables.provenance_table()

# %% [markdown]
# ## The recommendation

# %% tags=["nbval-check-output"]
Markdown(tables.recommendation(runs, prediction, came))
