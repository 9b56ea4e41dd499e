"""Short recordings for the data pipeline's tests: the demo's scene as a video, a gaze CSV and an annotations file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.tiny.scene import STEP_S, Scene, render, to_image
from stream.video import write_clip

COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")
KEYFRAME_S = 0.1


@dataclass(frozen=True)
class Made:
    """A recording's files and the scene they show."""

    scene: Scene
    video: Path
    gaze: Path
    annotations: Path


def make_recording(
    folder: Path,
    name: str,
    *,
    seed: int,
    duration_s: float = 12.0,
    actions: bool = True,
    size_px: tuple[int, int] = (96, 72),
) -> Made:
    """NAME.mp4, NAME_gaze.csv and NAME.annotations.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = render(seed, duration_s=duration_s, fps=10.0, size_px=size_px, gaze_hz=60.0)
    made = Made(scene, folder / f"{name}.mp4", folder / f"{name}_gaze.csv", folder / f"{name}.annotations.json")
    write_clip(made.video, (image for _, image in scene.frames()), fps=scene.fps, preset="ultrafast")
    made.gaze.write_text(gaze_text(scene.gaze.t_s, scene.gaze.xy_norm, scene.gaze.valid))
    made.annotations.write_text(json.dumps(annotations_of(scene, actions=actions)))
    return made


def gaze_text(t_s: np.ndarray, xy_norm: np.ndarray, valid: np.ndarray) -> str:
    rows = [
        f"{t:.4f},{x:.5f},{y:.5f},1" if ok else f"{t:.4f},,,0"
        for t, (x, y), ok in zip(t_s, xy_norm, valid, strict=True)
    ]
    return "\n".join(["t_s,x_norm,y_norm,valid", *rows]) + "\n"


def annotations_of(scene: Scene, *, actions: bool = True) -> dict[str, Any]:
    """The scene's objects as boxes that move with the head, their colours, and an action every two seconds."""
    width, height = scene.size_px
    times = np.append(np.arange(0.0, scene.duration_s, KEYFRAME_S), scene.duration_s)
    objects = []
    for item in scene.objects:
        keyframes = []
        for t in times:
            camera = scene.camera[min(round(t / STEP_S), len(scene.camera) - 1)]
            x, y = 0.5 + to_image(np.array(item.xy_world), camera) * np.array([1.0, width / height])
            half_x, half_y = camera[3] * item.half_size[0], camera[3] * item.half_size[1] * width / height
            keyframes.append({"t_s": round(float(t), 3), "box_norm": [x - half_x, y - half_y, x + half_x, y + half_y]})
        objects.append({"object": item.name, "keyframes": keyframes})
    spans = np.arange(1.0, scene.duration_s - 1.0, 2.0)
    names = [item.name for item in scene.objects]
    return {
        "objects": objects,
        "attributes": [
            {
                "object": item.name,
                "attribute": "color",
                "value": COLOURS[number % len(COLOURS)],
                "choices": list(COLOURS),
                "start_s": 0.0,
                "stop_s": scene.duration_s,
            }
            for number, item in enumerate(scene.objects)
        ],
        "actions": [
            {"start_s": float(t), "stop_s": float(t) + 0.5, "label": f"take the {name}", "object": name}
            for t, name in zip(spans, np.resize(names, len(spans)).tolist(), strict=True)
        ]
        if actions
        else [],
    }
