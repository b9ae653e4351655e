"""Where a model looks and whether it matters (`attention.py`), and whether it is right (`scores.py`)."""

from fvlm.gaze.attention import EncodedClip, Gaze, gaze

__all__ = ["EncodedClip", "Gaze", "gaze"]
