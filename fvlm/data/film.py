"""A film of known truth: clips one after the other in one video file, to watch models on."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from fvlm.data.clips import Clip


class Shot(NamedTuple):
    """One clip of a film, from `start` to `end` seconds."""

    start: float
    end: float
    clip: Clip


def write_film(clips: Sequence[Clip], path: str | Path, rate: float = 2.0) -> list[Shot]:
    """Write the frames of clips, (T, 3, S, S) each with S even, one after the other as an .mp4, `rate` a
    second; returns which clip is when."""
    import av

    path, shots, shown = Path(path), [], 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = clips[0].frames.shape[2:]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12"}  # so fine that small marks stay legible
        for clip in clips:
            for frame in clip.frames:
                picture = av.VideoFrame.from_ndarray(frame.transpose(1, 2, 0).copy(), format="rgb24")
                container.mux(stream.encode(picture))
            shots.append(Shot(shown / rate, (shown + len(clip.frames)) / rate, clip))
            shown += len(clip.frames)
        container.mux(stream.encode())
    return shots
