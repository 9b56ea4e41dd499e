"""`gazeqwen info PATH`: what a video, a gaze file or a recording's folder holds, in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gazeqwen.errors import InputError
from stream.trackers import read_gaze
from stream.trackers.base import GazeRecording
from stream.video import probe

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".ts", ".m4v"}
# What only the caller can know, by `read_gaze`'s names: something to read on with, and how it is said.
_STAND_INS: dict[str, tuple[Any, str]] = {
    "offset_s": (0.0, "where the clock's zero is (--gaze-offset-s)"),
    "frame_size_px": ((1, 1), "the frame that pixels refer to (the video's, or --frame-size)"),
    "y_origin": ("top", "where y = 0 is (--y-origin; `gazeqwen gaze check` helps)"),
}


def summarise(path: Path, *, gaze_offset_s: float | None = None, **reader_options: Any) -> dict[str, Any]:
    """Facts by name. A clock, a frame size or an origin that is not known is said, not asked for.

    Args:
        gaze_offset_s: added to every gaze time.
        reader_options: of `stream.trackers.read_gaze`.

    Raises:
        InputError: neither a readable video nor a known gaze format; options of a gaze file, but a video.
    """
    if not path.exists():
        raise InputError(path, expected="a video, a gaze file or a recording folder", found="nothing at this path")
    given = {name: value for name, value in {"offset_s": gaze_offset_s, **reader_options}.items() if value is not None}
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        if given:
            raise InputError(path, expected="a gaze file, as the options are for one", found="a video")
        return _video_summary(path)
    return _gaze_summary(path, given)


def _video_summary(path: Path) -> dict[str, Any]:
    info = probe(path)
    return {
        "video": str(path),
        "size": f"{info.width_px} x {info.height_px} px, upright",
        "rotation": f"{info.rotation_deg} deg",
        "rate": f"{info.fps:.3f} frames a second",
        "duration": f"{info.duration_s:.3f} s",
        "frames": "unknown" if info.frames is None else str(info.frames),
        "codec": info.codec,
        "first PTS": f"{info.first_pts_s:.3f} s",
    }


def _gaze_summary(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    recording, unknown = _read(path, given)
    samples, fixations = recording.samples, recording.fixations
    found: dict[str, Any] = {"gaze": str(path), "format": recording.format}
    if len(samples):
        found |= {
            "samples": str(len(samples)),
            "valid": f"{100 * samples.valid.mean():.1f} %",
            "rate": f"{samples.rate_hz:.1f} Hz" if len(samples) > 1 else "unknown",
            "first, last": f"{samples.t_s[0]:.3f} s, {samples.t_s[-1]:.3f} s",
        }
    if fixations is not None:
        found["fixations"] = f"{len(fixations)} by {fixations.detector}"
    counts = samples.counts if len(samples) or fixations is None else fixations.counts
    rows = [f"{name.removeprefix('rows_')} {n}" for name, n in counts.items() if n or name == "rows_read"]
    found["rows"] = ", ".join(rows) or "not counted"
    found["clock"] = recording.clock.replace("offset_s", "--gaze-offset-s")
    for number, note in enumerate(recording.notes, start=1):
        found[f"note {number}"] = note
    if unknown:
        found["not known"] = "; ".join(_STAND_INS[option][1] for option in unknown)
    return found


def _read(path: Path, given: dict[str, Any]) -> tuple[GazeRecording, list[str]]:
    """The recording, and what had to be supplied so that the rest can be told: each once, where an error names it."""
    supplied: dict[str, Any] = {}
    while True:
        try:
            return read_gaze(path, **given, **supplied), list(supplied)
        except InputError as error:
            message = f"{error.expected} {error.found} {error.fix}"
            asked = next((name for name in _STAND_INS if name in message and name not in given | supplied), None)
            if asked is None:
                raise
            supplied[asked] = _STAND_INS[asked][0]
