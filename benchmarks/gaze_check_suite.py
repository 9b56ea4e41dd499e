"""How often `gazeqwen gaze check` is right: rendered clips, each read correctly and in three wrong ways.

    python -m benchmarks.gaze_check_suite [--clips 40] [--first-seed 0] [--json FILE]

Every clip is written to an .mp4 and its gaze to plain CSV files, and both are read back and checked as a user's would
be: `clean`; `flipped_y` (y counted from the bottom); `wrong_units` (pixels under the names of normalised columns);
`clock_offset` (gaze stamped 500 ms late on even seeds, 500 ms early on odd ones). The motion of a clip's video is
estimated once for its four gaze files. The aim: of 40, at least 36 of each mistake found, and at most 2 clean clips
with a suspicion of any kind. The thresholds were set on seeds 1000-1039; the default seeds 0-39 took no part.
The renderer and the checker share their author and the reflex they model: this measures the checker's power on video
with noise, blinks, pursuit, imperfect reflex and compression, not on real recordings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gazeqwen.tiny.scene import render
from gazeqwen.types import GazeSamples
from stream.gaze_check import CheckReport, check, motion_of
from stream.trackers import read_gaze
from stream.video_writer import write_clip

CONDITIONS = ("clean", "flipped_y", "wrong_units", "clock_offset")
OFFSET_S = 0.5


@dataclass
class SuiteResult:
    """Clips by condition: `found` with the right suspicion (for clean: with none), `others` with any other one."""

    clips: int = 0
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, 0))
    others: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CONDITIONS, 0))
    misses: list[str] = field(default_factory=list)
    worst_offset_error_s: float = 0.0

    @property
    def passed(self) -> bool:
        """At least 90 % of each mistake found, at most 5 % false alarms on clean clips."""
        wrong = all(self.found[name] >= 0.9 * self.clips for name in CONDITIONS[1:])
        return wrong and self.clips - self.found["clean"] <= 0.05 * self.clips

    def to_text(self) -> str:
        lines = [f"{self.clips} clips       found  another suspicion"]
        for name in CONDITIONS[1:]:
            lines.append(f"{name:<15}{self.found[name]:>6}/{self.clips}{self.others[name]:>8}")
        lines.append(f"false alarms on clean clips: {self.clips - self.found['clean']}/{self.clips}")
        lines.append(f"worst error of a flagged offset: {1000 * self.worst_offset_error_s:.0f} ms")
        return "\n".join(lines + self.misses)


def write_gaze_csv(path: Path, samples: GazeSamples) -> Path:
    """A plain CSV of these samples, missing coordinates left empty."""
    lines = ["t_s,x_norm,y_norm,valid"]
    for t_s, (x, y), ok in zip(samples.t_s, samples.xy_norm, samples.valid, strict=True):
        lines.append(f"{t_s:.6f},{x:.6f},{y:.6f},1" if ok else f"{t_s:.6f},,,0")
    path.write_text("\n".join(lines) + "\n")
    return path


def spoil(samples: GazeSamples, condition: str, *, size_px: tuple[int, int], offset_s: float) -> GazeSamples:
    """The same gaze as a wrongly exported file holds it."""
    xy = samples.xy_norm.copy()
    if condition == "flipped_y":
        xy[:, 1] = 1 - xy[:, 1]
    elif condition == "wrong_units":
        xy *= np.array(size_px)
    t_s = samples.t_s + (offset_s if condition == "clock_offset" else 0.0)
    return GazeSamples.build(t_s, xy, valid=samples.valid)


def check_clip(seed: int, folder: Path, *, size_px: tuple[int, int] = (160, 120)) -> dict[str, CheckReport]:
    """The four reports of one clip: 10 s at 30 fps, gaze at 200 Hz (even seeds) or 120 Hz (odd ones)."""
    scene = render(seed, size_px=size_px, gaze_hz=120.0 if seed % 2 else 200.0)
    video = write_clip(folder / f"{seed}.mp4", (image for _, image in scene.frames()), fps=scene.fps)
    motion = motion_of(video)
    reports = {}
    for condition in CONDITIONS:
        wrong = spoil(scene.gaze, condition, size_px=size_px, offset_s=clip_offset_s(seed))
        path = write_gaze_csv(folder / f"{seed}-{condition}.csv", wrong)
        reports[condition] = check(video, read_gaze(path), motion=motion)
    return reports


def clip_offset_s(seed: int) -> float:
    """By how much the gaze of this seed's `clock_offset` file is stamped late."""
    return -OFFSET_S if seed % 2 else OFFSET_S


def run(seeds: Iterable[int]) -> SuiteResult:
    """Checks the clips of these seeds, each through files in a temporary folder."""
    result = SuiteResult()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            reports = check_clip(seed, Path(folder))
        result.clips += 1
        for condition, report in reports.items():
            wanted = set() if condition == "clean" else {condition}
            right = wanted <= report.kinds if wanted else not report.kinds
            result.found[condition] += right
            result.others[condition] += bool(report.kinds - wanted)
            if not right:
                why = report.agreement.reason or "nothing suspicious"
                result.misses.append(f"seed {seed} {condition}: {', '.join(sorted(report.kinds)) or why}")
            if condition == "clock_offset" and right:
                error_s = abs(report.agreement.lag_s - clip_offset_s(seed))
                result.worst_offset_error_s = max(result.worst_offset_error_s, error_s)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gaze_check_suite", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--clips", type=int, default=40, help="number of clips (default 40)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first clip (default 0)")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    options = parser.parse_args(arguments)
    result = run(range(options.first_seed, options.first_seed + options.clips))
    print(result.to_text())
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
