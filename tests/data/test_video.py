import struct

import numpy as np
import pytest
from conftest import damaged, frame_numbers, write_video

from fvlm.data.video import (
    BadClip,
    Pictures,
    Still,
    Video,
    decode_jpegs,
    encode_jpeg,
    evenly_spaced,
    read_video,
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
    frames, _ = Video(str(plain), start=0.5, end=1.5).read(4, 32)
    assert frame_numbers(frames) == [7, 10, 13, 16]


def test_a_short_clip_repeats_its_last_frame_and_says_so(tmp_path):
    frames, different = read_video(str(write_video(tmp_path / "short.mp4", count=3)), 8, 32)
    assert different == 3 and frame_numbers(frames) == [0, 1, 2, 2, 2, 2, 2, 2]


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
    frames, different = Pictures(tuple(jpegs)).read(4, 32)
    assert different == 3 and [round(f.mean(), -1) for f in frames] == [10, 100, 200, 200]
    frames, different = Still(jpegs[1]).read(8, 32)
    assert different == 8 and frames.shape == (8, 32, 32, 3) and (frames == frames[0]).all()
    with pytest.raises(BadClip, match="too short"):
        Pictures(tuple(jpegs[:1])).read(4, 32)


def test_a_picture_s_exif_turn_is_applied(tmp_path):
    from PIL import Image

    picture = np.full((32, 32, 3), 230, np.uint8)
    picture[:16, :16] = 20
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(picture).save(tmp_path / "x.png", exif=exif)
    (frame, _), _ = Still(str(tmp_path / "x.png")).read(2, 32)
    assert frame[8, 24].mean() < 128 < frame[8, 8].mean()


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
