"""From files to frames: T evenly spaced ones of a video, or what a list of pictures holds.

Every reader returns (T, S, S, 3) uint8 and how many different frames there were; where those are fewer than T
the last one is repeated. What can't be used raises `BadClip`."""

import io
from dataclasses import dataclass

import numpy as np

MAX_SIDE = 16_384  # pixels; a larger picture is a mistake or an attack
SEEK_SECONDS = 5.0  # a gap between frames above which seeking to the next keyframe beats decoding on
LEAST_FRAMES = 2  # fewer are no video


class BadClip(Exception):
    """A clip that is skipped: `reason` is what it is counted under, `detail` says more."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Video:
    """A video file (its path, or its content), whole or from `start` to `end` seconds."""

    file: str | bytes
    start: float | None = None
    end: float | None = None

    def read(self, frames: int, size: int) -> tuple[np.ndarray, int]:
        return read_video(self.file, frames, size, self.start, self.end)


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures, or paths of some, in the order of time."""

    files: tuple[str | bytes, ...]

    def read(self, frames: int, size: int) -> tuple[np.ndarray, int]:
        n = len(self.files)
        if n < LEAST_FRAMES:
            raise BadClip("too short", f"{n} frames")
        wanted = evenly_spaced(n, frames)
        return np.stack([read_picture(self.files[i], size) for i in wanted]), min(n, frames)


@dataclass(frozen=True)
class Still:
    """One encoded picture, or the path of one: a clip in which nothing moves."""

    file: str | bytes

    def read(self, frames: int, size: int) -> tuple[np.ndarray, int]:
        return np.repeat(read_picture(self.file, size)[None], frames, axis=0), frames


def evenly_spaced(n: int, frames: int) -> list[int]:
    """Which of `n` frames stand for the middles of `frames` equal parts; of fewer than `frames`, all and then
    the last."""
    if n < frames:
        return [min(i, n - 1) for i in range(frames)]
    return [(2 * i + 1) * n // (2 * frames) for i in range(frames)]


def read_picture(file: str | bytes, size: int) -> np.ndarray:
    """A picture as it is to be seen (its Exif turn applied), squeezed to (size, size, 3) uint8."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            _check_side(*image.size)
            return np.asarray(
                ImageOps.exif_transpose(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            )
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadClip("unreadable", f"not a picture that decodes: {error}") from error


def read_video(
    file: str | bytes, frames: int, size: int, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, int]:
    """The frames shown in the middles of `frames` equal parts of a video's time, squeezed to a square of
    `size`.

    Times are the frames' own, so a variable frame rate does not matter; a rotation that the file asks for is
    applied. Returns (frames, size, size, 3) uint8 and the number of different frames. BadClip: unreadable
    (also when cut off), too short, too large."""
    import av

    try:
        with av.open(
            io.BytesIO(file) if isinstance(file, bytes) else str(file), metadata_errors="ignore"
        ) as container:
            if not container.streams.video:
                raise BadClip("unreadable", "no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            _check_side(stream.codec_context.width, stream.codec_context.height)
            times, wanted = _wanted(container, stream, frames, start, end)
            pictures = [_square(frame, size) for frame in _frames_at(container, stream, wanted)]
    except av.FFmpegError as error:
        raise BadClip("unreadable", f"not a video that decodes: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a size or time that FFmpeg takes and NumPy does not
        raise BadClip("unreadable", str(error)) from error
    pictures += pictures[-1:] * (frames - len(pictures))
    return np.stack(pictures), min(times, frames)


def _wanted(container, stream, frames: int, start, end) -> tuple[int, np.ndarray]:
    """How many frames a stream has between start and end, and the time stamps of those to be seen, at most
    `frames`."""
    base = float(stream.time_base)
    first = stream.start_time or 0
    stamps, packets, last = [], 0, 0
    if start:
        container.seek(first + int(start / base), stream=stream)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise BadClip("unreadable", f"cut off or damaged after {packets} frames")
        stamp = packet.pts if packet.pts is not None else packet.dts
        if end is not None and packet.dts is not None and (packet.dts - first) * base >= end:
            break
        packets += 1
        if stamp is not None:
            stamps.append(stamp)
            last = packet.duration or last
    if start is None and end is None and packets < 0.95 * stream.frames:
        raise BadClip("unreadable", f"cut off: {packets} of {stream.frames} frames are there")
    stamps = np.unique(stamps)  # sorted: packets come in the order of decoding
    seconds = (stamps - first) * base
    stamps = stamps[(seconds >= (start or 0) - base / 2) & (seconds < (np.inf if end is None else end))]
    if len(stamps) < LEAST_FRAMES:
        raise BadClip(
            "too short", f"{len(stamps)} frames" + (f" from {start} to {end} s" if start or end else "")
        )
    if len(stamps) <= frames:
        return len(stamps), stamps
    stop = stamps[-1] + (last or np.median(np.diff(stamps)))
    middles = stamps[0] + (np.arange(frames) + 0.5) / frames * (stop - stamps[0])
    return len(stamps), stamps[np.searchsorted(stamps, middles, side="right") - 1]


def _frames_at(container, stream, wanted: np.ndarray):
    """Decode the frames with these time stamps, in order, seeking over wide gaps."""
    gap = SEEK_SECONDS / float(stream.time_base)
    shown = None
    for stamp in wanted:
        if shown is None or stamp - shown.now.pts > gap:
            container.seek(int(stamp), stream=stream)
            shown = _Shown(container.decode(stream))
        frame = shown.at(stamp)
        if frame is None or frame.is_corrupt:
            seconds = float((stamp - (stream.start_time or 0)) * stream.time_base)
            raise BadClip("unreadable", f"cut off or damaged at {seconds:.2f} s")
        yield frame


class _Shown:
    """The frame on screen while a video is decoded. `now` is it, `_next` the one after, once it had to be
    decoded."""

    def __init__(self, decoded):
        self._decoded = (frame for frame in decoded if frame.pts is not None)
        self.now = self._next = None

    def at(self, stamp: int):
        """The last frame that does not come after `stamp`, or the first one there is; None if the video ends
        before."""
        before = None
        while self.now is None or self.now.pts < stamp:
            coming = self._next or next(self._decoded, None)
            self._next = None
            if coming is None:  # containers without presentation times are off by a frame or two at the end
                near = before is not None and stamp - self.now.pts <= 3 * (self.now.pts - before)
                return self.now if near else None
            if self.now is not None and coming.pts > stamp:
                self._next = coming
                break
            before, self.now = self.now.pts if self.now else None, coming
        return self.now


def _square(frame, size: int) -> np.ndarray:
    """A decoded frame, squeezed to (size, size, 3) and turned the way its file asks for."""
    picture = frame.reformat(width=size, height=size, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, k=round(frame.rotation / 90)))


def _check_side(width: int, height: int):
    if max(width, height) > MAX_SIDE:
        raise BadClip("too large", f"frames of {width} x {height} pixels; at most {MAX_SIDE} a side")


def encode_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """(S, S, 3) uint8 to JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpegs(pictures: list[bytes], size: int | None = None) -> np.ndarray:
    """JPEGs of one clip to (T, 3, S, S) uint8; another `size` than theirs is reached by shrinking or growing
    them.

    ValueError on data that does not decode."""
    import simplejpeg  # twice as fast as Pillow

    if size is None:
        frames = [simplejpeg.decode_jpeg(data) for data in pictures]
    else:
        frames = [
            resized(simplejpeg.decode_jpeg(data, min_width=size, min_height=size), size) for data in pictures
        ]
    return np.stack(frames).transpose(0, 3, 1, 2)  # (T, 3, S, S), a view


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    if picture.shape[:2] == (size, size):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))
