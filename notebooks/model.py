# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The model, from pixels to loss
#
# *What is a query, what does it cost, and how is a model with a gaze trained in parallel?* Every step of the foveated
# model, run on one clip, with its shapes. The code is `fvlm/models/`: `vision.py`, then `foveated.py`, then `base.py`.

# %% tags=["parameters"]
# Parameters
run: str = "auto"  # folder of a run with queries; auto: the one in FVLM_RUN, or one that came with the repository
cell: str = ""  # instead of a run a cell such as S-S_8f_fov, with the weights that its training starts from

# %%
import torch
from fvlm import RunConfig, build_model
from fvlm.parameters import check_parameters
from fvlm.widgets.runs import RunPicker

check_parameters(globals())

# %% tags=["nbval-ignore-output"]
picker = RunPicker(run)
picker

# %% tags=["nbval-ignore-output"]
config = RunConfig.from_cell(cell) if cell else picker.run.config
model = build_model(config) if cell else picker.run.model
model.config.sources

# %% [markdown]
# ## One clip
#
# The first validation clip, and its text as tokens. The end-of-text token is a label like any other. A question stands
# before the frames, so that it can steer the first look.

# %% tags=["nbval-ignore-output"]
from fvlm.data import Collator, open_dataset
from fvlm.models.inputs import PromptAndMasks
from fvlm.weights import load_tokenizer

clip = open_dataset(config, "validation")[0]
batch = Collator(load_tokenizer(config.llm), config.task)([clip])
given = PromptAndMasks(batch.prompt_ids, batch.prompt_mask)
print(clip.question if config.task == "question" else "", clip.text(config.task))
print("frames", tuple(batch.frames.shape), "labels", tuple(batch.labels.shape))

# %% [markdown]
# ## DINOv2, once
#
# All frames go through in one batch. Every layer's keys and values stay: they are all that a query can look at.

# %% tags=["nbval-check-output"]
with torch.no_grad():
    cache = model.vision.encode(batch.frames)
print("layers", len(cache.keys), "| keys of a layer (B, T, H, N, d)", tuple(cache.keys[0].shape), "| grid", cache.grid)

# %% [markdown]
# ## Coarse pass: where would it look?
#
# One learned query looks at every frame; the LLM reads what it saw; its state after each frame is the query for the
# next one. The first frame has no state before it, so its query is learned; a question's state is added to it.

# %% tags=["nbval-check-output"]
with torch.no_grad():
    static = model.static_queries(cache)
    seen = model.see(static, cache)
    queries = model.look_ahead(cache, given)
print("static queries", tuple(static.shape), "-> visual tokens", tuple(seen.shape), "-> queries", tuple(queries.shape))

# %% [markdown]
# ## Fine pass: look there, then write
#
# The queries, each one frame late, look again. That costs one token per frame, not a frame, because patches never see
# the query and are not computed again. The loss counts the text only.

# %% tags=["nbval-ignore-output"]
asked = dict(labels=batch.labels, prompt_ids=batch.prompt_ids, prompt_mask=batch.prompt_mask)
with torch.no_grad():
    out = {mode: model(cache, **asked, mode=mode) for mode in ("parallel", "autoregressive", "static")}
{mode: round(o.loss.item(), 3) for mode, o in out.items()}

# %% [markdown]
# *parallel* is training, *autoregressive* is inference: each query then comes from the fine state before it, not from
# the coarse pass. Given the same queries the two are the same computation:

# %% tags=["nbval-check-output"]
with torch.no_grad():
    same = model(cache, **asked, mode="parallel", queries=out["autoregressive"].queries)
print("same loss, given the same queries:", torch.allclose(same.loss, out["autoregressive"].loss, atol=1e-4))

# %% [markdown]
# ## What it costs
#
# Parameters by group, and the FLOPs of one training sample by group, for this cell and for its baseline, which spends
# 16 tokens per frame.

# %% tags=["nbval-check-output"]
import dataclasses

import pandas as pd
from fvlm.architectures import ARCHITECTURES
from fvlm.costs.flops import flops_per_sample
from fvlm.models import parameter_groups

both = [build_model(dataclasses.replace(config, arch=arch), pretrained=False) for arch in (config.arch, "baseline")]
pd.DataFrame({m.config.arch: parameter_groups(m) for m in both}).map("{:,}".format)

# %%
costs = {arch: flops_per_sample(dataclasses.replace(config, arch=arch)) for arch in ARCHITECTURES}
(pd.DataFrame(costs) / 1e9).round(2)

# %% [markdown]
# With the tiny vision model frozen, as here, most of the work is DINOv2's forward pass. Queries read the last layer's keys
# and values, so what that layer makes of the patches is not computed for them. The other difference is what the LLM reads: a
# visual token a frame, in each pass, against 16.
#
# Next: [`attention.ipynb`](attention.ipynb) shows where this run looks and whether it matters, [`train.ipynb`](train.ipynb)
# trains one, [`scaling.ipynb`](scaling.ipynb) asks what one token a frame costs.
