"""GazeQwen's published evaluation in numbers: which part of the video a question may see, and which frames of it.

Source: phamtrongthang123/gazeqwen at c3195b1 (data.py for windows, train.py for clips and rates) and
qwen_vl_utils 0.0.14 (`smart_nframes`, linspace and round), checked by golden section 02. No torch.

Nothing is cut by ffmpeg here: `official_frame_rows` says which frames of the video an ideal cut would have shown. Real
cuts differ a little: `-c copy` begins at the keyframe before the start, `-skip_frame noref` leaves frames out.
"""

from __future__ import annotations

import numpy as np

from benchmarks.streamgaze.tasks import PRESENT_WINDOW_S, TASKS
from gazeqwen.errors import InputError

MAX_FRAMES = 8  # of the published evaluation (eval.py); its training took 3, which the factor below makes 2
_MIN_FRAMES, _MOST_FRAMES, _FACTOR = 4, 768, 2  # of qwen_vl_utils
_SHORTEST_CLIP_S = 0.1
_EMPTY_CLIP_S = 1.0

# Task types whose questions see the last minute. Beside the release's names the published loader knows the pipeline's
# and older ones, among them those of proactive questions that were not expanded into test points.
_LAST_MINUTE = {
    *(alias for task in TASKS.values() if task.group == "present" for alias in (task.name, task.key)),
    *(task.pipeline_type for task in TASKS.values() if task.group != "past"),
    "object_identification",
    "object_attribute_recognition",
}
_POINTS = {alias for task in TASKS.values() if task.proactive for alias in (task.name, task.key)}


def official_window(task: str, t_s: float, clip_s: tuple[float, float] | None = None) -> tuple[float, float]:
    """(start, end) seconds of the video that the published evaluation cuts out for a question or test point at `t_s`.

    Test points of zero length become a second long there, which reaches past the question: whoever may not see the
    future takes min(end, t_s).

    Args:
        task: abbreviation, release key, or a QA file's `task_type` of any age; an unknown one counts as a past task
            unless "future" is in its name.
        t_s: the question's time, a test point's `realtime`.
        clip_s: a test point's `input_video_clip`, which then is the window.
    """
    if task in _POINTS:
        start_s, end_s = (0.0, t_s) if clip_s is None else clip_s
        return float(start_s), float(end_s if end_s > start_s else start_s + _EMPTY_CLIP_S)
    recent = task in _LAST_MINUTE or "future" in task.lower()
    return max(0.0, t_s - PRESENT_WINDOW_S) if recent else 0.0, float(t_s)


def official_frame_count(total: int, clip_fps: float, fps: float, max_frames: int | None = MAX_FRAMES) -> int:
    """How many of a clip's `total` frames are taken: even, at least 4 where `max_frames` and the clip allow it.

    Args:
        total: frames of the clip.
        clip_fps: its own rate.
        fps: frames a second asked for (`gazeqwen.official.pick_fps`).
        max_frames: None for the library's own limit.

    Raises:
        InputError: fewer than two frames can be taken; the published evaluation drops such a question without a word.
    """
    most = min(_MOST_FRAMES, total) if max_frames is None else max_frames
    most -= most % _FACTOR
    taken = int(min(max(total / clip_fps * fps, _MIN_FRAMES), most, total)) // _FACTOR * _FACTOR
    if taken < _FACTOR:
        raise InputError("clip", expected="at least 2 frames to take", found=f"{total}, of which {max_frames} at most")
    return taken


def spread(total: int, taken: int) -> np.ndarray:
    """(taken,) rows spread over 0..total-1, both ends among them: linspace in float32, rounded half to even."""
    last, step = np.float32(total - 1), np.float32(np.float32(total - 1) / np.float32(taken - 1))
    row = np.arange(taken, dtype=np.float32)
    # As torch.linspace: the first half counted from the start, the second from the end.
    rows = np.where(row < taken // 2, step * row, last - step * row[::-1])
    return np.round(rows).astype(np.int64)


def official_frame_rows(
    frame_times_s: np.ndarray, start_s: float, end_s: float, max_frames: int | None = MAX_FRAMES
) -> np.ndarray:
    """(n,) rows of the video's frames that the published evaluation shows for the window [start_s, end_s), in order.

    Two in turn are a step. A window over 60 s is first thinned to its nominal rate, each frame k being the one on
    display just before start + (k + 0.5) / fps, as ffmpeg's fps filter does. A window that holds a single frame (a
    question at the very start) gives that frame, which Qwen repeats; upstream shows 0.1 s there, past the question, and
    drops the question when that is one frame.

    Args:
        frame_times_s: (F,) ascending times of all the video's frames.
        start_s, end_s: of `official_window`, not reaching past the question.
        max_frames: even; None for the library's own limit.

    Raises:
        InputError: no frame lies in the window.
    """
    from gazeqwen.official import pick_fps  # has torch beside it

    fps = pick_fps(end_s - start_s)
    first = int(np.searchsorted(frame_times_s, start_s - 1e-6))
    stop = int(np.searchsorted(frame_times_s, end_s - 1e-6)) if end_s - start_s >= _SHORTEST_CLIP_S else 0
    stop = stop or int(np.searchsorted(frame_times_s, end_s + 1e-6))
    if stop <= first:
        raise InputError(
            "window", expected=f"frames between {start_s:g} and {end_s:g} s", found=f"none of {len(frame_times_s)}"
        )
    rows, clip_fps = np.arange(first, stop), (stop - first) / max(end_s - start_s, _SHORTEST_CLIP_S)
    if fps < 1.0 and end_s - start_s > PRESENT_WINDOW_S:
        shown_s = start_s + (np.arange(max(1, round((end_s - start_s) * fps))) + 0.5) / fps
        rows = np.clip(np.searchsorted(frame_times_s, shown_s - 1e-6) - 1, first, stop - 1)
        clip_fps = fps
    if len(rows) == 1:
        return rows
    return rows[spread(len(rows), official_frame_count(len(rows), clip_fps, fps, max_frames))]
