"""EgoExoLearn gaze: a `.npy` array (N, 3) of x, y (normalised, origin top-left) and validity, one row a video frame.

Source: StreamGaze's parser (validity is 1 for a valid row; 30 fps). Row i stands for frame i: at i / 30 s, or at the
video's own frame times when `frame_times_s` brings them, which is exact where a video's rate is not quite 30.
"""

from __future__ import annotations

import io
import re
import tokenize
import warnings
from pathlib import Path

import numpy as np

from gazeqwen.errors import InputError
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish
from stream.trackers.rows import head_bytes, read_bytes

NAME = "egoexolearn"
FPS = 30.0
MAGIC = b"\x93NUMPY"


def frame_times(path: Path, options: ReadOptions) -> np.ndarray | None:
    """`frame_times_s` of the options, (F,) ascending seconds, for the formats that count frames; None if not given.

    Raises:
        InputError: they are not finite, not ascending, or empty.
    """
    if options.frame_times_s is None:
        return None
    times_s = np.asarray(options.frame_times_s, dtype=np.float64).reshape(-1)
    if not times_s.size or not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
        raise InputError(path, expected="frame_times_s of ascending finite seconds", found=f"{times_s.size} others")
    return times_s


def sniff(path: Path) -> bool:
    """A .npy header with a shape of (N, 3)."""
    head = head_bytes(path, 256)
    return head.startswith(MAGIC) and re.search(rb"'shape': *\(\d+, *3\)", head) is not None


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """One gaze array; never unpickles.

    Raises:
        InputError: no array of shape (N, 3), or `frame_times_s` of another length.
    """
    rows = _load(path)
    times_s = frame_times(path, options)
    if times_s is not None and times_s.size != len(rows):
        raise InputError(
            path,
            expected=f"one row for each of the video's {times_s.size} frames",
            found=f"{len(rows)} rows",
            fix="pass the video this gaze belongs to, or leave out frame_times_s to place row i at i / 30 s",
        )
    return finish(
        path,
        NAME,
        options,
        t_s=np.arange(len(rows)) / FPS if times_s is None else times_s,
        xy=rows[:, :2],
        y_origin="top",
        valid=rows[:, 2] == 1,
        notes=["row i is placed at i / 30 s"] if times_s is None else ["row i is placed at the video's frame i"],
    )


def _load(path: Path) -> np.ndarray:
    """(N, 3) float64."""
    data = read_bytes(path)
    if not data.startswith(MAGIC):
        raise InputError(path, expected="a .npy array", found="another kind of file", fix="name its format=")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            array = np.load(io.BytesIO(data), allow_pickle=False)
    # What numpy's header parser lets through from a damaged header, besides its own ValueError.
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        SyntaxError,
        EOFError,
        MemoryError,
        RecursionError,
        tokenize.TokenError,
        Warning,
    ) as error:
        raise InputError(
            path, expected="a readable .npy array", found=f"{type(error).__name__}: {error}"[:200], fix="copy it again"
        ) from error
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiub":
        raise InputError(
            path, expected="numbers of shape (N, 3): x, y, validity", found=f"{array.dtype} of shape {array.shape}"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN of a damaged row
        return array.astype(np.float64)


FORMAT = TrackerFormat(NAME, "EgoExoLearn gaze (.npy)", sniff, read)
