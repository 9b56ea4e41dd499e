"""lmms-eval plug-in: the model `gazeqwen` for any of its tasks, and StreamGaze's ten tasks for any of its models.

    python -m benchmarks.lmms_eval_plugin --data DIR --out TASKS        # once: clips, samples and task files
    lmms-eval --model gazeqwen --model_args pretrained=tiny,arm=inject --include_path TASKS --tasks streamgaze

Thin on purpose: prompts, steps, gaze and parsing are the project's own. What differs from `gazeqwen eval streamgaze`:
one call a question (nothing is shared between questions of a video), StreamGaze's prompts, greedy generation, and
lmms-eval's statistics. lmms-eval has no channel for gaze, so this model finds the recording's files in the sample;
other models see the clip alone, which is cut so that they see nothing later than the question either.

Source: lmms-eval's model registry (entry points of the group `lmms_eval.models`) and task files, release 0.7. It is
imported inside functions only: everything here but the model itself works without it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.official_scorer import is_right
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.wording import streamgaze_prompt
from gazeqwen.errors import GazeQwenError, InputError
from stream.video import TIME_TOLERANCE_S, iter_frames, probe, write_clip

TEMPLATES = Path(__file__).with_name("lmms_eval_tasks") / "streamgaze"
SAMPLES_FOLDER = "SAMPLES_FOLDER"  # in the templates: where write_tasks put the samples
MODEL_CLASS = "benchmarks.lmms_eval_model.GazeQwenChat"


def manifests() -> list[Any]:
    """The entry point: what lmms-eval's registry is to know."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    return [ModelManifest(model_id="gazeqwen", chat_class_path=MODEL_CLASS)]


def write_tasks(data: Path, out: Path, *, clips: bool = True) -> dict[str, int]:
    """Writes the ten tasks' samples (JSON lines), their task files, and a clip for every window that is asked about.

    Args:
        data: a StreamGaze folder (`gazeqwen data validate`).
        out: a folder; what is in it from before is replaced, clips that are there are kept.
        clips: False leaves them out: `gazeqwen` needs none, other models would have no video.

    Returns:
        Samples of each task.

    Raises:
        InputError: an entry that can't be run (lmms-eval would leave it out and shrink the denominator), or unreadable
            data.
    """
    dataset = Dataset.open(data)
    if dataset.problems:
        first = dataset.problems[0]
        raise InputError(
            data,
            expected="a dataset whose every entry can be run",
            found=f"{len(dataset.problems)} problems, the first: {first.reason}",
            fix="see `gazeqwen data validate`",
        )
    ends_s = {video: probe(dataset.video_path(video)).duration_s for video in dataset.videos}
    for sample in dataset.samples():
        if sample.t_s > ends_s[sample.video] + TIME_TOLERANCE_S:
            raise InputError(
                dataset.video_path(sample.video),
                expected=f"a video that reaches its question at {sample.t_s:g} s",
                found=f"one that ends at {ends_s[sample.video]:.3f} s",
                fix="see `gazeqwen data validate`",
            )
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for task in TASKS.values():
        samples = dataset.samples((task.name,))
        rows = [_row(dataset, sample, out if clips else None) for sample in samples]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{task.key}.jsonl").write_text(text, encoding="utf-8")
        counts[task.name] = len(rows)
    for template in sorted(TEMPLATES.iterdir()):
        if template.suffix in (".yaml", ".py"):
            text = template.read_text(encoding="utf-8").replace(SAMPLES_FOLDER, out.resolve().as_posix())
            (out / template.name).write_text(text, encoding="utf-8")
    return counts


def _row(dataset: Dataset, sample: Sample, clips: Path | None) -> dict[str, Any]:
    task = TASKS[sample.task]
    window_s = dataset.windows[task.group]
    start_s = 0.0 if window_s is None else max(0.0, sample.t_s - window_s)
    video = dataset.video_path(sample.video)
    gaze = dataset.gaze_path(sample.video)
    return {
        "id": sample.id,
        "task": task.name,
        "video": sample.video,
        "recording": str(video.resolve()),
        "gaze": "" if gaze is None else str(gaze.resolve()),
        "start_s": start_s,
        "t_s": sample.t_s,
        "clip": "" if clips is None else str(_clip(video, start_s, sample.t_s, clips).resolve()),
        "prompt": streamgaze_prompt(sample.question, sample.options),
        "options": list(sample.options),
        "answer": sample.answer,
    }


def _clip(video: Path, start_s: float, t_s: float, out: Path) -> Path:
    """The video from `start_s` to `t_s`, H.264; of one moment, its one frame."""
    path = out / "clips" / video.stem / f"{start_s:.3f}-{t_s:.3f}.mp4"
    if path.exists():
        return path
    info = probe(video)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, _frames(video, start_s, t_s, 1.0 / info.fps), fps=info.fps)


def _frames(video: Path, start_s: float, t_s: float, frame_s: float) -> Iterator[np.ndarray]:
    """Frames on display in [start_s, t_s]: none that starts later than the question."""
    newest = None
    for frame in iter_frames(video, start_s=max(0.0, start_s - frame_s)):
        if frame.time_s > t_s + 1e-6:
            break
        newest = frame.image
        if frame.time_s >= start_s - 1e-6:
            yield frame.image
            newest = None
    if newest is not None:
        yield newest


# -- what the task files call ------------------------------------------------------------------------------------------


def doc_to_messages(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """One user turn: the clip up to the question, then StreamGaze's prompt."""
    video = {"type": "video", "url": doc_to_visual(doc)[0]}
    return [{"role": "user", "content": [video, {"type": "text", "text": doc_to_text(doc)}]}]


def doc_to_visual(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[str]:
    """The clip's path; the whole recording where no clips were written."""
    return [doc["clip"] or doc["recording"]]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """StreamGaze's prompt."""
    return doc["prompt"]


def process_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """1 or 0 for a generated answer, with the video it is clustered by."""
    correct = is_right(doc["answer"], str(results[0]), options=doc["options"])
    return {"accuracy": {"score": float(correct), "video": doc["video"], "id": doc["id"]}}


def mean_accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Percent right."""
    return 100.0 * sum(item["score"] for item in items) / len(items)


# -- answering ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _recording(video: str, gaze: str) -> Any:
    from stream.recording import open_recording

    return open_recording(video, gaze or None)


def answer(model: Any, doc: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], *, arm: str, tokens: int) -> str:
    """The greedy answer to one request of lmms-eval.

    Samples of our tasks name the recording, its gaze and the window. Of any other task the one video of the message
    is watched to its end, without gaze: nothing is injected.

    Raises:
        InputError: a message with images or audio, or without exactly one video.
    """
    from stream.session import StreamSession

    content = [part for message in messages for part in message["content"]]
    other = sorted({part["type"] for part in content} - {"text", "video"})
    videos = [part for part in content if part["type"] == "video"]
    if other or len(videos) != 1:
        raise InputError(
            "lmms-eval request", expected="text and one video", found=f"{len(videos)} videos, {other or 'text'}"
        )
    prompt = "".join(part["text"] for part in content if part["type"] == "text")
    if "recording" in doc:
        recording, t_s = _recording(doc["recording"], doc["gaze"]), float(doc["t_s"])
        window_s = t_s - float(doc["start_s"]) or None
    else:
        recording, t_s, window_s, arm = _recording(str(videos[0]["url"]), ""), None, None, "none"
    session = StreamSession.of(model, recording, until_s=t_s, arm=arm, window_s=window_s)
    return session.answer(prompt, at_s=t_s, prompt=prompt, max_new_tokens=tokens).text


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.lmms_eval_plugin`: writes the task files and says how to run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lmms_eval_plugin", description=(__doc__ or "")[:75])
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="a StreamGaze folder")
    parser.add_argument("--out", required=True, type=Path, metavar="TASKS", help="for --include_path of lmms-eval")
    parser.add_argument("--no-clips", action="store_true", help="no clips: enough for the model gazeqwen")
    options = parser.parse_args(arguments)
    try:
        counts = write_tasks(options.data, options.out, clips=not options.no_clips)
    except GazeQwenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{sum(counts.values())} samples of {len(counts)} tasks: {options.out}")
    if shutil.which("lmms-eval") is None:
        print("lmms-eval is not installed: pip install lmms-eval, in an environment of its own (docs/streamgaze.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
