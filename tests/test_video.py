"""stream.video: frames by timestamp from every kind of file, honest errors from damaged ones, and the writer."""

from __future__ import annotations

import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stream.video_source as video_source
from benchmarks.speed.decode import decode_vs_pyav
from gazeqwen.errors import InputError, MissingExtraError
from stream.video import (
    TIME_TOLERANCE_S,
    VideoWriter,
    frame_times,
    iter_frames,
    probe,
    read_at,
    wanted_times,
    write_clip,
)
from tests.conftest import shared_dir

W, H, FPS = 64, 48, 20
OPEN_GOP = {"x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}
CONTAINERS = [".mp4", ".mkv", ".ts", ".mov"]


def picture(k: int, width: int = W, height: int = H) -> np.ndarray:
    """A frame that tells its number and which way is up: a bar that moves, blue on top, a red corner at top left."""
    image = np.full((height, width, 3), (k * 7) % 200, np.uint8)
    image[: height // 2, :, 2] = 220
    image[:, (k * 3) % (width - 8) : (k * 3) % (width - 8) + 8, 1] = 255
    image[: height // 3, : width // 3] = (255, 0, 0)
    return image


def encode(
    path: Path,
    n: int = 40,
    *,
    gop: int = 10,
    bframes: int = 2,
    pts: list[int] | None = None,
    tick: Fraction = Fraction(1, FPS),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    size: tuple[int, int] = (W, H),
) -> Path:
    """A clip straight from PyAV, with everything our own writer avoids: B-frames, open GOPs, late starts."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(
            "libx264", rate=min(FPS, int(1 / tick)), options={"preset": "veryfast", **(options or {})}
        )
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, bframes
        for k in range(n):
            frame = av.VideoFrame.from_ndarray(picture(k, *size), format="rgb24")
            frame.pts, frame.time_base = pts[k] if pts else k, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """The reference: every frame by a bare PyAV loop, (exact seconds from the first, RGB as stored)."""
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base or Fraction(0)
        frames = [((f.pts or 0) * tick, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return [(t - frames[0][0], image) for t, image in frames]


def patched(source: Path, target: Path, box: bytes, offset: int, values: bytes) -> Path:
    """A copy of an mp4 with bytes replaced at an offset from a box's name."""
    data = bytearray(source.read_bytes())
    at = data.index(box) + 4 + offset
    data[at : at + len(values)] = values
    target.write_bytes(data)
    return target


def turned(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return patched(source, target, b"tkhd", 40, matrix)


def gray(image: np.ndarray) -> float:
    return float(image.mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return encode(folder / "clip.mp4")


@pytest.fixture(scope="module")
def faststart(folder: Path) -> Path:
    return encode(folder / "faststart.mp4", container_options={"movflags": "+faststart"})


@pytest.fixture(scope="module")
def vfr(folder: Path) -> Path:
    """20 frames at 20 fps, a pause of 1.5 s, then uneven gaps."""
    gaps = [4500] * 20 + [135_000] + [900 + 700 * k for k in range(19)]
    return encode(folder / "vfr.mp4", pts=np.cumsum([0, *gaps[:-1]]).tolist(), tick=Fraction(1, 90_000))


@pytest.fixture(scope="module")
def long_clips(folder: Path) -> dict[str, Path]:
    """60 s at 10 fps with a keyframe every 2 s, in the containers and GOP forms that seek differently."""
    tick = Fraction(1, 10)
    made = {s: encode(folder / f"long{s}", 600, gop=20, tick=tick) for s in CONTAINERS}
    made["open.mp4"] = encode(folder / "open.mp4", 600, tick=tick, options=OPEN_GOP)
    made["open.ts"] = encode(folder / "open.ts", 600, tick=tick, options=OPEN_GOP)
    made["refresh.mp4"] = encode(folder / "refresh.mp4", 600, tick=tick, options={"intra-refresh": "1", "g": "20"})
    made["one-gop.mp4"] = encode(folder / "one-gop.mp4", 600, gop=600, tick=tick, options={"sc_threshold": "0"})
    made["late.mp4"] = encode(folder / "late.mp4", 600, gop=20, tick=tick, pts=list(range(777, 1377)))
    return made


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("first_pts", [0, 33])
def test_iter_frames_gives_every_frame_at_its_pts(folder: Path, suffix: str, first_pts: int) -> None:
    path = encode(folder / f"all-{first_pts}{suffix}", pts=list(range(first_pts, first_pts + 40)))
    frames, reference = list(iter_frames(path)), decoded(path)
    assert [f.time_s for f in frames] == [float(t) for t, _ in reference]
    assert frames[0].time_s == 0.0 and len(frames) == 40
    assert all(np.array_equal(f.image, image) for f, (_, image) in zip(frames, reference, strict=True))
    starts = [f.time_s for f in frames[1:]]
    assert [f.time_s + f.duration_s for f in frames[:-1]] == pytest.approx(starts, abs=1e-9)
    info = probe(path)
    assert info.duration_s == pytest.approx(frames[-1].time_s + frames[-1].duration_s, abs=1e-3) == 2.0
    assert (info.width_px, info.height_px, info.rotation_deg, info.codec) == (W, H, 0, "h264")
    assert info.fps == pytest.approx(FPS)
    if suffix != ".ts":  # the muxer adds its own delay there
        assert info.first_pts_s == pytest.approx(first_pts / FPS)


def test_images_are_those_that_were_encoded(clip: Path) -> None:
    for k, frame in enumerate(iter_frames(clip)):
        assert np.abs(frame.image.astype(int) - picture(k)).mean() < 8
        others = [np.abs(frame.image.astype(int) - picture(j)).mean() for j in (k - 1, k + 1)]
        assert np.abs(frame.image.astype(int) - picture(k)).mean() < min(others)


def test_variable_rate_durations_follow_the_timestamps(vfr: Path) -> None:
    frames, times = list(iter_frames(vfr)), [float(t) for t, _ in decoded(vfr)]
    assert [f.time_s for f in frames] == times
    assert frames[20].duration_s == pytest.approx(1.5)
    assert [f.duration_s for f in frames[:-1]] == pytest.approx(np.diff(times))
    assert probe(vfr).duration_s == pytest.approx(frames[-1].time_s + frames[-1].duration_s)
    (_, paused), (_, after) = read_at(vfr, [2.4, 2.505])
    assert (paused.time_s, after.time_s) == (1.0, 2.5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_read_at_picks_the_newest_frame_at_or_before_each_time(vfr: Path, data: st.DataObject) -> None:
    frames = list(iter_frames(vfr))
    starts = np.array([f.time_s for f in frames])
    end_s = frames[-1].time_s + frames[-1].duration_s
    anywhere = st.floats(0, end_s) | st.sampled_from(starts.tolist())
    wanted = sorted(data.draw(st.lists(anywhere, max_size=12)))
    got = list(read_at(vfr, wanted))
    assert [row for row, _ in got] == list(range(len(wanted)))
    for row, frame in got:
        expected = frames[int(np.searchsorted(starts, wanted[row] + TIME_TOLERANCE_S, side="right")) - 1]
        assert (frame.time_s, frame.duration_s) == (expected.time_s, expected.duration_s)
        assert np.array_equal(frame.image, expected.image)


def test_a_time_within_the_tolerance_before_a_frame_counts_as_its_own(clip: Path) -> None:
    step = 1 / FPS
    wanted = [step - 3 * TIME_TOLERANCE_S, step - 0.5 * TIME_TOLERANCE_S, step]
    assert [f.time_s for _, f in read_at(clip, wanted)] == [0.0, step, step]


def test_each_source_frame_is_converted_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    image = video_source.PyavSource.image
    monkeypatch.setattr(
        video_source.PyavSource, "image", lambda self, p: (converted.append(p.time_s), image(self, p))[1]
    )
    got = list(read_at(clip, [0.5, 0.5, 0.51, 0.54, 1.0]))
    assert converted == [0.5, 1.0]
    assert got[0][1].image is got[3][1].image


@pytest.mark.parametrize(
    "name",
    [*CONTAINERS, "open.mp4", "open.ts", "refresh.mp4", "one-gop.mp4", "late.mp4"],
)
def test_frames_after_a_seek_equal_sequential_decoding(
    long_clips: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = long_clips[name], [3.05, 3.1, 19.0, 19.95, 24.0, 24.05, 41.87, 59.0, 59.99]
    reference = decoded(path)
    seeks = []
    seek = video_source.PyavSource._seek
    monkeypatch.setattr(video_source.PyavSource, "_seek", lambda self, t: (seeks.append(t), seek(self, t))[1])
    for (_, frame), time_s in zip(read_at(path, wanted), wanted, strict=True):
        k = int(time_s * 10 + 1e-6)
        assert frame.time_s == float(reference[k][0]) == pytest.approx(k / 10)
        assert np.array_equal(frame.image, reference[k][1]), f"{name} at {time_s} s"
        assert frame.duration_s == pytest.approx(0.1)
    assert seeks, "the test is about seeking"
    tail = [f.image for f in iter_frames(path, start_s=50.0)]
    assert len(tail) == 100 and all(np.array_equal(a, b) for a, (_, b) in zip(tail, reference[500:], strict=True))


def test_a_seek_skips_decoding(long_clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = video_source.PyavSource._picture
    monkeypatch.setattr(video_source.PyavSource, "_picture", lambda self, *a: (made.append(1), build(self, *a))[1])
    assert len(list(read_at(long_clips[".mp4"], [0.0, 30.0, 59.0]))) == 3
    assert len(made) < 100  # of 600


@pytest.mark.parametrize("overshoot_s", [7.0, 100.0])
def test_a_seek_that_lands_late_is_made_good(
    long_clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, overshoot_s: float
) -> None:
    path, wanted = long_clips[".mkv"], [1.0, 23.3, 41.0]
    reference = decoded(path)
    seek = video_source.PyavSource._seek
    monkeypatch.setattr(video_source.PyavSource, "_seek", lambda self, t: seek(self, t + overshoot_s))
    for (_, frame), time_s in zip(read_at(path, wanted), wanted, strict=True):
        assert np.array_equal(frame.image, reference[round(time_s * 10)][1])


def test_ranges_are_half_open_and_checked(clip: Path) -> None:
    times = [f.time_s for f in iter_frames(clip, start_s=0.5, stop_s=1.0)]
    assert times == pytest.approx(np.arange(10, 20) / FPS)
    assert len(list(iter_frames(clip, stop_s=probe(clip).duration_s))) == 40
    for start_s, stop_s in [(-1.0, None), (float("nan"), None), (1.0, 1.0)]:
        with pytest.raises(InputError):
            iter_frames(clip, start_s=start_s, stop_s=stop_s)
    for start_s, stop_s in [(0.0, 2.5), (5.0, None), (5.0, 6.0)]:
        with pytest.raises(InputError, match=r"2\.000 readable seconds"):
            list(iter_frames(clip, start_s=start_s, stop_s=stop_s))


def test_times_outside_the_video_are_refused_after_those_inside(clip: Path) -> None:
    assert [f.time_s for _, f in read_at(clip, [2.0])] == [1.95]  # the very end still shows the last frame
    inside = []
    with pytest.raises(InputError, match=r"video up to 2\.100 s, found 2\.000 readable"):
        inside.extend(row for row, _ in read_at(clip, [1.0, 1.99, 2.1]))
    with pytest.raises(InputError, match="first frame"):
        read_at(clip, [-0.01, 1.0])
    for bad in ([1.0, 0.5], [float("nan")], [[0.1]]):
        with pytest.raises(InputError, match="ascending"):
            read_at(clip, np.array(bad))
    assert list(read_at(clip, [])) == []


@given(fps=st.floats(0.01, 240), start_s=st.floats(0, 1000), length_s=st.floats(0.001, 50))
def test_wanted_times_do_not_drift(fps: float, start_s: float, length_s: float) -> None:
    times = wanted_times(start_s + length_s, fps, start_s=start_s)
    assert np.array_equal(times, start_s + np.arange(times.size) / fps)
    assert times.size >= 1 and times[-1] < start_s + length_s
    assert start_s + times.size / fps >= start_s + length_s - 2 * TIME_TOLERANCE_S


def test_wanted_times_refuses_what_the_video_does_not_have(clip: Path) -> None:
    info = probe(clip)
    assert wanted_times(info, 4.0).tolist() == [k / 4 for k in range(8)]
    assert wanted_times(info, 2.0, start_s=0.3, stop_s=1.3).tolist() == [0.3, 0.8]
    for bad in ({"fps": 0.0}, {"fps": float("nan")}, {"fps": 1.0, "stop_s": 2.5}, {"fps": 1.0, "start_s": 2.0}):
        with pytest.raises(InputError):
            wanted_times(info, **bad)


@pytest.mark.parametrize(
    ("matrix", "degrees", "expected"),
    [
        ((1, 0, 0, 1), 0, lambda x: x),
        ((0, 1, -1, 0), 90, lambda x: np.rot90(x, -1)),
        ((-1, 0, 0, -1), 180, lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), 270, lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, 1), 180, lambda x: x[:, ::-1]),
        ((0, 1, 1, 0), 90, lambda x: x.swapaxes(0, 1)),
    ],
)
def test_rotated_and_mirrored_files_come_out_upright(clip: Path, tmp_path: Path, matrix, degrees, expected) -> None:
    path = turned(clip, tmp_path / "turned.mp4", *matrix)
    frames, info = list(iter_frames(path)), probe(path)
    assert info.rotation_deg == degrees
    assert frames[0].image.shape == (info.height_px, info.width_px, 3)
    for frame, (_, stored) in zip(frames, decoded(clip), strict=True):
        assert np.array_equal(frame.image, expected(stored))
    small = next(iter_frames(path, max_pixels=W * H // 4)).image
    assert small.shape == expected(np.zeros((H // 2, W // 2, 3))).shape
    assert small.flags["C_CONTIGUOUS"]


def test_rotation_by_a_slant_is_refused(clip: Path, tmp_path: Path) -> None:
    slanted = struct.pack(">9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    path = patched(clip, tmp_path / "slanted.mp4", b"tkhd", 40, slanted)
    with pytest.raises(InputError, match=r"quarter turns, found 45\.0 degrees"):
        probe(path)


def test_edit_lists_set_the_clock_and_the_end(clip: Path, tmp_path: Path) -> None:
    # one entry: version and flags, count, duration in movie ticks (1/1000 s), media time in track ticks (512 a frame)
    path = patched(clip, tmp_path / "edited.mp4", b"elst", 8, struct.pack(">Ii", 1000, 1024 + 512 * 5))
    frames = list(iter_frames(path))
    assert [f.time_s for f in frames] == pytest.approx(np.arange(20) / FPS)
    assert np.array_equal(frames[0].image, decoded(clip)[5][1])
    assert probe(path).duration_s == pytest.approx(1.0)


def test_frames_without_timestamps_are_refused(folder: Path) -> None:
    path = encode(folder / "raw.h264")
    for read in (probe, lambda p: list(iter_frames(p)), lambda p: list(read_at(p, [0.0]))):
        with pytest.raises(InputError, match="timestamp on each frame"):
            read(path)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut_before_its_index(path: Path) -> None:
    encode(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
    "empty.mp4": (lambda p: p.write_bytes(b""), r"0 bytes"),
    "text.mp4": (lambda p: p.write_text("frame,time\n" * 200), r"something else"),
    "noise.mp4": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), r"something else"),
    "folder.mp4": (lambda p: p.mkdir(), r"a folder"),
    "missing.mp4": (lambda p: None, r"no such file"),
    "cut.mp4": (cut_before_its_index, r"is the file complete"),
    "audio.m4a": (audio_only, r"only audio streams"),
    "x" * 300: (lambda p: None, r"expected a video file"),
    "nul\0.mp4": (lambda p: None, r"expected a video file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_video_is_one_line_of_error(tmp_path: Path, name: str) -> None:
    path, (make, message) = tmp_path / name, BROKEN[name]
    make(path)
    for read in (probe, lambda p: list(iter_frames(p)), lambda p: list(read_at(p, [0.0]))):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("source", ["faststart.mp4", "cut.mkv"])
@pytest.mark.parametrize("part", [0.5, 0.65, 0.8, 0.9])
def test_a_file_cut_short_gives_its_frames_then_an_error(
    folder: Path, faststart: Path, tmp_path: Path, source: str, part: float
) -> None:
    whole = faststart if source == "faststart.mp4" else encode(folder / source)
    data = whole.read_bytes()
    path = tmp_path / source
    path.write_bytes(data[: int(len(data) * part)])
    got = []
    with pytest.raises(InputError, match=r"readable seconds") as caught:
        for frame in iter_frames(path):
            got.append(frame)
    assert 0 < len(got) < 40 and "\n" not in str(caught.value)
    assert all(np.array_equal(f.image, image) for f, (_, image) in zip(got, decoded(whole), strict=False))
    readable_s = float(str(caught.value).split(" readable seconds")[0].split()[-1])
    assert readable_s == pytest.approx(got[-1].time_s + got[-1].duration_s)
    assert probe(path).duration_s == pytest.approx(2.0, abs=1e-3)  # the promise, so that reading up to it fails
    with pytest.raises(InputError):
        list(read_at(path, wanted_times(probe(path), 10.0)))
    assert len(list(read_at(path, [0.0, got[-1].time_s - 0.05]))) == 2  # earlier times are unharmed


def test_a_transport_stream_cut_short_never_answers_for_later_times(folder: Path, tmp_path: Path) -> None:
    whole = encode(folder / "whole.ts")
    path = tmp_path / "cut.ts"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    info = probe(path)
    assert 0.5 < info.duration_s < 1.9
    got = [row for row, _ in read_at(path, [0.0, info.duration_s / 2])]
    assert got == [0, 1]
    with pytest.raises(InputError, match="readable seconds"):
        list(read_at(path, [0.0, 1.9]))


def test_a_transport_stream_that_starts_mid_picture_starts_its_clock_at_the_first_frame(
    folder: Path, tmp_path: Path
) -> None:
    data = encode(folder / "joined.ts", 60).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(data[188 * 20 :])
    reference = decoded(path)
    frames = list(iter_frames(path))
    assert frames[0].time_s == 0.0 and 0 < len(frames) == len(reference) < 60
    assert all(np.array_equal(f.image, image) for f, (_, image) in zip(frames, reference, strict=True))


def joined(*parts: Path) -> bytes:
    """Transport streams one after the other, their packets numbered through, so that none seems to be lost."""
    data, counters = bytearray(b"".join(p.read_bytes() for p in parts)), {}
    for at in range(0, len(data), 188):
        pid = (data[at + 1] & 0x1F) << 8 | data[at + 2]
        counters[pid] = counters.get(pid, -1) + bool(data[at + 3] & 0x10)
        data[at + 3] = data[at + 3] & 0xF0 | counters[pid] % 16
    return bytes(data)


def test_a_change_of_size_or_clock_on_the_way_is_an_error(folder: Path, tmp_path: Path) -> None:
    first = encode(folder / "first.ts")
    wider = encode(folder / "wider.ts", size=(96, 48), pts=list(range(50, 90)))
    path = tmp_path / "both.ts"
    for parts, message in [((first, wider), "one size, found 96x48 after 64x48"), ((first, first), "ascending time")]:
        path.write_bytes(joined(*parts))
        got = []
        with pytest.raises(InputError, match=message):
            for frame in iter_frames(path):
                got.append(frame.image.shape)
        assert len(got) >= 35 and set(got) == {(H, W, 3)}
    path.write_bytes(first.read_bytes()[:-1880] + first.read_bytes())
    with pytest.raises(InputError, match="incomplete packet"):
        list(iter_frames(path))


def test_tags_that_are_not_utf8_are_not_in_the_way(clip: Path, tmp_path: Path) -> None:
    path = patched(clip, tmp_path / "tags.mp4", b"ftyp", 10, b"\xca")
    assert probe(path).duration_s == 2.0
    assert len(list(iter_frames(path))) == 40


@pytest.mark.parametrize("seed", range(24))
def test_random_damage_ends_in_frames_or_in_an_input_error(
    faststart: Path, folder: Path, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    source = [faststart, encode(folder / f"damage{seed}{CONTAINERS[seed % 4]}", 20)][seed % 2]
    data = np.frombuffer(source.read_bytes(), np.uint8).copy()
    data[rng.integers(0, data.size, [1, 5, 50][seed % 3])] = rng.integers(0, 256)
    path = tmp_path / source.name
    path.write_bytes(data[: rng.integers(1, data.size) if seed % 4 == 0 else data.size].tobytes())
    for read in (probe, lambda p: list(iter_frames(p)), lambda p: list(read_at(p, [0.0, 0.1, 0.9]))):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error) and path.name in str(error)


def open_descriptors(path: Path) -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(os.path.realpath(link) == str(path.resolve()) for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc/self/fd absent: open files can't be listed here")
def test_files_are_closed_when_iteration_ends_or_is_dropped(faststart: Path, tmp_path: Path) -> None:
    frames = iter_frames(faststart)
    assert open_descriptors(faststart) == 0
    next(frames)
    assert open_descriptors(faststart) == 1
    del frames
    assert open_descriptors(faststart) == 0
    list(read_at(faststart, [0.0]))
    assert open_descriptors(faststart) == 0
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(faststart.read_bytes()[:2500])
    with pytest.raises(InputError):
        list(iter_frames(damaged))
    probe(damaged)
    assert open_descriptors(damaged) == 0


@pytest.mark.parametrize("max_pixels", [1, 100, 1000, W * H - 1, W * H, 10**7])
def test_max_pixels_bounds_the_frame_and_keeps_the_picture(clip: Path, max_pixels: int) -> None:
    full, small = next(iter_frames(clip)).image, next(iter_frames(clip, max_pixels=max_pixels)).image
    height, width = small.shape[:2]
    assert height * width <= max(1, min(max_pixels, W * H))
    if max_pixels >= W * H:
        assert np.array_equal(small, full)
    elif max_pixels >= 1000:
        assert width / height == pytest.approx(W / H, rel=0.05)
        assert gray(small) == pytest.approx(gray(full), abs=4)
    with pytest.raises(InputError, match="max_pixels"):
        iter_frames(clip, max_pixels=0)


def test_a_name_with_a_colon_is_a_file(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip("12:30.mp4", [picture(0)], fps=10)
    assert probe("12:30.mp4").width_px == W


# --- writing ---


@settings(max_examples=10, deadline=None)
@given(gaps_us=st.lists(st.integers(1_000, 3_000_000), min_size=1, max_size=6), first_us=st.integers(0, 5_000_000))
def test_written_times_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, gaps_us: list[int], first_us: int
) -> None:
    path = tmp_path_factory.mktemp("times") / "new" / "clip.mp4"
    times = (first_us + np.cumsum([0, *gaps_us])) / 1e6
    write_clip(path, [picture(k) for k in range(len(times))], times_s=times)
    frames, info = list(iter_frames(path)), probe(path)
    assert [f.time_s for f in frames] == pytest.approx(times - times[0], abs=1e-6)
    assert info.first_pts_s == pytest.approx(times[0], abs=1e-6)
    assert frames[-1].duration_s == pytest.approx(gaps_us[-1] / 1e6, abs=1e-6)
    assert info.duration_s == pytest.approx(times[-1] - times[0] + gaps_us[-1] / 1e6, abs=1e-5)
    for k, (_, frame) in enumerate(read_at(path, times - times[0])):
        assert np.abs(frame.image.astype(int) - picture(k)).mean() < 8


@pytest.mark.parametrize("fps", [1, 24, 29.97, 30000 / 1001, 7.5])
def test_a_constant_rate_clip_has_that_rate(tmp_path: Path, fps: float) -> None:
    path = write_clip(tmp_path / "clip.mp4", (picture(k) for k in range(9)), fps=fps, crf=10)
    assert [f.time_s for f in iter_frames(path)] == pytest.approx(np.arange(9) / fps, abs=1e-4)
    assert probe(path).fps == pytest.approx(fps, rel=1e-4)
    assert probe(path).duration_s == pytest.approx(9 / fps, abs=1e-3)


def test_an_odd_size_is_padded_by_its_edge(tmp_path: Path) -> None:
    image = picture(0, 51, 33)
    with VideoWriter(tmp_path / "odd.mp4", fps=5, size_px=(51, 33), crf=0) as writer:
        writer.write(image)
    frame = next(iter_frames(tmp_path / "odd.mp4"))
    assert frame.image.shape == (34, 52, 3) and writer.stored_size_px == (52, 34)
    assert np.abs(frame.image[:33, :51].astype(int) - image).mean() < 8
    assert np.abs(frame.image[33].astype(int) - frame.image[32]).mean() < 8


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [picture(0)], fps=5)
    before = path.read_bytes()

    def interrupted():
        yield picture(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(path, interrupted(), fps=5)
    with pytest.raises(InputError, match=r"shape \(48, 64, 3\), found uint8 \(30, 40, 3\)"):
        write_clip(path, [picture(0), picture(1, 40, 30)], fps=5)
    with pytest.raises(InputError, match="encoded and written there"):
        write_clip(path, [picture(0)], fps=5, preset="no-such-preset")
    with pytest.raises(InputError, match="at least one frame"), VideoWriter(path, fps=5, size_px=(W, H)):
        pass
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0, 1.0], "ascending"),
        ([0.0, 2.0, 1.0], "ascending"),
        ([0.0, 1.0], "fewer times than images"),
        ([0.0, 1.0, 2.0, 3.0], "more times than images"),
        ([-1.0, 0.0, 1.0], "times of 0 to"),
        ([0.0, float("nan"), 1.0], "times of 0 to"),
        ([0.0, 1.0, 1.7e9], "times of 0 to"),
    ],
)
def test_bad_times_are_refused(tmp_path: Path, times: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_clip(tmp_path / "clip.mp4", [picture(k) for k in range(3)], times_s=times)
    assert list(tmp_path.iterdir()) == []


def test_writer_arguments_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for kwargs in ({"fps": 0.0}, {"fps": 1e-9}, {"size_px": (0, 4)}, {"crf": 52}, {"fps": float("inf")}):
        with pytest.raises(InputError):
            VideoWriter(path, **{"size_px": (W, H), **kwargs})
    with pytest.raises(InputError, match=r"\.mp4 or \.mov"):
        VideoWriter(tmp_path / "clip.avi", size_px=(W, H))
    with pytest.raises(InputError, match="a folder"):
        (tmp_path / "taken.mp4").mkdir()
        VideoWriter(tmp_path / "taken.mp4", size_px=(W, H))
    for clocks in ({}, {"fps": 5, "times_s": [0.0]}):
        with pytest.raises(InputError, match="either fps or times_s"):
            write_clip(path, [picture(0)], **clocks)
    with pytest.raises(InputError, match="either fps or a time_s"), VideoWriter(path, fps=5, size_px=(W, H)) as writer:
        writer.write(picture(0), 0.0)
    with pytest.raises(InputError, match="at least one image"):
        write_clip(path, [], fps=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="encoded and written"):
        write_clip(tmp_path / "file" / "clip.mp4", [picture(0)], fps=5)


# --- decord ---


@pytest.mark.parametrize("name", ["closed.mp4", "closed.mkv", "open.mp4", "late.mp4"])
def test_decord_gives_identical_frames(long_clips: dict[str, Path], folder: Path, name: str) -> None:
    pytest.importorskip("decord", reason="decord absent: install the extra 'decord'")
    path = encode(folder / name) if name.startswith("closed") else long_clips[name]
    wanted = np.arange(0, probe(path).duration_s - 0.2, 0.35)
    both = zip(read_at(path, wanted, backend="decord"), read_at(path, wanted), strict=True)
    for (row, theirs), (same_row, ours) in both:
        assert (row, theirs.time_s) == (same_row, ours.time_s)
        assert theirs.duration_s == pytest.approx(ours.duration_s)
        assert np.array_equal(theirs.image, ours.image)
    if name == "closed.mp4":
        everything = zip(iter_frames(path, backend="decord"), iter_frames(path), strict=True)
        assert all(a.time_s == b.time_s and np.array_equal(a.image, b.image) for a, b in everything)
        small = next(iter_frames(path, backend="decord", max_pixels=W * H // 4)).image
        ours_small = next(iter_frames(path, max_pixels=W * H // 4)).image
        assert small.shape == ours_small.shape
        assert np.abs(small.astype(int) - ours_small).mean() < 4


def test_decord_is_refused_where_its_frames_may_differ(
    vfr: Path, clip: Path, faststart: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("decord", reason="decord absent: install the extra 'decord'")
    with pytest.raises(InputError, match="variable frame rate"):
        list(read_at(vfr, [0.0], backend="decord"))
    with pytest.raises(InputError, match="turned or mirrored"):
        list(read_at(turned(clip, tmp_path / "turned.mp4", 0, 1, -1, 0), [0.0], backend="decord"))
    with pytest.raises(InputError, match="a mpegts file"):
        list(read_at(encode(folder / "decord.ts"), [0.0], backend="decord"))
    (tmp_path / "cut.mp4").write_bytes(faststart.read_bytes()[:2700])
    with pytest.raises(InputError):
        list(iter_frames(tmp_path / "cut.mp4", backend="decord"))
    with pytest.raises(InputError, match="0 bytes"):
        (tmp_path / "empty.mp4").write_bytes(b"")
        iter_frames(tmp_path / "empty.mp4", backend="decord")


def test_backends_are_named_and_decord_is_optional(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="pyav or decord"):
        iter_frames(clip, backend="opencv")  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gazeqwen\[decord\]'"):
        read_at(clip, [0.0], backend="decord")


# --- real file, benchmark ---


def test_real_aria_clip_reads_by_its_timestamps() -> None:
    path = shared_dir("fixtures", "aria_gen1_aea", "derived_rgb_upright.mp4")
    info, frames = probe(path), list(iter_frames(path))
    assert (info.width_px, info.height_px, info.rotation_deg) == (704, 704, 0)
    assert len(frames) == 8 and info.fps == pytest.approx(20, rel=0.05)
    assert np.diff([f.time_s for f in frames]) == pytest.approx(np.full(7, 0.05), abs=0.01)
    assert info.duration_s == pytest.approx(frames[-1].time_s + frames[-1].duration_s)
    for row, frame in read_at(path, wanted_times(info, 20.0)):
        assert np.array_equal(frame.image, frames[row].image)
    assert all(np.array_equal(f.image, image) for f, (_, image) in zip(frames, decoded(path), strict=True))


def test_decode_benchmark_reads_the_same_frames_both_ways() -> None:
    result = decode_vs_pyav(1, duration_s=2.0)
    assert (result["name"], result["unit"], result["repeats"], result["frames"]) == ("decode_vs_pyav", "s", 1, 2)
    assert result["ratio"] == pytest.approx(result["parts"]["ours"] / result["parts"]["pyav"])
    with pytest.raises(InputError):
        decode_vs_pyav(0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_frame_times_are_those_of_the_decoded_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * k, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    decoded = [frame.time_s for frame in iter_frames(path)]
    assert len(decoded) == 60
    np.testing.assert_allclose(frame_times(path), decoded, atol=1e-9)
