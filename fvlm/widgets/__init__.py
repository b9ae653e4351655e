"""What moves in a notebook: `live.py` the training curve · `gaze.py` the gaze explorer · `scaling.py` the
scaling explorer."""

from fvlm.widgets.gaze import Explorer
from fvlm.widgets.live import LiveCurve, train_live
from fvlm.widgets.scaling import ScalingExplorer

__all__ = ["Explorer", "LiveCurve", "ScalingExplorer", "train_live"]
