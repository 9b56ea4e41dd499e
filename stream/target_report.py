"""What `gazeqwen gaze-target` reports: one frame's result, the whole as plain JSON, and its lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazeqwen.gaze_target import GazeTargetEstimator, GazeTargets
from gazeqwen.types import plain_json
from stream.head_boxes import MAX_AGE_S, HeadBox
from stream.target_overlay import IN_FRAME

SHOWN_PEOPLE = 10


@dataclass(frozen=True, eq=False)
class FrameTargets:
    """One frame's result: `heads` in the order of `targets`, None where nothing was known about them."""

    t_s: float
    heads: tuple[HeadBox, ...] | None
    targets: GazeTargets

    def to_dict(self) -> dict[str, Any]:
        """{t_s, heads}; for each head {track_id, box_xyxy_norm, peak_xy_norm, peak_value, inout_probability}."""
        if self.heads is None:
            return {"t_s": self.t_s, "heads": None}
        inout = self.targets.inout_probability
        rows = [
            {
                "track_id": head.track_id,
                "box_xyxy_norm": head.box_xyxy_norm,
                "peak_xy_norm": xy.tolist(),
                "peak_value": float(value),
                "inout_probability": None if inout is None else float(inout[row]),
            }
            for row, (head, xy, value) in enumerate(
                zip(self.heads, self.targets.peak_xy_norm, self.targets.peak_value, strict=True)
            )
        ]
        return {"t_s": self.t_s, "heads": rows}


def build_report(
    path: Path,
    kind: str,
    rows: Sequence[dict[str, Any]],
    *,
    size_px: tuple[int, int],
    estimator: GazeTargetEstimator,
    heads: Mapping[str, Any],
    smoothing: str,
) -> dict[str, Any]:
    """The report as plain JSON.

    Args:
        kind: picture or video.
        rows: `FrameTargets.to_dict` of every frame that was looked at.
        heads: where head boxes came from.
    """
    unknown, empty = (sum(row["heads"] == nothing for row in rows) for nothing in (None, []))
    warnings = []
    if heads["source"] == "none":
        warnings.append("no head boxes: asked about the scene as a whole, which fits scenes with one person only")
    if unknown:
        known = f"within {MAX_AGE_S:g} s before them" if heads["source"] == "file" else "for them"
        warnings.append(f"{unknown} of {len(rows)} frames have no head boxes {known}: nothing is said about these")
    if not estimator.has_inout:
        warnings.append("these weights have no in/out head: a target outside the frame is given a place inside")
    return plain_json(
        {
            "path": str(path),
            "kind": kind,
            "size_px": size_px,
            "model": estimator.origin,
            "smoothing": smoothing,
            "small_head_fix": estimator.small_head_fix,
            "has_inout": estimator.has_inout,
            "heads": heads,
            "frames": len(rows),
            "frames_without_entry": unknown,
            "frames_without_heads": empty,
            "people": _people(rows),
            "warnings": warnings,
            "targets": rows,
        }
    )


def _people(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By id, in order of appearance: how many frames, in how many of them the target is in the frame, and the last."""
    people: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        for head in row["heads"] or ():
            people.setdefault(head["track_id"], []).append(head)
    return [
        {
            "track_id": name,
            "frames": len(own),
            "frames_in": None
            if own[0]["inout_probability"] is None
            else sum(head["inout_probability"] >= IN_FRAME for head in own),
            "last_xy_norm": own[-1]["peak_xy_norm"],
        }
        for name, own in people.items()
    ]


def report_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) pairs for people: what was looked at, and where each person looks."""
    width, height = report["size_px"]
    origin = {"file": f"from {report['heads']['path']}", "by hand": "by hand", "none": "none given"}
    followed = ", followed by overlap" if report["heads"]["tracked"] else ""
    counts = [str(report["frames"])]
    for key, what in (("frames_without_entry", "without known heads"), ("frames_without_heads", "with nobody")):
        counts += [f"{report[key]} {what}"] if report[key] else []
    rows = [
        (report["kind"], f"{report['path']}, {width} x {height} pixels"),
        ("model", report["model"]),
        ("frames", ", ".join(counts)),
        ("heads", origin[report["heads"]["source"]] + followed),
        ("smoothing", report["smoothing"]),
    ]
    for person in report["people"][:SHOWN_PEOPLE]:
        inside = "" if person["frames_in"] is None else f", looking inside in {person['frames_in']}"
        frames = "1 frame" if person["frames"] == 1 else f"{person['frames']} frames"
        x, y = person["last_xy_norm"]
        name = "scene" if person["track_id"] is None else f"person {person['track_id']}"
        rows.append((name[:16], f"{frames}{inside}; last at ({x:.2f}, {y:.2f})"))
    more = len(report["people"]) - SHOWN_PEOPLE
    if more > 0:
        rows.append(("people", f"and {more} more"))
    return rows + [("wrote", name) for name in report.get("written", ())]
