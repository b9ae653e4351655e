"""Training one cell, from its configuration to its results: `train(config)`.

`launch.py` who may train where · `loop.py` the steps · `optimizer.py` · `evaluation.py` · `checkpoints.py` ·
`progress.py` who is told · `distributed.py` several processes for one run · `results.py` what a run leaves.
"""

from fvlm.training.launch import train
from fvlm.training.progress import Progress, Stopped, TrainingError
from fvlm.training.results import Run, Study, load_run, load_study

__all__ = ["Progress", "Run", "Stopped", "Study", "TrainingError", "load_run", "load_study", "train"]
