import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from conftest import damaged, frame_numbers, write_video

from fvlm.data.video import (
    SHORT,
    TRANSPARENT,
    BadClip,
    Pictures,
    Still,
    Video,
    decode_jpegs,
    encode_jpeg,
    evenly_spaced,
    letterboxed,
    read_video,
    shown_shape,
)


@pytest.fixture
def plain(tmp_path):
    return write_video(tmp_path / "plain.mp4")


def test_frames_are_the_middles_of_equal_parts(plain):
    frames, different = read_video(str(plain), 8, 32)
    assert frames.shape == (8, 32, 32, 3) and frames.dtype == np.uint8 and different == 8
    assert frame_numbers(frames) == [1, 4, 7, 10, 13, 16, 19, 22] == evenly_spaced(24, 8)


@pytest.mark.parametrize(
    "name, codec",
    [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mpg", "mpeg2video")],
)
def test_any_container_and_codec_gives_the_same_frames(tmp_path, name, codec):
    rate = 25 if codec == "mpeg2video" else 12  # MPEG-2 knows no other
    frames, _ = read_video(str(write_video(tmp_path / name, codec=codec, rate=rate)), 8, 32)
    assert frame_numbers(frames) == [1, 4, 7, 10, 13, 16, 19, 22]


def test_a_file_s_content_reads_like_the_file(plain):
    assert np.array_equal(read_video(plain.read_bytes(), 4, 32)[0], read_video(str(plain), 4, 32)[0])


def test_at_a_variable_frame_rate_time_decides(tmp_path):
    """Frames 0-9 are shown for 100 ms each, frames 10 and 11 for a second: most of the time, they are what is
    seen."""
    pts = [100 * i for i in range(10)] + [1000, 2000, 3000]
    path = write_video(tmp_path / "vfr.mkv", count=13, codec="libx264", rate=1000, pts=pts)
    frames, _ = read_video(str(path), 4, 32)
    assert frame_numbers(frames) == [3, 10, 10, 11]


def test_a_long_video_is_sought_in_and_gives_what_decoding_all_of_it_gives(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", count=31, rate=1, codec="libx264", gop=8)
    import fvlm.data.video as video

    sought, _ = read_video(str(path), 4, 32)
    monkeypatch.setattr(video, "SEEK_SECONDS", 1e9)
    decoded, _ = read_video(str(path), 4, 32)
    assert np.array_equal(sought, decoded) and frame_numbers(sought) == [3, 11, 19, 27]


def test_a_clip_is_cut_out_of_a_video(plain):
    seen = Video(str(plain), start=0.5, end=1.5).read(4, 32)
    assert frame_numbers(seen.frames) == [7, 10, 13, 16]


def test_a_short_clip_repeats_its_last_frame_and_says_so(tmp_path):
    frames, different = read_video(str(write_video(tmp_path / "short.mp4", count=3)), 8, 32)
    assert different == 3 and frame_numbers(frames) == [0, 1, 2, 2, 2, 2, 2, 2]


def test_the_shape_that_a_video_is_shown_in_counts_its_turn_and_its_pixels_proportions(tmp_path):
    import av

    plain = write_video(tmp_path / "wide.mp4", size=(96, 48))
    assert shown_shape(str(plain)) == shown_shape(plain.read_bytes()) == (48, 96)
    data = bytearray(plain.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # upright
    assert shown_shape(bytes(data)) == (96, 48)
    path = tmp_path / "narrow_pixels.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 96, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert shown_shape(str(path)) == (48, 48)
    (tmp_path / "text.mp4").write_text("no video" * 100)
    with pytest.raises(BadClip, match="unreadable"):
        shown_shape(str(tmp_path / "text.mp4"))


def test_a_letterboxed_frame_has_the_whole_picture_in_its_proportions():
    ramp = np.repeat(np.linspace(60, 250, 32).astype(np.uint8)[None, :, None], 3, axis=2)  # left to right
    frames = np.stack([ramp.repeat(32, axis=0)] * 2)
    for shape, place in (
        ((90, 160), (0, 7, 32, 25)),
        ((160, 90), (7, 0, 25, 32)),
        ((50, 50), (0, 0, 32, 32)),
    ):
        boxed, (left, top, right, bottom) = letterboxed(frames, shape)
        assert (left, top, right, bottom) == place and boxed.shape == frames.shape
        inside = boxed[:, top:bottom, left:right].astype(int)
        assert boxed.astype(int).sum() == inside.sum(), "the rest is black"
        wide = right - left
        wanted = np.interp((np.arange(wide) + 0.5) * 32 / wide - 0.5, np.arange(32), ramp[0, :, 0])
        assert np.abs(inside.mean(axis=(0, 1, 3)) - wanted).max() < 5


@pytest.mark.parametrize(
    "degrees, matrix", [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_a_rotation_that_the_file_asks_for_is_applied(tmp_path, degrees, matrix):
    """The display matrix of an mp4 that was filmed upright: its upper left corner is dark, and turns
    clockwise."""
    import av

    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        picture = np.full((64, 64, 3), 230, np.uint8)
        picture[:32, :32] = 20
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40  # version, flags, times, id, …, then the matrix
    a, b, c, d = (v << 16 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames, _ = read_video(bytes(data), 2, 64)
    corners = [frames[0][y, x].mean() < 128 for y, x in ((16, 16), (16, 48), (48, 48), (48, 16))]  # clockwise
    assert corners == [i == degrees // 90 for i in range(4)]


def test_pictures_and_stills(tmp_path):
    jpegs = [encode_jpeg(np.full((40, 30, 3), v, np.uint8), 90) for v in (10, 100, 200)]
    seen = Pictures(tuple(jpegs)).read(4, 32)
    assert seen.different == 3 and seen.notes == (SHORT,)
    assert [round(f.mean(), -1) for f in seen.frames] == [10, 100, 200, 200]
    seen = Still(jpegs[1]).read(8, 32)
    assert (
        seen.different == 8 and seen.frames.shape == (8, 32, 32, 3) and (seen.frames == seen.frames[0]).all()
    )
    with pytest.raises(BadClip, match="too short"):
        Pictures(tuple(jpegs[:1])).read(4, 32)


@pytest.mark.parametrize("turn", range(1, 9))
def test_all_eight_exif_orientations_of_a_picture_are_shown_upright(turn):
    """A picture whose upper left corner is dark and whose upper right is grey, stored as a camera held so
    would."""
    from PIL import Image

    upright = np.full((32, 32, 3), 230, np.uint8)
    upright[:16, :16], upright[:16, 16:] = 20, 120
    stored = {  # what Exif says of where row 0 and column 0 of the stored picture belong
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, "PNG", exif=exif)
    seen = Still(buffer.getvalue()).read(2, 32)
    assert np.array_equal(seen.frames[0], upright)
    assert (seen.about["orientation"] == "as stored") == (turn == 1)


def test_sixteen_bits_of_grey_keep_their_range():
    from PIL import Image

    ramp = np.linspace(0, 65535, 32).astype(np.uint16)[None].repeat(32, 0)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    frame = Still(buffer.getvalue()).read(2, 32).frames[0]
    assert abs(frame[5, :, 1].astype(int) - np.linspace(0, 255, 32)).max() <= 1


@pytest.mark.parametrize("name", ["rgba", "palette", "grey and alpha", "video"])
def test_what_is_transparent_is_put_on_white(tmp_path, name):
    """Left half opaque, right half transparent with black, as most tools leave it, under the transparency."""
    import av
    from PIL import Image

    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:, :16] = (60, 60, 60, 255)
    image = Image.fromarray(picture)
    if name == "video":
        with av.open(str(tmp_path / "a.mov"), "w") as container:
            stream = container.add_stream("qtrle", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "argb"
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
            container.mux(stream.encode())
        seen = Video(str(tmp_path / "a.mov")).read(2, 32)
    else:
        if name == "palette":
            image = Image.fromarray(np.repeat([[0] * 16 + [1] * 16], 32, 0).astype(np.uint8), "P")
            image.putpalette([60, 60, 60, 0, 0, 0])
            image.info["transparency"] = 1
        if name == "grey and alpha":
            image = image.convert("LA")
        image.save(tmp_path / "a.png")
        seen = Still(str(tmp_path / "a.png")).read(2, 32)
    frame = seen.frames[0].astype(int)
    assert abs(frame[:, :12] - 60).max() <= 2 and abs(frame[:, 20:] - 255).max() <= 2
    assert seen.notes == (TRANSPARENT,)


@pytest.mark.parametrize(
    "kind, reason, words",
    [
        ("zero bytes", "unreadable", ""),
        ("text", "unreadable", "not a video"),
        ("one frame", "too short", "1 frames"),
        ("cut off", "unreadable", ""),
        ("cut off, index first", "unreadable", "cut off"),
        ("sound alone", "unreadable", "no video"),
    ],
)
def test_bad_files_are_told_apart(tmp_path, kind, reason, words):
    with pytest.raises(BadClip) as bad:
        read_video(str(damaged(tmp_path, kind)), 8, 32)
    assert bad.value.reason == reason and words in bad.value.detail


def test_a_20_000_pixel_frame_is_refused_before_it_is_decoded(tmp_path):
    from PIL import Image

    Image.new("L", (20_000, 10)).save(tmp_path / "wide.png")
    with pytest.raises(BadClip, match="20000"):
        Still(str(tmp_path / "wide.png")).read(8, 32)
    write_video(tmp_path / "wide.mkv", count=3, size=(20_000, 16), codec="ffv1")
    with pytest.raises(BadClip, match="20000"):
        read_video(str(tmp_path / "wide.mkv"), 8, 32)


def test_jpegs_come_back_at_the_size_that_is_asked_for():
    gradient = np.repeat(np.linspace(0, 255, 224).astype(np.uint8)[None, :, None], 224, 0).repeat(3, 2)
    frames = decode_jpegs([encode_jpeg(gradient, 90)] * 2)
    assert (
        frames.shape == (2, 3, 224, 224)
        and abs(frames[0].transpose(1, 2, 0).astype(int) - gradient).max() < 12
    )
    small = decode_jpegs([encode_jpeg(gradient, 90)], 112)
    assert (
        small.shape == (1, 3, 112, 112) and abs(small[0, 0, 50].astype(int) - gradient[0, ::2, 0]).max() < 12
    )
