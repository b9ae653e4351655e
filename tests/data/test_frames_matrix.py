"""Sampled frames are those that decoding the whole file from its start gives: over containers, codecs and
structures, and over files as cameras, cutters and muxers leave them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import brightness
from side_by_side import same_scheduling

import fvlm.data.video as video
from fvlm.data.live import live_frames
from fvlm.data.video import BadClip, evenly_spaced, read_video, see_video

T, SIZE, RATE = 8, 32, 25
OPTIONS = {  # of encoders, for quick work
    "libx264": {"preset": "ultrafast", "sc_threshold": 0, "b_strategy": 0},
    "libx265": {"preset": "ultrafast"},
    "libvpx": {"deadline": "realtime", "cpu-used": 8},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": 8},
    "libsvtav1": {"preset": 10, "svtav1-params": "lp=1"},
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8", "prores_ks": "yuv422p10le"}
MPEG = ("mpeg1video", "mpeg2video", "mpeg4")


def encode(
    path, codec, gop=6, b_frames=0, open_gop=False, offset=0.0, count=24, rate=RATE, **options
) -> Path:
    """A video whose frame i is as bright as `brightness(i)`, an edge moves through it. offset: seconds at
    which its time stamps begin. options: of the encoder."""
    options = OPTIONS.get(codec, {}) | options
    if codec == "libx264":
        options |= {"bf": b_frames, "x264-params": f"open-gop={int(open_gop)}"}
    if codec == "libx265":
        options["x265-params"] = (
            f"log-level=none:pools=none:scenecut=0:bframes={b_frames}:open-gop={int(open_gop)}"
            f":keyint={gop}:min-keyint={gop}"
        )
    if codec in MPEG:
        options |= {"bf": b_frames, "sc_threshold": 10**9} | ({} if open_gop else {"flags": "+cgop"})
    # SVT-AV1 makes root's process one that nothing else interrupts
    with same_scheduling(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.width = stream.height = 64
        stream.pix_fmt, stream.gop_size = PIXELS.get(codec, "yuv420p"), gop
        stream.bit_rate = 1_000_000
        for i in range(count):
            picture = np.full((64, 64, 3), brightness(i), np.uint8)
            picture[:16, : 8 + i % 56] = 255 - brightness(i)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i + round(offset * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> np.ndarray:
    """Every frame of a file, by nothing but decoding it from its start: (n, S, S, 3)."""
    with av.open(str(path)) as container:
        return np.stack([pixels(frame) for frame in container.decode(container.streams.video[0])])


def pixels(frame) -> np.ndarray:
    return frame.reformat(width=SIZE, height=SIZE, format="rgb24", interpolation="BICUBIC").to_ndarray()


def packets_of(source) -> list:
    """The packets of a container's video."""
    return [packet for packet in source.demux(source.streams.video[0]) if packet.size]


def numbers(frames: np.ndarray, among: np.ndarray) -> list[int]:
    """Which of the frames `among` these are, -1 for none."""
    return [next((i for i, other in enumerate(among) if np.array_equal(f, other)), -1) for f in frames]


# ── Containers, codecs, structures ───────────────────────────────────────────────────────────────

PLAIN = (dict(gop=6), dict(gop=250))
REORDERED = (*PLAIN, dict(gop=6, b_frames=2), dict(gop=6, b_frames=2, open_gop=True))
LATE = (dict(gop=12, b_frames=3, open_gop=True, offset=10.0), dict(gop=24, offset=3.0))
MATRIX = [
    (codec, container, structure)
    for codec, containers, structures in (
        ("libx264", ("mp4", "mov", "mkv", "ts", "flv"), REORDERED + LATE),
        ("libx264", ("avi", "3gp", "m4v"), REORDERED),
        ("mpeg2video", ("mkv", "ts", "mpg"), REORDERED + LATE),
        ("mpeg2video", ("mp4", "avi", "vob"), REORDERED[2:]),
        ("mpeg4", ("mp4", "mkv", "ts"), REORDERED[2:] + LATE),
        ("mpeg4", ("avi",), REORDERED),
        ("mpeg1video", ("mpg",), REORDERED[2:]),
        ("libx265", ("mp4", "mkv", "ts"), REORDERED[2:] + LATE[1:]),
        ("libvpx", ("webm",), PLAIN[:1]),
        ("libvpx-vp9", ("webm", "mp4"), PLAIN[:1] + LATE[1:]),
        ("libsvtav1", ("mp4",), PLAIN[:1]),
        ("mjpeg", ("avi", "mov"), PLAIN[:1]),
        ("wmv2", ("wmv", "avi"), PLAIN),
        ("flv", ("flv",), PLAIN),
        ("h263p", ("avi",), PLAIN[:1]),
        ("ffv1", ("mkv", "avi"), PLAIN[:1]),
        ("prores_ks", ("mov",), PLAIN[:1]),
        ("gif", ("gif",), PLAIN[:1]),
    )
    for container in containers
    for structure in structures
]
assert len(MATRIX) >= 60


@pytest.mark.parametrize(
    "codec, container, structure",
    MATRIX,
    ids=["-".join((codec, name, *map(str, how.values()))) for codec, name, how in MATRIX],
)
def test_every_sampled_frame_is_that_of_a_full_decode(tmp_path, monkeypatch, codec, container, structure):
    """As prepared, and with every single frame sought; whole, and from one time to another."""
    path = encode(tmp_path / f"a.{container}", codec, **structure)
    whole = decoded(path)
    assert len(whole) == 24
    expected, cut = evenly_spaced(24, T), [7, 10, 13, 16]
    for seconds in (video.SEEK_SECONDS, 0):
        monkeypatch.setattr(video, "SEEK_SECONDS", seconds)
        assert numbers(read_video(str(path), T, SIZE)[0], whole) == expected
        assert numbers(read_video(path.read_bytes(), 4, SIZE, 6 / RATE, 18 / RATE)[0], whole) == cut


@pytest.mark.parametrize("codec, container, gop", [("libx264", "ts", 250), ("mpeg2video", "mpg", 15)])
def test_a_long_video_without_an_index_too(tmp_path, codec, container, gop):
    path = encode(tmp_path / f"a.{container}", codec, gop=gop, count=750, b_frames=2)
    whole = decoded(path)
    assert np.array_equal(read_video(str(path), T, SIZE)[0], whole[evenly_spaced(750, T)])


@pytest.mark.parametrize(
    "codec, name, options",
    [
        (
            "libvpx",
            "a.webm",
            {"auto-alt-ref": 1, "lag-in-frames": 8, "deadline": "good"},
        ),  # packets not shown
        ("libx264", "a.mkv", {"intra-refresh": 1, "gop": 12}),  # key frames that need the ones before
        ("libx264", "a.ts", {"flags": "+ildct+ilme", "b_frames": 2}),  # a packet for each field
        ("libx265", "a.mkv", {"gop": 8, "b_frames": 3, "open_gop": True}),
    ],
    ids=["hidden frames", "intra refresh", "interlaced", "leading pictures"],
)
def test_packets_that_are_no_frames_of_their_own_change_nothing(tmp_path, monkeypatch, codec, name, options):
    path = encode(tmp_path / name, codec, count=40, **options)
    whole = decoded(path)
    for seconds in (video.SEEK_SECONDS, 0):
        monkeypatch.setattr(video, "SEEK_SECONDS", seconds)
        assert numbers(read_video(str(path), T, SIZE)[0], whole) == evenly_spaced(len(whole), T)


def test_frames_of_an_indexed_file_are_sought(tmp_path):
    """Which is what makes a long one quick."""
    for name in ("a.mp4", "a.mkv"):
        path = encode(tmp_path / name, "libx264", gop=6, count=60, rate=1, b_frames=2, open_gop=True)
        seen = see_video(str(path), 4, SIZE)
        assert seen.about["read"] == "sought by its index"
        assert numbers(seen.frames, decoded(path)) == evenly_spaced(60, 4)


# ── As cameras, cutters and muxers leave them ────────────────────────────────────────────────────


def patched(path: Path, box: bytes, *numbers: tuple[int, int]) -> bytes:
    """A file's content with big-endian 32-bit numbers written at offsets after a box's name."""
    data = bytearray(path.read_bytes())
    at = data.find(box) + 4
    for offset, number in numbers:
        data[at + offset : at + offset + 4] = number.to_bytes(4, "big")
    return bytes(data)


def test_an_mp4_trimmed_without_encoding_it_again_is_what_its_edit_list_says(tmp_path):
    """Its first and last frames are in the file, and no player shows them."""
    path = encode(tmp_path / "whole.mp4", "libx264", gop=24, b_frames=2, count=96)
    with av.open(str(path)) as container:
        delay, unit = 1024, int(1 / RATE / container.streams.video[0].time_base)
    trimmed = tmp_path / "trimmed.mp4"  # 65 of 96 frames, the first of them the 20th
    trimmed.write_bytes(patched(path, b"elst", (8, 65 * 1000 // RATE), (12, 20 * unit + delay)))
    whole, shown = decoded(path), decoded(trimmed)
    assert np.array_equal(shown, whole[20:85])
    assert numbers(read_video(str(trimmed), T, SIZE)[0], shown) == evenly_spaced(65, T)
    assert numbers(read_video(str(trimmed), 4, SIZE, 1.0, 2.0)[0], shown) == [28, 34, 40, 46]


def test_avi_headers_that_count_too_many_frames_are_not_believed(tmp_path):
    path = encode(tmp_path / "a.avi", "mpeg4")
    whole, data = decoded(path), bytearray(path.read_bytes())
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        at = data.find(name) + offset
        assert int.from_bytes(data[at : at + 4], "little") == 24
        data[at : at + 4] = (30).to_bytes(4, "little")
    assert numbers(read_video(bytes(data), T, SIZE)[0], whole) == evenly_spaced(24, T)
    with pytest.raises(BadClip, match="cut off"):
        read_video(bytes(data[: len(data) * 7 // 8]), T, SIZE)


def remuxed(path: Path, target: Path, times=lambda i: i) -> Path:
    """The packets of a file in another, packet i at `times(i)` frames."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packets_of(source)):
            packet.pts = packet.dts = round(times(i) / RATE / packet.time_base)
            packet.stream = stream
            container.mux(packet)
    return target


def test_empty_chunks_of_an_avi_hold_the_frame_before(tmp_path):
    """As its muxer has it where frames are dropped: of 24 frames' time, a frame for every third is there."""
    path = encode(tmp_path / "a.avi", "mjpeg", count=8)
    held = remuxed(path, tmp_path / "held.avi", lambda i: 3 * i)
    seen = see_video(str(held), 6, SIZE)
    assert numbers(seen.frames, decoded(path)) == [
        0,
        1,
        3,
        4,
        5,
        6,
    ]  # the last one is shown for one frame's time
    assert seen.different == 6


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov"])
def test_a_cover_picture_before_the_video_is_no_video(tmp_path, name):
    path = encode(tmp_path / "plain.mp4", "libx264")
    with av.open(str(path)) as source, av.open(str(tmp_path / name), "w") as target:
        cover = target.add_stream("mjpeg", rate=RATE)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        stream = target.add_stream_from_template(source.streams.video[0])
        target.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        target.mux(cover.encode())
        for packet in packets_of(source):
            packet.stream = stream
            target.mux(packet)
    seen = see_video(str(tmp_path / name), T, SIZE)
    assert numbers(seen.frames, decoded(path)) == evenly_spaced(24, T) and seen.notes == ()
    assert len(list(live_frames(tmp_path / name, rate=1e6))) == 24, "streamed neither"


def test_of_two_videos_in_one_file_the_first_is_taken_and_that_is_said(tmp_path):
    """Front and rear camera."""
    paths = [encode(tmp_path / f"{i}.mp4", "libx264", count=24 - i) for i in range(2)]
    with av.open(str(tmp_path / "both.mp4"), "w") as target:
        sources = [av.open(str(path)) for path in paths]
        streams = [target.add_stream_from_template(source.streams.video[0]) for source in sources]
        for source, stream in zip(sources, streams):
            for packet in packets_of(source):
                packet.stream = stream
                target.mux(packet)
            source.close()
    seen = see_video(str(tmp_path / "both.mp4"), T, SIZE)
    assert numbers(seen.frames, decoded(paths[0])) == evenly_spaced(24, T) and seen.notes == (video.SEVERAL,)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_parts_of_two_transport_streams_in_one_file_follow_each_other(tmp_path, codec):
    """Time stamps start again: the second begins where the first ends, and that is said."""
    parts = [encode(tmp_path / f"{i}.ts", codec, count=n, b_frames=2) for i, n in enumerate((24, 16))]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = decoded(joined)
    assert len(whole) == 40
    seen = see_video(str(joined), T, SIZE)
    assert numbers(seen.frames, whole) == [2, 7, 12, 17, 22, 3, 8, 13]  # 24 looks like 0
    assert video.RESTARTS in seen.notes and seen.about["seconds"] == pytest.approx(40 / RATE)
    assert numbers(read_video(str(joined), 4, SIZE, 0.8, 1.12)[0], whole) == [21, 23, 1, 3]


def test_a_transport_stream_that_was_cut_out_of_another_begins_with_what_can_be_decoded(tmp_path):
    path = encode(tmp_path / "a.ts", "libx264", gop=12, count=48, b_frames=2)
    data = path.read_bytes()
    cut = tmp_path / "cut.ts"
    tables = data[: 3 * 188]  # what says which streams there are
    cut.write_bytes(tables + data[len(data) // 188 // 6 * 188 :])
    whole = decoded(cut)
    assert 20 < len(whole) < 48
    assert numbers(read_video(str(cut), T, SIZE)[0], whole) == evenly_spaced(len(whole), T)


def test_a_raw_stream_has_no_times(tmp_path):
    path = encode(tmp_path / "a.h264", "libx264", b_frames=2)
    seen = see_video(str(path), T, SIZE)
    assert numbers(seen.frames, decoded(path)) == evenly_spaced(24, T) and video.DISORDER in seen.notes
    with pytest.raises(BadClip, match="no time stamps"):
        read_video(str(path), T, SIZE, 0.1, 0.5)


def test_one_frame_for_most_of_the_time_is_taken_again_and_that_is_said(tmp_path):
    """A camera that stood still for ten minutes: time decides, as ever."""
    path = encode(tmp_path / "a.mkv", "libx264", gop=6)
    gap = remuxed(path, tmp_path / "gap.mkv", lambda i: i if i < 12 else i + 600 * RATE)
    seen = see_video(str(gap), T, SIZE)
    assert numbers(seen.frames, decoded(path)) == [11] * 8 and seen.different == 1
    assert seen.notes == (video.HELD,) and seen.about["variable"] and seen.about["gap"] > 599
    assert see_video(str(path), T, SIZE).notes == ()


@pytest.mark.parametrize(
    "start, end, words",
    [(1e300, None, "0 frames"), (None, 1e300, ""), (5.0, None, "0 frames"), (0.5, 0.5, "0 frames")],
)
def test_times_beyond_a_video_are_no_crash(tmp_path, start, end, words):
    for name in ("a.mp4", "a.ts"):
        path = str(encode(tmp_path / name, "libx264"))
        if words:
            with pytest.raises(BadClip, match=words):
                read_video(path, T, SIZE, start, end)
        else:
            assert np.array_equal(read_video(path, T, SIZE, start, end)[0], read_video(path, T, SIZE)[0])


# ── Turned, mirrored, transparent ────────────────────────────────────────────────────────────────

# By the matrix (a, b, c, d) that takes (x, y) to (a x + c y, b x + d y): what becomes of the picture.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda p: p,
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, -1, 1, 0): lambda p: np.rot90(p),
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations_of_a_video_are_shown_upright(tmp_path, matrix):
    """The display matrix of an mp4, as phones that are held in any way write it, selfie cameras mirrored."""
    path = encode(tmp_path / "a.mp4", "libx264")
    a, b, c, d = ((number % (1 << 16)) << 16 for number in matrix)
    turned = patched(path, b"tkhd", *zip((40, 44, 52, 56), (a, b, c, d)))
    seen = see_video(turned, T, SIZE)
    stored = decoded(path)[evenly_spaced(24, T)]
    assert np.array_equal(seen.frames, np.stack([ORIENTATIONS[matrix](picture) for picture in stored]))
    assert (seen.about["orientation"] == "as stored") == (matrix == (1, 0, 0, 1))
    (tmp_path / "turned.mp4").write_bytes(turned)
    streamed = [frame for _, frame in live_frames(tmp_path / "turned.mp4", rate=1e6)]
    with av.open(str(path)) as container:
        frames = [f.reformat(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)]
    whole = [ORIENTATIONS[matrix](frame.to_ndarray()) for frame in frames]
    assert len(streamed) == 24 and all(map(np.array_equal, streamed, whole)), "shown as a sample is"
