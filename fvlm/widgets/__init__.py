"""What moves in a notebook: `live.py` the training curve · `gaze.py` the gaze explorer · `canvas.py` what it
draws, in `canvas.js` · `scaling.py` the scaling explorer · `stream.py` a video that plays while a model
watches it."""

from fvlm.widgets.gaze import Explorer
from fvlm.widgets.live import LiveCurve, train_live
from fvlm.widgets.scaling import ScalingExplorer
from fvlm.widgets.stream import Watcher

__all__ = ["Explorer", "LiveCurve", "ScalingExplorer", "Watcher", "train_live"]
