"""From files to frames: T evenly spaced ones of a video, or what a list of pictures holds.

Every reader returns what was `Seen`: (T, S, S, 3) uint8, how many different frames there were (where those
are fewer than T, frames are repeated), and what was found on the way. What can't be used raises `BadClip`.

A sampled frame is the one that decoding the file from its start gives at that time. Where a container keeps
an index, and every packet its own time, the wanted frames are sought, and each is verified by the time stamp
that is found. All else, and what turns out otherwise, is decoded from the start."""

import io
import itertools
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer

# What is larger is a mistake or an attack:
MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 120_000_000  # of a picture, more than the largest cameras have
MAX_VIDEO_PIXELS = 36_000_000  # of a frame, 8K: a decoder keeps sixteen and more of them
MAX_FRAMES = 5_000_000  # of a video, a day of them
MOST_BYTES = 500 << 20  # of what is kept in memory, or fetched, for one clip
# Formats that hold what they show. Others (playlists, lists of files, descriptions of streams) have FFmpeg
# open what they name: any file of this machine, any address.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,apng,h261,h263,h264,hevc,"
    "m4v,ivf,obu,av1,nut,dv,yuv4mpegpipe,mjpeg,vc1,wtv,rm"
)
ALONE = dict(format_whitelist=CONTAINERS, protocol_whitelist="file")
SEEK_SECONDS = 5.0  # a gap between frames above which seeking to the next keyframe beats decoding on
RESTART_SECONDS = 0.25  # by which time stamps go back where another stream begins; by less in disorder
LEAST_FRAMES = 2  # fewer are no video
PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # by Pillow's names
GROUND = "white"  # what transparent pictures are put on

# What a dataset's manifest counts, and a person should know of a clip:
SHORT = "fewer frames than asked, the last one repeated"
HELD = "one frame shown for so long (a gap, a variable rate) that it was taken more than once"
RESTARTS = "time stamps start again: its parts follow each other"
DISORDER = "time stamps missing or in disorder: its frames are taken as equally long"
SEVERAL = "several videos in it: the first was taken"
TRANSPARENT = f"transparent: put on {GROUND}"


class BadClip(Exception):
    """A clip that is skipped: `reason` is what it is counted under, `detail` says more. temporary: another
    time it may be there."""

    def __init__(self, reason: str, detail: str = "", temporary: bool = False):
        super().__init__(reason, detail, temporary)
        self.reason, self.detail, self.temporary = reason, detail, temporary


@dataclass
class Seen:
    """What was made of a clip's file: frames (T, S, S, 3) uint8, and how many of them are different ones.

    notes: what should be known, in words of this module that are counted. about: how it was read, by name:
    orientation, frames (there are), rate and seconds, longest gap in seconds, read (how)."""

    frames: np.ndarray
    different: int
    notes: tuple[str, ...] = ()
    about: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Video:
    """A video file (its path, or its content), whole or from `start` to `end` seconds."""

    file: str | bytes
    start: float | None = None
    end: float | None = None

    def read(self, frames: int, size: int) -> Seen:
        return see_video(self.file, frames, size, self.start, self.end)


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures, or paths of some, in the order of time. alike: no frames of a film but pictures to
    compare, which are shown equally long."""

    files: tuple[str | bytes, ...]
    alike: bool = False

    def read(self, frames: int, size: int) -> Seen:
        n = len(self.files)
        if n < LEAST_FRAMES:
            raise BadClip("too short", f"{n} frames")
        if self.alike and n <= frames:
            read = [_read_picture(file, size) for file in self.files]
            shown = [read[t * n // frames] for t in range(frames)]
            notes = tuple({note: None for _, about in read for note in about[1]})
            about = dict(orientation=read[0][1][0], frames=n, read="pictures to compare")
            return Seen(np.stack([picture for picture, _ in shown]), n, notes, about)
        read = [_read_picture(self.files[i], size) for i in evenly_spaced(n, frames)]
        notes = tuple({note: None for _, about in read for note in about[1]})
        about = dict(orientation=read[0][1][0], frames=n, read="pictures")
        return Seen(
            np.stack([picture for picture, _ in read]), min(n, frames), notes + (SHORT,) * (n < frames), about
        )


@dataclass(frozen=True)
class Still:
    """One encoded picture, or the path of one: a clip in which nothing moves."""

    file: str | bytes

    def read(self, frames: int, size: int) -> Seen:
        picture, (orientation, notes) = _read_picture(self.file, size)
        about = dict(orientation=orientation, frames=1, read="a still")
        return Seen(np.repeat(picture[None], frames, axis=0), frames, notes, about)


@dataclass(frozen=True)
class NoPicture:
    """What a text alone shows."""

    def read(self, frames: int, size: int) -> Seen:
        return Seen(np.zeros((0, size, size, 3), np.uint8), 0, about=dict(frames=0, read="text alone"))


def evenly_spaced(n: int, frames: int) -> list[int]:
    """Which of `n` frames stand for the middles of `frames` equal parts; of fewer than `frames`, all and then
    the last."""
    if n < frames:
        return [min(i, n - 1) for i in range(frames)]
    return [(2 * i + 1) * n // (2 * frames) for i in range(frames)]


def read_picture(file: str | bytes, size: int) -> np.ndarray:
    """A picture as it is to be seen (its Exif turn applied, 16-bit grey brought to 8, what is transparent put
    on white), squeezed to (size, size, 3) uint8. BadClip: unreadable, too large."""
    return _read_picture(file, size)[0]


def _read_picture(file: str | bytes, size: int) -> tuple[np.ndarray, tuple[str, tuple[str, ...]]]:
    """A picture, and how it was turned, and notes."""
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=PICTURES) as image:
            _check_side(*image.size, MAX_PIXELS)
            turn = TURNS[EXIF_TURNS.get(image.getexif().get(ExifTags.Base.Orientation), (False,) * 3)]
            notes = (TRANSPARENT,) if image.has_transparency_data else ()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which a conversion would clip at 255
                grey = np.asarray(image).astype(np.float32) / 257
                image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
            picture = _on_ground(image.convert("RGBA")) if notes else image.convert("RGB")
            return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)), (turn, notes)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadClip("unreadable", f"not a picture that decodes: {error}") from error


def _on_ground(picture):
    """A picture of Pillow's mode RGBA on the ground that transparent ones are put on, as RGB."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", picture.size, GROUND), picture).convert("RGB")


# ── Videos ───────────────────────────────────────────────────────────────────────────────────────


def read_video(
    file: str | bytes, frames: int, size: int, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, int]:
    """The frames shown in the middles of `frames` equal parts of a video's time, squeezed to a square of
    `size`.

    Times are the frames' own, so a variable frame rate does not matter; the turn or mirroring that the file
    asks for is applied. Returns (frames, size, size, 3) uint8 and the number of different frames. BadClip:
    unreadable (also when cut off), too short, too large."""
    seen = see_video(file, frames, size, start, end)
    return seen.frames, seen.different


def see_video(
    file: str | bytes, frames: int, size: int, start: float | None = None, end: float | None = None
) -> Seen:
    """`read_video`, with what was found on the way."""
    import av

    try:
        with opened(file) as container:
            index = _index(container, file, start, end)
            found = _sought(container, index, frames, size, start, end) if index.trusted else None
        if found is None:
            found = _decoded(file, index, frames, size, start, end)
    except av.FFmpegError as error:
        raise BadClip("unreadable", f"not a video that decodes: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a size or time that FFmpeg takes and NumPy does not
        raise BadClip("unreadable", str(error)) from error
    pictures, stamps, chosen, how = found
    different, shown = len(set(chosen)), len(stamps)
    pictures = [pictures[position] for position in chosen]
    notes = list(index.notes)
    if shown < frames:
        notes.append(SHORT)
    elif different < frames:
        notes.append(HELD)
    if any(picture.transparent for picture in pictures):
        notes.append(TRANSPARENT)
    about = dict(orientation=pictures[0].turn, read=how) | _timing(stamps, index)
    pixels = [picture.pixels for picture in pictures]
    return Seen(np.stack(pixels + pixels[-1:] * (frames - len(pixels))), different, tuple(notes), about)


@dataclass
class _Index:
    """What a file says of its packets before anything is decoded.

    kind: of container. number: of the stream. base: seconds of a time stamp's unit. zero: the stamp at which
    the video begins. stamps: of all its frames, sorted, or None where they can't be known without decoding.
    last: how long the last frame is shown. trusted: the container keeps an index, and stamps are the frames'
    own. restarts: decoding times go back somewhere. timed: false if there are no time stamps at all."""

    kind: str
    number: int
    base: float
    zero: int | None
    stamps: np.ndarray | None
    last: int
    trusted: bool
    restarts: bool
    notes: list[str]
    timed: bool = True


WITH_INDEX = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")  # by FFmpeg's names
REORDERED_IN_AVI = ("h264", "hevc")  # which AVI has no time stamps for


def opened(file: str | bytes) -> "InputContainer":
    """A video file, or its content, as a container of PyAV's, which reads nothing else."""
    import av

    source = io.BytesIO(file) if isinstance(file, bytes) else os.path.abspath(file)
    return av.open(source, metadata_errors="ignore", options=ALONE)


def _index(container, file: str | bytes, start: float | None, end: float | None) -> _Index:
    """Read all packets of a file's video, or in a container with an index those from `start` to `end`."""
    stream, several = main_stream(container, file)
    _check_side(stream.codec_context.width, stream.codec_context.height, MAX_VIDEO_PIXELS)
    _bound(stream)
    base, kind = float(stream.time_base), container.format.name
    indexed, first = kind in WITH_INDEX, stream.start_time or 0
    whole = not indexed or (start is None and end is None)
    if (start or 0) / base > 2**62:
        raise BadClip("too short", f"0 frames from {start:g} s")
    if start and indexed:
        container.seek(first + int(start / base), stream=stream)
    shown, decoded, damaged = [], [], []  # time stamps in the order of packets; numbers of bad ones
    opening, latest, last = None, -np.inf, 0
    stop = np.inf if whole or end is None else first + end / base
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            damaged.append(len(decoded))
        pts, dts = packet.pts, packet.dts
        if dts is not None and dts >= stop:
            break
        opening = opening or packet
        decoded.append(dts)
        if len(decoded) > MAX_FRAMES:
            raise BadClip("too large", f"more than {MAX_FRAMES} frames")
        if packet.is_discard:  # before or after what an edit list shows
            continue
        shown.append(pts)
        if pts is not None and pts > latest:
            latest, last = pts, packet.duration or 0
    restarts = _restarts(decoded, RESTART_SECONDS / base)
    damaged = [at for at in damaged if restarts.isdisjoint(range(at, at + 3))]  # at a join it is expected
    if damaged:
        raise BadClip("unreadable", f"cut off or damaged after {damaged[0]} frames")
    _check_whole(container, stream, file, len(decoded) if whole else None)

    stamps = None
    if shown and not restarts and None not in shown:
        stamps = np.unique(shown)  # sorted: packets come in the order of decoding
    trusted, zero = False, stream.start_time
    if indexed and stamps is not None:
        # what is shown before the first key frame can't be decoded
        begins = opening.is_keyframe and (bool(start) or opening.pts <= stamps[0])
        trusted = len(stamps) == len(shown) and begins
    if kind == "avi":  # has no presentation times: where frames are reordered, those given are guesses
        plain = shown == decoded
        trusted = trusted and plain and stream.codec_context.name not in REORDERED_IN_AVI
        zero = zero if trusted else None
    notes = [SEVERAL] * several + [RESTARTS] * bool(restarts)
    if not (trusted or whole):
        stamps = None
    return _Index(kind, stream.index, base, zero, stamps, last, trusted, bool(restarts), notes)


def main_stream(container, file: str | bytes):
    """The stream that is the video, no cover picture; and whether there are others like it."""
    from av.stream import Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise BadClip("unreadable", "no video in it")
    if len(videos) == 1:
        return videos[0], False
    packets = dict.fromkeys([stream.index for stream in videos], 0)
    with opened(file) as other:  # of its own, so that this one stays at its start
        for packet in other.demux([other.streams[number] for number in packets]):
            packets[packet.stream.index] += bool(packet.size)
            if min(packets.values()) >= LEAST_FRAMES:
                break
    moving = [stream for stream in videos if packets[stream.index] >= LEAST_FRAMES]
    return (moving or videos)[0], len(moving) > 1


def _restarts(decoded: list[int | None], least: float) -> set[int]:
    """Numbers of the packets at which decoding times go back by more than `least`."""
    numbers = [number for number, dts in enumerate(decoded) if dts is not None]
    back = np.diff([decoded[number] for number in numbers]) < -least
    return {numbers[at + 1] for at in np.flatnonzero(back)}


def _check_whole(container, stream, file: str | bytes, packets: int | None):
    """BadClip for a file that its own index says was longer. packets: how many were found, if all were looked
    for."""
    length = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    kind = container.format.name
    if kind.startswith("mov"):
        entries = stream.index_entries
        if len(entries) and entries[len(entries) - 1].pos + entries[len(entries) - 1].size > length:
            raise BadClip("unreadable", "cut off: its index goes on after its end")
    elif kind == "avi":  # its header may count frames that never were there, or repeats
        head = file[:8] if isinstance(file, bytes) else _head(file)
        if int.from_bytes(head[4:8], "little") + 8 > length + 1:
            raise BadClip("unreadable", "cut off: its header says that it is longer")
    elif packets is not None and packets < 0.95 * stream.frames:
        raise BadClip("unreadable", f"cut off: {packets} of {stream.frames} frames are there")


def _head(file: str) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(8)


def _choose(
    stamps: np.ndarray, index: _Index, last: int, frames: int, start: float | None, end: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the frames from start to end, and of those to be seen, at most `frames`."""
    seconds = (
        (stamps - (stamps[0] if index.zero is None else index.zero)) * index.base if len(stamps) else stamps
    )
    after = seconds >= (-np.inf if start is None else start - index.base / 2)
    inside = np.flatnonzero(after & (seconds < (np.inf if end is None else end)))
    if len(inside) < LEAST_FRAMES:
        cut = f" from {start or 0:g} to {'the end' if end is None else f'{end:g} s'}"
        raise BadClip("too short", f"{len(inside)} frames" + (cut if start or end is not None else ""))
    if len(inside) <= frames:
        return inside, inside
    times = stamps[inside]
    stop = times[-1] + (last or np.median(np.diff(times)))
    middles = times[0] + (np.arange(frames) + 0.5) / frames * (stop - times[0])
    return inside, inside[np.searchsorted(times, middles, side="right") - 1]


def _timing(stamps: np.ndarray, index: _Index) -> dict:
    """How many frames there are at these time stamps, at which rate, how long and with which longest gap."""
    about = dict(frames=len(stamps))
    if not index.timed:
        return about
    steps = np.diff(stamps) * index.base
    usual = float(np.median(steps))
    return about | dict(
        rate=1 / usual,
        variable=bool(steps.max() > 1.5 * steps.min()),
        seconds=float(steps.sum()) + usual,
        gap=float(steps.max()),
    )


def _sought(container, index: _Index, frames: int, size: int, start, end):
    """Pictures by position, the stamps from start to end, and the positions chosen; None where seeking or
    decoding gave another frame than the packets promised."""
    inside, chosen = _choose(index.stamps, index, index.last, frames, start, end)
    gap, pictures, now, coming = SEEK_SECONDS / index.base, {}, None, iter(())
    stream = container.streams[index.number]
    stream.thread_type = "AUTO"
    for position in dict.fromkeys(chosen.tolist()):
        stamp = int(index.stamps[position])
        if now is None or stamp - now > gap:
            frame, coming = _sought_frame(container, stream, stamp)
        else:
            frame = _frame_at(coming, stamp)
        if frame is None:
            return None
        pictures[position], now = _picture(frame, size), stamp
    return pictures, index.stamps[inside], chosen.tolist(), "sought by its index"


def _sought_frame(container, stream, stamp: int):
    """The frame with a time stamp by seeking, None if that leads elsewhere, and the frames after it.

    A key frame may be followed by frames that are shown before it and can't be decoded from it: those are
    reached from the key frame before."""
    target = stamp
    for _ in range(2):
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        first = next(packets)
        if not first.size or not first.is_keyframe or first.pts is None:
            break
        coming = (frame for packet in itertools.chain([first], packets) for frame in packet.decode())
        if first.pts <= stamp and (frame := _frame_at(coming, stamp)):
            return frame, coming
        target = (first.pts if first.dts is None else min(first.pts, first.dts)) - 1
    return None, iter(())


def _frame_at(coming, stamp: int):
    """The frame with this time stamp among those that are coming, None if there is none that is sound."""
    frame = next((frame for frame in coming if frame.pts is None or frame.pts >= stamp), None)
    return frame if frame is not None and frame.pts == stamp and not frame.is_corrupt else None


def _decoded(file, index: _Index, frames: int, size: int, start, end):
    """What `_sought` gives, by decoding from the start: once where the packets' time stamps are those of the
    frames that come out, again where only decoding tells how many frames there are and when."""
    how, planned = "decoded from its start", None
    if index.stamps is not None:
        planned = _choose(index.stamps, index, index.last, frames, start, end)
    far = np.inf if end is None or index.zero is None else index.zero + (end + SEEK_SECONDS) / index.base
    pictures, times, last = _taken(file, index, planned[1] if planned else (), size, far)
    stamps = _ordered_times(times, index)
    known = 0 if planned is None else len(index.stamps) if far == np.inf else len(stamps)
    if planned and np.array_equal(stamps, index.stamps[:known]):
        return pictures, index.stamps[planned[0]], planned[1].tolist(), how
    if not index.timed and (start or end is not None):
        raise BadClip("unreadable", "it has no time stamps, so that start and end say nothing")
    inside, chosen = _choose(stamps, index, last if index.timed else 0, frames, start, end)
    pictures, *_ = _taken(file, index, chosen, size, np.inf, no_further=True)
    return pictures, stamps[inside], chosen.tolist(), how


def _taken(file, index: _Index, positions, size: int, far: float, no_further: bool = False):
    """Pictures of the frames at these positions; then time stamps of all frames to the stamp `far`, in the
    order in which they are shown, and how long the last one is shown. no_further: than the last position."""
    wanted, pictures, times, last = set(positions), {}, [], 0
    for position, frame in enumerate(_from_start(file, index)):
        if (frame.pts or 0) > far or (no_further and len(pictures) == len(wanted)):
            break
        if position in wanted:
            if frame.is_corrupt:
                raise BadClip("unreadable", f"cut off or damaged at {float(frame.time or 0):.2f} s")
            pictures[position] = _picture(frame, size)
        times.append(frame.pts)
        last = frame.duration or 0
    return pictures, times, last


def _from_start(file, index: _Index):
    """All frames of a video in the order in which they are shown. What can't be decoded before the first one,
    or where one stream was joined to another, is passed over."""
    import av

    with opened(file) as container:
        stream = container.streams[index.number]
        _bound(stream)
        stream.thread_type = "AUTO"
        begun = False
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                if begun and not index.restarts:
                    raise
                continue
            for frame in decoded:
                begun = True
                yield frame


def _ordered_times(times: list[int | None], index: _Index) -> np.ndarray:
    """Increasing time stamps of frames in the order in which they are shown, from the decoder's.

    Where they are not in order they are guesses. AVI has times, but not for reordered frames: it is the
    frames' order that is right. Elsewhere the frames are taken as equally long. Where stamps start again, a
    part begins when the one before has ended."""
    known = [number for number, time in enumerate(times) if time is not None]
    if len(known) < LEAST_FRAMES:
        index.notes.append(DISORDER)
        index.timed = False
        return np.arange(len(times))
    stamps = np.interp(np.arange(len(times)), known, [times[number] for number in known]).round()
    steps = np.diff(stamps)
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 1
    if index.restarts:
        stamps = stamps[0] + np.concatenate([[0], np.cumsum(np.where(steps > 0, steps, usual))])
    elif (steps <= 0).any():
        stamps = np.sort(stamps)
        if index.kind != "avi" or not np.diff(stamps).all():
            index.notes.append(DISORDER)
            stamps = stamps[0] + usual * np.arange(len(stamps))
    return stamps.astype(np.int64)


# ── One picture of a video ───────────────────────────────────────────────────────────────────────


@dataclass
class _Picture:
    """pixels (S, S, 3), or in the frame's own size, uint8; turn: one of TURNS."""

    pixels: np.ndarray
    turn: str
    transparent: bool


def as_shown(frame) -> np.ndarray:
    """A decoded frame in its own size, turned and mirrored the way its file asks for: (height, width, 3)
    uint8."""
    return _picture(frame, None).pixels


def _picture(frame, size: int | None) -> _Picture:
    """A decoded frame, squeezed to a square if there is a size, turned and mirrored the way its file asks
    for."""
    from PIL import Image

    layered = not frame.format.has_palette and any(part.is_alpha for part in frame.format.components)
    transposed, mirrored, upended = turn = _turn(frame)
    frame = frame.reformat(
        width=size, height=size, format="rgba" if layered else "rgb24", interpolation="BICUBIC"
    )
    if any(turn):
        frame = _filtered(
            frame,
            [("transpose", "cclock_flip")] * transposed
            + [("hflip", None)] * mirrored
            + [("vflip", None)] * upended,
        )
    pixels = frame.to_ndarray()
    transparent = layered and bool((pixels[..., 3] < 255).any())
    if layered:
        pixels = np.asarray(_on_ground(Image.fromarray(pixels))) if transparent else pixels[..., :3]
    return _Picture(np.ascontiguousarray(pixels), TURNS[turn], transparent)


def shown_shape(file: str | bytes) -> tuple[float, float]:
    """Height and width that a video is to be shown with, in its own pixels: after its turn, and with pixels
    that are not square stretched. BadClip: unreadable, no frame."""
    import av

    try:
        with opened(file) as container:
            stream, _ = main_stream(container, file)
            frame = next(container.decode(stream), None)
            aspect = float(stream.codec_context.sample_aspect_ratio or 1)
            if frame is None:
                raise BadClip("too short", "0 frames")
            height, width = as_shown(frame).shape[:2]
            return (height * aspect, width) if _turn(frame)[0] else (height, width * aspect)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadClip("unreadable", str(error)) from error


def picture_shape(file: str | bytes) -> tuple[int, int]:
    """Height and width that a picture is to be shown with, after its Exif turn. BadClip: unreadable."""
    from PIL import ExifTags, Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=PICTURES) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
            return picture.size if turned else picture.size[::-1]
    except (OSError, ValueError) as error:
        raise BadClip("unreadable", str(error)) from error


def boxed(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture (height, width, 3) uint8 in its own proportions in the middle of a black square of
    `size`."""
    return letterboxed(resized(picture, size)[None], picture.shape[:2])[0][0]


def letterboxed(
    frames: np.ndarray, shape: tuple[float, float]
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Frames (T, S, S, 3) uint8 that were squeezed to squares, in the proportions of `shape` (height, width)
    in the middle of black squares of the same size; and where they are: left, top, right, bottom in
    pixels."""
    from PIL import Image

    size = frames.shape[1]
    height, width = (max(1, round(size * side / max(shape))) for side in shape)
    top, left = (size - height) // 2, (size - width) // 2
    boxed = np.zeros_like(frames)
    for into, frame in zip(boxed, frames):
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        into[top : top + height, left : left + width] = np.asarray(picture)
    return boxed, (left, top, left + width, top + height)


# By (transposed, then mirrored left to right, then top to bottom): the eight orientations.
TURNS = {
    (False, False, False): "as stored",
    (True, True, False): "turned 90° clockwise",
    (False, True, True): "turned 180°",
    (True, False, True): "turned 90° counter-clockwise",
    (False, True, False): "mirrored left to right",
    (False, False, True): "mirrored top to bottom",
    (True, False, False): "transposed",
    (True, True, True): "transposed and turned 180°",
}
EXIF_TURNS = dict(zip((1, 6, 3, 8, 2, 4, 5, 7), TURNS))


def _turn(frame) -> tuple[bool, bool, bool]:
    """What a frame's display matrix asks for: transposed, then mirrored left to right, then top to bottom."""
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))  # (x, y) is shown at (a x + c y, b x + d y)
    transposed = abs(b) > abs(a)
    return transposed, (c if transposed else a) < 0, (b if transposed else d) < 0


def _filtered(frame, filters: list[tuple[str, str | None]]):
    """A frame after FFmpeg's filters."""
    from fractions import Fraction

    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    graph.link_nodes(
        source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink")
    )
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()


def _check_side(width: int, height: int, most: int):
    if max(width, height) > MAX_SIDE or width * height > most:
        raise BadClip(
            "too large", f"{width} x {height} pixels; at most {MAX_SIDE} a side and {most / 1e6:.0f} million"
        )


def _bound(stream):
    """Have a decoder refuse frames that are larger than the file says at its start."""
    stream.codec_context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}


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
