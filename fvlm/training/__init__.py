"""Training one cell, from its configuration to its results: `train(config)`.

`launch.py` who may train where · `loop.py` the steps · `optimizer.py` · `evaluation.py` · `checkpoints.py` ·
`progress.py` how far ·
`callbacks.py` who is told · `distributed.py` several processes for one run · `results.py` what a run leaves.
"""

from fvlm.training.callbacks import Callback, EarlyStopping, TensorBoard, Tracker, report_to
from fvlm.training.launch import train
from fvlm.training.progress import Progress, Stopped, TrainingError
from fvlm.training.results import Run, Study, load_run, load_study

__all__ = [
    "Callback",
    "EarlyStopping",
    "Progress",
    "Run",
    "Stopped",
    "Study",
    "TensorBoard",
    "Tracker",
    "TrainingError",
    "load_run",
    "load_study",
    "report_to",
    "train",
]
