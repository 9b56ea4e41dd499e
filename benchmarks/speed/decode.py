"""What reading frames by timestamp costs over plain PyAV: `stream.video.read_at` against a bare decode loop.

Both read the same synthetic 1280x720, 30 fps H.264 clip (a keyframe every 250 frames) and turn the same frames, one per
second, into full-size RGB arrays. The bare loop is what a user of PyAV would write by hand: decode in order with slice
threads and pick by frame number, which is right only because this clip has a constant rate and starts at 0.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import av
import numpy as np

from gazeqwen.errors import InputError
from stream.video import probe, read_at, wanted_times, write_clip

SIZE_PX = (1280, 720)
RATE_HZ = 30
WANTED_HZ = 1.0
BOUND = 1.15  # ours / bare


def decode_vs_pyav(repeats: int, *, duration_s: float = 60.0) -> dict[str, Any]:
    """Seconds to read one frame a second from a clip, ours against bare PyAV; the clip is made anew for each call.

    Args:
        repeats: pairs of runs; the order within a pair alternates, and the ratio is the median of the pairs' ratios.
        duration_s: length of the clip.

    Returns:
        `name`, `value` (median seconds, ours), `unit`, `ratio` (ours / bare), `bound`, `parts` (median seconds: `ours`,
        `pyav`, and of the bare loop `pyav_decode` and `pyav_to_rgb`), `repeats`, `frames` (read per run).

    Raises:
        InputError: no repeats, or the two loops did not return the same frames.
    """
    if repeats < 1:
        raise InputError("repeats", expected="at least 1", found=str(repeats))
    parts: dict[str, list[float]] = {"ours": [], "pyav": [], "pyav_decode": [], "pyav_to_rgb": []}
    with tempfile.TemporaryDirectory(prefix="gazeqwen-decode-") as folder:
        clip = write_clip(
            Path(folder) / "clip.mp4", _scene(round(duration_s * RATE_HZ)), fps=RATE_HZ, preset="ultrafast"
        )
        times_s = wanted_times(probe(clip), WANTED_HZ)
        ours, _ = _read_ours(clip, times_s)  # also brings the file into the page cache
        bare, _, _ = _read_bare(clip, times_s)
        if ours != bare:
            raise InputError("decode_vs_pyav", expected="the same frames from both loops", found="different ones")
        for repeat in range(repeats):
            for ours_now in (True, False) if repeat % 2 == 0 else (False, True):
                if ours_now:
                    parts["ours"].append(_read_ours(clip, times_s)[1])
                    continue
                _, total_s, rgb_s = _read_bare(clip, times_s)
                parts["pyav"].append(total_s)
                parts["pyav_to_rgb"].append(rgb_s)
                parts["pyav_decode"].append(total_s - rgb_s)
    return {
        "name": "decode_vs_pyav",
        "value": median(parts["ours"]),
        "unit": "s",
        "ratio": median(ours_s / bare_s for ours_s, bare_s in zip(parts["ours"], parts["pyav"], strict=True)),
        "bound": BOUND,
        "parts": {name: median(seconds) for name, seconds in parts.items()},
        "repeats": repeats,
        "frames": int(times_s.size),
    }


def _scene(count: int) -> Iterator[np.ndarray]:
    """A smooth random texture that drifts, so that there is motion to predict and detail to code."""
    width_px, height_px = SIZE_PX
    coarse = np.random.default_rng(0).integers(0, 255, (height_px // 16, width_px // 16, 3), dtype=np.uint8)
    texture = coarse.repeat(16, axis=0).repeat(16, axis=1)
    for k in range(count):
        yield np.roll(texture, (2 * k, 3 * k), axis=(0, 1))


def _read_ours(clip: Path, times_s: np.ndarray) -> tuple[list[int], float]:
    """(a checksum of each frame, seconds without the checksums)."""
    start_s = perf_counter()
    images = [frame.image for _, frame in read_at(clip, times_s)]
    total_s = perf_counter() - start_s
    return [_checksum(image) for image in images], total_s


def _read_bare(clip: Path, times_s: np.ndarray) -> tuple[list[int], float, float]:
    """(a checksum of each frame, seconds, of which seconds in the conversion to RGB)."""
    rows = {round(t * RATE_HZ) for t in times_s}
    images, rgb_s, start_s = [], 0.0, perf_counter()
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        for k, frame in enumerate(container.decode(stream)):
            if k in rows:
                before_s = perf_counter()
                images.append(frame.to_ndarray(format="rgb24"))
                rgb_s += perf_counter() - before_s
                if len(images) == len(rows):
                    break
    total_s = perf_counter() - start_s
    return [_checksum(image) for image in images], total_s, rgb_s


def _checksum(image: np.ndarray) -> int:
    return int(image[::7, ::7].astype(np.int64).sum())
