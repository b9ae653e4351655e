"""fvlm: video language models that spend one visual token per frame.

Functions here import what they need when they are called, so that `import fvlm` and the command line stay
quick."""

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    # So often a waiting thread spins before it sleeps; read when PyTorch is loaded. By default it spins for
    # milliseconds, which beside another busy process costs far more than it saves: T-T_8f_fov, 60 steps on
    # two cores, 329 s instead of 21 s with one such process, 13.1 s instead of 13.7 s with none.
    os.environ["GOMP_SPINCOUNT"] = "1000"

from fvlm.config import ConfigError, RunConfig
from fvlm.registration import when_transformers_is_there

when_transformers_is_there()

__all__ = ["ConfigError", "RunConfig", "build_model", "load_model", "load_run", "train"]
__version__ = "0.1.0"


def build_model(config: RunConfig, pretrained: bool = True):
    """`fvlm.models.build_model`: the model of a run, a transformers `PreTrainedModel`."""
    from fvlm.models import build_model

    return build_model(config, pretrained)


def load_model(folder):
    """`fvlm.models.load_model`: a model that was saved in a folder."""
    from fvlm.models import load_model

    return load_model(folder)


def train(config: RunConfig, callbacks=(), on_progress=None):
    """`fvlm.training.train`: train one cell and leave its results in `config.folder`; returns the `Run`."""
    from fvlm.training.launch import train

    return train(config, callbacks, on_progress)


def load_run(folder):
    """`fvlm.training.load_run`: the `Run` in a folder, finished or not."""
    from fvlm.training.results import load_run

    return load_run(folder)
