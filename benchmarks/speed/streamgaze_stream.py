"""One pass over a video with all its questions (the protocol `stream`) against a clip of its own for every question.

Both sides see the same frames of the same video at the same rates, ask in the same words and read the answer the same
way; a run whose frames differ is refused. Each side's parts are added up from what the answers themselves report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.protocols import Row
from benchmarks.streamgaze.stream_protocol import Stream
from benchmarks.streamgaze.tasks import Sample
from benchmarks.streamgaze.work import Settings
from gazeqwen.model import GazeQwen
from stream.recording import Recording
from stream.trackers.base import GazeRecording
from stream.video import TIME_TOLERANCE_S, VideoWriter, iter_frames

PARTS = ("cut", "decode", "vit", "vjepa", "resampler", "prefill", "answer")
CUT_CRF, CUT_PRESET = 28, "ultrafast"  # GazeQwen's ffmpeg call; StreamGaze's has x264's slower defaults


@dataclass
class Clock:
    """Seconds by part of one side's runs; `other` is what no part holds: opening files, forks, eviction, rows."""

    runs: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, latency_ms: Mapping[str, float], total_s: float) -> None:
        """One run: milliseconds by part as answers report them, and the run's seconds."""
        parts = {part: latency_ms.get(part, 0.0) / 1000 for part in PARTS}
        self.runs.append(parts | {"other": total_s - sum(parts.values())})
        self.seconds.append(total_s)

    def parts(self, name: str, over: Callable[[Iterable[float]], float]) -> dict[str, float]:
        """`name_PART` -> seconds, the sum or middle of the runs; without the parts that took none."""
        found = {part: over([run[part] for run in self.runs]) for part in self.runs[0]}
        return {f"{name}_{part}": value for part, value in found.items() if value != 0.0}


def build(folder: Path, videos: Videos, device: torch.device) -> Stream:
    """The protocol on made data in `folder`, with the tiny model, the default settings and no feature cache."""
    dataset = Dataset.open(make_data(folder, videos))
    model = GazeQwen.from_pretrained("tiny", device=device)
    return Stream(dataset, Settings(), model, model_id="tiny", load={}, cache=None)


def samples_in_time(protocol: Stream) -> list[Sample]:
    """All samples of the first video."""
    video = protocol.dataset.videos[0]
    return sorted((sample for sample in protocol.dataset.samples() if sample.video == video), key=lambda s: s.t_s)


def streamed(protocol: Stream, samples: Sequence[Sample], clock: Clock | None = None) -> dict[str, Row]:
    """All samples of a video in one pass, as a run makes it; rows by id. Each reports what was spent since the one
    before it, so that their sum is the pass."""
    began = perf_counter()
    rows = {row["id"]: row for row in protocol.answer(samples[0].video, samples)}
    if clock is not None:
        spent: dict[str, float] = {}
        for row in rows.values():
            add(spent, row["latency_ms"])
        clock.add(spent, perf_counter() - began)
    return rows


class PerQuestion:
    """The published way: for every question the clip of its window is cut and encoded into a file, and that file is
    decoded, encoded by ViT and V-JEPA, prefilled and asked. In process, with the model that is warm already.

    Attributes:
        started_s: where each sample's clip begins in the video.
    """

    cut_options = f"{CUT_PRESET}, crf {CUT_CRF}"

    def __init__(self, protocol: Stream, folder: Path) -> None:
        self._protocol, self._folder = protocol, folder
        self.started_s: dict[str, float] = {}

    def timed(self, samples: Sequence[Sample], clock: Clock | None = None) -> dict[str, Row]:
        """Rows by id; times in them are the clip's, from its first frame on."""
        latency_ms: dict[str, float] = {}
        began = perf_counter()
        _, recording = self._protocol.recordings(samples[0].video)
        rows = {sample.id: self._one(recording, sample, latency_ms) for sample in samples}
        if clock is not None:
            clock.add(latency_ms, perf_counter() - began)
        return rows

    def _one(self, recording: Recording, sample: Sample, latency_ms: dict[str, float]) -> Row:
        start_s, stop_s = span_of(self._protocol, recording, sample)
        self.started_s[sample.id] = start_s
        began = perf_counter()
        clip = self._cut(recording, start_s, stop_s)
        cut_s, began = perf_counter() - began, perf_counter()
        scanpath = recording.fixations.overlapping(start_s, stop_s).shifted(-start_s)
        of_clip = Recording(clip, GazeRecording(recording.samples, scanpath, clip, "clip"), detector="file")
        session = self._protocol.session(of_clip, of_clip.fixations)
        config = self._protocol.model.config
        until_s = min(stop_s - start_s, of_clip.end_s)
        steps = of_clip.steps(config.fps, vjepa_fps=config.features.fps, until_s=until_s)
        opened_s = perf_counter() - began
        session.extend(steps)
        row = self._protocol.ask(session, sample, at_s=until_s)
        spent = {"cut": 1000 * cut_s, **row["latency_ms"]}
        spent["decode"] += 1000 * opened_s
        add(latency_ms, spent)
        return row

    def _cut(self, recording: Recording, start_s: float, stop_s: float) -> Path:
        """Every frame of the window in a file of its own, the one on display at its end included."""
        clip, info = self._folder / "cut.mp4", recording.info
        stop_s = min(stop_s + 2 * TIME_TOLERANCE_S, recording.end_s)
        frames = iter_frames(recording.path, start_s=max(start_s - TIME_TOLERANCE_S, 0.0), stop_s=stop_s)
        size_px = (info.width_px, info.height_px)
        with closing(frames), VideoWriter(clip, size_px=size_px, crf=CUT_CRF, preset=CUT_PRESET) as writer:  # type: ignore[arg-type]
            for frame in frames:
                writer.write(frame.image, max(frame.time_s - start_s, 0.0))
        return clip


def add(total: dict[str, float], parts: Mapping[str, float]) -> None:
    """Adds `parts` to `total`."""
    for part, value in parts.items():
        total[part] = total.get(part, 0.0) + value


def span_of(protocol: Stream, recording: Recording, sample: Sample) -> tuple[float, float]:
    """What a sample may see, in seconds."""
    stop_s, window_s = min(sample.t_s, recording.end_s), protocol.window_s(sample)
    return (0.0 if window_s is None else max(0.0, stop_s - window_s)), stop_s
