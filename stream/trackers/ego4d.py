"""Ego4D gaze: one flat CSV per video, taken from several trackers' exports.

Source: the Ego4D data page on gaze (columns, clock) and StreamGaze's parser (confidence). Columns used:
`canonical_timestamp_s`, `norm_pos_x`, `norm_pos_y`, `confidence`; the page says the others are not filled.

Clock: seconds on the video. The data set's authors made it by setting the first gaze row to 0, which presumes that gaze
and footage were trimmed alike; `offset_s` corrects a clip where an overlay shows otherwise.

Origin: not stated. The columns are those of Pupil, whose y grows upwards from the bottom edge; StreamGaze reads y
unflipped. We don't choose: `y_origin` is required.

Confidence: below 0.5 a sample is invalid, the limit under which StreamGaze calls it neither fixation nor saccade.
`min_confidence` changes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish, require_y_origin
from stream.trackers.rows import header_of, read_table

NAME = "ego4d"
COLUMNS = ("canonical_timestamp_s", "norm_pos_x", "norm_pos_y", "confidence")
MIN_CONFIDENCE = 0.5


def sniff(path: Path) -> bool:
    """The four columns; a Pupil Core export has gaze_timestamp instead of the first."""
    return set(COLUMNS) <= set(header_of(path))


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """One gaze CSV.

    Raises:
        InputError: `y_origin` is not given (it says how to find out), or a column is missing.
    """
    require_y_origin(
        path,
        options,
        None,
        how=f"run `gazeqwen gaze check VIDEO --gaze {path.name} --y-origin bottom`, then with top, and keep the one "
        "whose dot lies on what the wearer handles",
    )
    table = read_table(path)
    (t_s, bad_t), (x, bad_x), (y, bad_y), (confidence, bad_confidence) = (table.floats(name) for name in COLUMNS)
    return finish(
        path,
        NAME,
        options,
        t_s=t_s,
        xy=np.stack([x, y], axis=1),
        y_origin=None,
        unreadable=bad_t | bad_x | bad_y | bad_confidence,
        confidence=confidence,
        min_confidence=MIN_CONFIDENCE,
        notes=[
            f"y_origin={options.y_origin} as given: the file does not say",
            "time zero is the file's first gaze row",
        ],
    )


FORMAT = TrackerFormat(NAME, "Ego4D gaze CSV", sniff, read, needs="y_origin")
