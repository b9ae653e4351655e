"""Frames as they come: a file, a folder of pictures or a camera, a few a second."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fvlm.config import ConfigError
from fvlm.data.tables import pictures_in
from fvlm.data.video import BadClip, as_shown, main_stream, opened, read_picture

CAMERAS, CAMERA_FORMAT = "/dev/video{}", "v4l2"  # where Linux has them


def live_frames(source: str | Path, rate: float = 2.0) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds since the start and a frame (height, width, 3) uint8, `rate` a second of the video's own time.

    source: a video file, a folder of pictures (each is one frame), or the number of a camera where Linux has
    one. ConfigError for what can't be read."""
    if not rate > 0:
        raise ConfigError(f"{rate} frames a second: must be more than 0")
    path, camera = Path(source), is_camera(source)
    if path.is_dir():
        yield from _pictures(path, rate)
        return
    if camera:
        path = Path(CAMERAS.format(source))
    if not path.exists():
        raise ConfigError(f"{source}: {f'no camera {path} here' if camera else 'not there'}")
    yield from _video(path, rate, CAMERA_FORMAT if camera else None)


def is_camera(source) -> bool:
    """Whether this is the number of a camera, not a file."""
    return isinstance(source, str) and source.isdigit() and not Path(source).exists()


def from_camera(source: str, count: int, rate: float = 2.0) -> list[np.ndarray]:
    """The next so many frames of a camera, `rate` a second. ConfigError if there is none."""
    return [frame for _, (_, frame) in zip(range(count), live_frames(source, rate))]


def _pictures(folder: Path, rate: float):
    for i, file in enumerate(pictures_in(folder)):
        try:
            yield i / rate, read_picture(str(file), 224)
        except BadClip as error:
            raise ConfigError(f"{file}: {error.detail}") from error


def _video(path: Path, rate: float, kind: str | None):
    import av

    due = 0.0
    try:
        with av.open(str(path), format=kind) if kind else opened(str(path)) as container:
            stream, first = main_stream(container, str(path))[0], None
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                first = frame.time if first is None else first
                now = frame.time - first
                if now >= due - 1e-6:
                    due = max(due + 1 / rate, now)
                    yield now, as_shown(frame)
    except BadClip as error:
        raise ConfigError(f"{path}: {error.detail}") from error
    except (av.FFmpegError, OSError) as error:
        raise ConfigError(f"{path}: not a video that decodes: {error}") from error
