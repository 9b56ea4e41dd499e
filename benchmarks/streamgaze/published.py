"""Published StreamGaze accuracies, with their sources, and what keeps a run of ours from being compared with them.

Percentages. Read from the benchmark's results table (an image, `assets/table.png` of daeunni/StreamGaze at 07b8a44) and
from the README of phamtrongthang123/gazeqwen at c3195b1; the abstract's figure is of arXiv 2603.25841. None of them
comes with an interval or with the number of questions of each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TABLE = "StreamGaze's table (assets/table.png)"
README = "GazeQwen's README"
ABSTRACT = "GazeQwen's abstract (arXiv 2603.25841)"


@dataclass(frozen=True)
class Published:
    """One row. `overall` as printed: in the table the mean over the ten tasks (of AssistGaze, which has eight, it is
    not their mean), in GazeQwen's README (`README`) pooled over the questions of the eight tasks listed."""

    model: str
    source: str
    overall: float
    tasks: Mapping[str, float]
    frames: str = ""


_ORDER = ("NFI", "OTP", "SR", "GSM", "OI-E", "OI-H", "OAR", "FAP", "GTA", "OAA")


def _row(model: str, frames: str, *values: float) -> Published:
    """Of the table; AssistGaze has no proactive values."""
    *tasks, overall = values
    return Published(model, TABLE, overall, dict(zip(_ORDER, tasks, strict=False)), frames)


PUBLISHED: tuple[Published, ...] = (
    _row("Human", "", 70.0, 88.9, 90.3, 70.7, 96.0, 92.0, 80.0, 84.0, 76.5, 78.0, 82.7),
    _row("GPT-4o", "16", 60.1, 44.9, 53.5, 58.0, 72.9, 73.0, 59.6, 37.0, 59.7, 14.9, 53.5),
    _row("Claude Sonnet 4", "16", 50.0, 55.4, 42.5, 32.5, 52.1, 53.3, 56.1, 43.9, 53.5, 35.0, 47.4),
    _row("Claude Opus 4", "16", 37.2, 39.2, 46.0, 16.6, 43.1, 43.6, 43.0, 35.1, 46.6, 49.0, 39.9),
    _row("AssistGaze 26M", "32", 29.4, 13.1, 31.0, 29.4, 27.8, 25.0, 10.9, 25.4, 22.3),
    _row("InternVL3.5-8B", "adaptive", 49.0, 31.1, 57.3, 54.8, 62.7, 62.8, 46.6, 37.2, 37.3, 5.1, 44.4),
    _row("Qwen2.5-VL-7B", "adaptive", 51.8, 35.0, 45.0, 48.3, 59.0, 55.8, 54.8, 39.1, 48.6, 40.7, 47.8),
    _row("VITA-1.5 7B", "16", 47.4, 36.5, 34.6, 37.8, 45.5, 39.6, 43.7, 37.0, 35.1, 26.7, 38.4),
    _row("MiniCPM-V 8B", "32", 43.0, 37.4, 35.4, 29.6, 33.4, 37.9, 43.8, 34.5, 48.0, 21.6, 36.5),
    _row("Kangaroo 7B", "64", 36.3, 36.5, 31.9, 27.5, 45.4, 48.4, 40.2, 41.2, 24.2, 19.8, 35.1),
    _row("ViSpeak 7B", "1 fps", 46.3, 35.8, 41.7, 47.3, 57.2, 58.1, 40.6, 30.9, 63.5, 45.8, 46.7),
    _row("Dispider 7B", "1 fps", 36.6, 36.5, 38.1, 26.3, 33.6, 33.8, 35.3, 32.1, 25.2, 26.1, 32.3),
    _row("Flash-VStream 7B", "1 fps", 24.9, 20.2, 33.6, 22.0, 28.9, 14.7, 4.4, 28.0, 44.3, 21.7, 24.3),
    _row("VideoLLM-online 8B", "2 fps", 0.0, 0.0, 0.0, 0.0, 0.6, 0.6, 0.2, 0.0, 45.8, 33.3, 8.0),
    Published("GazeQwen (abstract)", ABSTRACT, 63.9, {}),
    Published(
        "GazeQwen (README)",
        README,
        70.3,
        {"OTP": 64.4, "NFI": 70.2, "FAP": 45.9, "OAR": 81.3, "OI-E": 62.2, "OI-H": 76.2, "GTA": 63.6, "OAA": 74.3},
    ),
    Published(
        "its no_gaze (README)",
        README,
        50.4,
        {"OTP": 37.3, "NFI": 36.9, "FAP": 33.1, "OAR": 51.2, "OI-E": 54.8, "OI-H": 50.0, "GTA": 65.6, "OAA": 51.4},
    ),
)

_PROTOCOLS = {
    "stream": "protocol stream: one pass at the model's own frame rate, gaze at its true times, every question asked "
    "at its moment; the published way cuts a clip for each question and shows 8 to 64 frames of it, or 1 or 2 a "
    "second.",
    "streamgaze": "protocol streamgaze: StreamGaze's windows, prompts and frame rates, so its table is nearest. Its "
    "Qwen2.5-VL sampled at temperature 0.7 without a seed from re-encoded clips; here decoding is greedy, of the "
    "video itself.",
    "official": "protocol official: GazeQwen's evaluation (8 frames, letter argmax), so GazeQwen's rows are nearest. "
    "The table's models answered in words, from other frames.",
}
_ALWAYS = (
    'StreamGaze\'s script reads the article in "I see a knife" as option A and any "no" within a text as No '
    "(`--strict` does too), and leaves questions without a prediction out (here they are wrong, with `--strict` too).",
    "the table does not say whether gaze was drawn on the frames; its scripts always draw it and say so in the prompt.",
    "GazeQwen's 70.3 pools the questions of eight tasks on its own test videos, its 63.9 is over ten tasks: two "
    "aggregates. Its no_gaze row has no LoRA, so the gap to it is not gaze alone.",
    "GazeQwen's stand-alone script for GTA and OAA reads every fixation as (0, 0); its README does not say whether its "
    "figures for these two come from it.",
)


def not_comparable(setup: Mapping[str, Any], *, synthetic: bool) -> list[str]:
    """What makes the published numbers no yardstick for a run, in sentences, the gravest first.

    Args:
        setup: of `report_setup.setup_of`.
        synthetic: the run's data is the project's own small world.
    """
    if synthetic:
        reasons = [
            f"data {setup['data']}: other videos and other questions, drawn by a program. No number of this run can be "
            "read against a published one."
        ]
    elif setup["data"] != "streamgaze":
        reasons = [f"data {setup['data']}: not StreamGaze's questions."]
    else:
        reasons = [
            "data: the size of each task is not published; the paper counts 8,521 questions, a proactive one of "
            "several test points once, where n here counts its points."
        ]
    if setup["split"] is not None:
        reasons.append(f"part {setup['split']['part']} of a split: {setup['split']['videos']} of the data's videos.")
    if setup["limit"] is not None:
        reasons.append("this run is limited.")
    if setup["arm"] not in ("marker", "marker-trained"):
        reasons.append(f"arm {setup['arm']}: StreamGaze's scripts show gaze as a mark on the frames.")
    reasons.append(_PROTOCOLS.get(str(setup["protocol"]), f"protocol {setup['protocol']}: not a published one."))
    if setup["scoring"] != "generate":
        reasons.append(f"scoring {setup['scoring']}: options are compared; the table's models wrote their answers.")
    return [*reasons, *_ALWAYS]
