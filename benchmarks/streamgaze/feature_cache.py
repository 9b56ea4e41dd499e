"""What frozen weights make of videos, kept on disk, shared by arms and runs; and `gazeqwen forget`, which deletes it.

A cache folder holds `streamgaze-features/KEY/NAME.safetensors`. KEY stands for everything that decides a feature but
the frames: the video's content, the weights of the vision tower and V-JEPA, their configuration, dtype, device and
library versions. A file holds steps that were encoded together. The tensors of a step are named by the times of the
frames that they are made of (for V-JEPA those that its window held before, too), and for arms that draw on frames by
what is drawn. NAME is the hash of the file's content, so a damaged file is found out when it is read: it is deleted,
counted, and its steps are made again. Files are complete or not there; several processes may use one folder.

A cache is no result: where it can't be written the run goes on without, says so once, and counts it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from benchmarks.streamgaze.feature_files import FOLDER, FeatureFiles, forget, user_cache_folder
from gazeqwen.arms import Arm, get_arm
from gazeqwen.digest import add_tensors
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import Step, plain_json
from stream.recording import Recording
from stream.steps import Cut

if TYPE_CHECKING:  # `gazeqwen forget` and a run that has nothing left to do import no torch
    from torch import nn

    from gazeqwen.frozen import Frozen
    from gazeqwen.model import GazeQwen
    from gazeqwen.vjepa import RollingWindow

__all__ = [
    "CachedFeatures",
    "FeatureCache",
    "command",
    "forget",
    "model_fingerprint",
    "user_cache_folder",
    "weights_digest",
]

FORMAT = 1


class FeatureCache:
    """Frozen features of videos under one model.

    Args:
        folder: made when the first file is written; other files in it are left alone.
        model: not compat="official", whose features belong to whole clips.

    Attributes:
        notes: what the reader of a run should know, one line each.
    """

    def __init__(self, folder: str | Path, model: GazeQwen) -> None:
        self.folder, self.model = Path(folder), model
        self.notes: list[str] = []
        self._counts = {"steps_read": 0, "steps_computed": 0, "damaged_files": 0, "unwritten_files": 0}
        self._made_by: dict[str, Any] | None = None
        self._videos: dict[tuple[Any, ...], str] = {}

    def counts(self) -> dict[str, int]:
        """steps_read and steps_computed; damaged_files that were deleted; unwritten_files (a full disk, ...)."""
        return dict(self._counts)

    def source(self, recording: Recording, arm: Arm | str, *, max_pixels: int | None = None) -> CachedFeatures:
        """Steps of this recording, and what frozen weights make of them: for one pass of one session.

        Raises:
            InputError: the video can't be read.
            ConfigError: compat="official".
        """
        if self.model.official:
            raise ConfigError("compat='official' encodes clips as a whole: it has no features of steps to cache")
        key = {
            "format": FORMAT,
            "video": self._video(recording.path),
            "backend": recording.backend,
            "max_pixels": max_pixels,
            **self._model_key(),
        }
        name = hashlib.sha256(json.dumps(plain_json(key), sort_keys=True).encode()).hexdigest()[:32]
        return CachedFeatures(
            self,
            FeatureFiles(self.folder / FOLDER / name, count=self.count, unwritten=self._unwritten),
            recording,
            get_arm(arm),
            max_pixels,
        )

    def _video(self, path: Path) -> str:
        try:
            found = path.stat()
            known = (str(path), found.st_size, found.st_mtime_ns)
            if known not in self._videos:
                with path.open("rb") as file:
                    self._videos[known] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(path, expected="a readable video", found=error.strerror or str(error)) from error
        return self._videos[known]

    def _model_key(self) -> dict[str, Any]:
        if self._made_by is None:
            import av

            made_by = frozen_key(self.model)
            self._made_by = {**made_by, "versions": [*made_by["versions"], av.__version__]}
        return self._made_by

    def count(self, name: str, by: int = 1) -> None:
        """Adds to `counts`."""
        self._counts[name] += by

    def _unwritten(self, error: OSError) -> None:
        """The first file that can't be written is a note."""
        if not self._counts["unwritten_files"]:
            reason = error.strerror or str(error)
            self.notes.append(f"features are not all cached in {self.folder}: {reason}; answers are the same")


class CachedFeatures:
    """The features of one recording for one arm: `steps_for` gives a session its steps, and calling it is the session's
    `frozen=`.

    Steps that `steps_for` did not give are encoded and not kept: a step's times name its frames only where they are the
    recording's own.
    """

    def __init__(
        self, cache: FeatureCache, files: FeatureFiles, recording: Recording, arm: Arm, max_pixels: int | None
    ) -> None:
        self._cache, self._files, self._recording, self._arm = cache, files, recording, arm
        self._model, self._max_pixels = cache.model, max_pixels
        self._uses_features = arm.uses_features
        self._capacity = cache.model.config.features.window_frames
        self._given: WeakSet[Step] = WeakSet()

    def steps_for(
        self,
        times_s: Sequence[float] | np.ndarray,
        fps: float = 2.0,
        *,
        vjepa_fps: float = 8.0,
        gaze_lag_s: float = 0.0,
    ) -> Iterator[Step | Cut]:
        """`Recording.steps_for`, decoding from the first frame on that something missing in the cache needs: where all
        is there, nothing is decoded.

        Raises:
            InputError: as `Recording.steps_for`.
        """
        options: dict[str, Any] = {"vjepa_fps": vjepa_fps, "gaze_lag_s": gaze_lag_s, "max_pixels": self._max_pixels}
        from_s = 0.0
        if not self._arm.video:
            from_s = np.inf if self._recording.frame_times_known else 0.0
        elif self._recording.frame_times_known:
            self._files.refresh()
            drawn = self._arm.changes_frames  # other arms' features don't depend on gaze
            planned = self._recording.steps_for(times_s, fps, **options, decode_from_s=np.inf, with_gaze=drawn)
            from_s = self._first_needed_s(planned)
        return self._noted(self._recording.steps_for(times_s, fps, **options, decode_from_s=from_s))

    def _noted(self, items: Iterator[Step | Cut]) -> Iterator[Step | Cut]:
        for item in items:
            step = item.tail if isinstance(item, Cut) else item
            if step is not None:
                self._given.add(step)
            yield item

    def _first_needed_s(self, planned: Iterable[Step | Cut]) -> float:
        held = np.zeros(0)  # times in V-JEPA's window
        starts: deque[float] = deque()  # first frames of the steps that it reaches into
        for item in planned:
            step = item.tail if isinstance(item, Cut) else item
            if step is None:
                continue
            names, after = self._names(step, held)
            first_s = float(step.vjepa_times_s[0])
            if not all(name in self._files for name in names):
                reached = [start_s for start_s in starts if start_s <= after[0]] if self._uses_features else []
                return min([first_s, *reached[-1:]])
            if isinstance(item, Step):
                held = after
                starts.append(first_s)
                while len(starts) > 1 and starts[1] <= held[0]:
                    starts.popleft()
        return np.inf

    def _names(self, step: Step, held_s: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The names of a step's tensors, and what V-JEPA's window holds after it."""
        after = np.concatenate([held_s, step.vjepa_times_s])[-self._capacity :]
        drawn = _drawn(step, self._arm) if self._arm.changes_frames else b""
        names = [_name("v", step.frame_times_s, drawn)]
        if self._uses_features:
            names.append(_name("f", after))
        return names, after

    def __call__(self, steps: Sequence[Step], window: RollingWindow | None, latency_ms: dict[str, float]) -> Frozen:
        """What `GazeQwen.frozen` makes of these steps, from the cache where it is there; "cache" is reading and
        writing."""
        from gazeqwen.frozen import Frozen

        if not all(step in self._given for step in steps):
            return self._model.frozen(steps, arm=self._arm, window=window, latency_ms=latency_ms)
        held = np.zeros(0) if window is None else window.times_s
        names: list[list[str]] = []
        for step in steps:
            of_step, held = self._names(step, held)
            names.append(of_step)
        parts, first = [], 0
        while first < len(steps):
            read = self._read(names[first], latency_ms)
            if read is not None:
                self._move(window, steps[first])
                parts.append(read)
                first += 1
                continue
            stop = first + 1
            while stop < len(steps) and not all(name in self._files for name in names[stop]):
                stop += 1
            made = self._compute(steps[first:stop], window, latency_ms)
            self._write(made, names[first:stop], latency_ms)
            parts.append(made)
            first = stop
        return Frozen.cat(parts)

    def _read(self, names: Sequence[str], latency_ms: dict[str, float]) -> Frozen | None:
        from gazeqwen.frozen import Frozen

        began = time.perf_counter()
        tensors = [tensor for name in names if (tensor := self._files.get(name)) is not None]
        found = None
        if len(tensors) == len(names):
            visual, *features = (tensor.to(self._model.backbone.device) for tensor in tensors)
            h, w = visual.shape[:2]
            found = Frozen(visual.flatten(0, 1)[None], features[0][None] if features else None, h, w)
            self._cache.count("steps_read")
        _add(latency_ms, "cache", began)
        return found

    def _move(self, window: RollingWindow | None, step: Step) -> None:
        if window is None:
            return
        if step.placeholder:
            window.pass_over(step.vjepa_times_s)
        else:
            window.take(step.vjepa_frames, step.vjepa_times_s)

    def _compute(self, steps: Sequence[Step], window: RollingWindow | None, latency_ms: dict[str, float]) -> Frozen:
        if any(step.placeholder for step in steps):  # a file that was whole when the pass began, and is no more
            began = time.perf_counter()
            steps = [self._recording.with_frames(step, max_pixels=self._max_pixels) for step in steps]
            if window is not None and len(window) < len(window.times_s):
                fresh = self._model.new_window()
                images = self._recording.images_at(window.times_s, max_pixels=self._max_pixels)
                fresh.push(np.stack(images), window.times_s)
                window.restore(fresh)
            _add(latency_ms, "decode", began)
        self._cache.count("steps_computed", len(steps))
        return self._model.frozen(steps, arm=self._arm, window=window, latency_ms=latency_ms)

    def _write(self, made: Frozen, names: Sequence[Sequence[str]], latency_ms: dict[str, float]) -> None:
        began = time.perf_counter()
        tensors = {}
        for s, of_step in enumerate(names):
            tensors[of_step[0]] = made.visual[s].unflatten(0, (made.h, made.w))
            if made.features is not None:
                tensors[of_step[1]] = made.features[s]
        self._files.put({name: tensor for name, tensor in tensors.items() if name not in self._files})
        _add(latency_ms, "cache", began)


def _name(kind: str, times_s: np.ndarray, drawn: bytes = b"") -> str:
    digest = hashlib.sha256(np.ascontiguousarray(times_s, dtype=np.float64).tobytes() + drawn)
    return f"{kind}-{digest.hexdigest()[:32]}"


def _drawn(step: Step, arm: Arm) -> bytes:
    """What an arm that changes frames goes by."""
    columns = [np.ascontiguousarray(column).tobytes() for column in vars(step.gaze).values()]
    return arm.name.encode() + b"".join(len(column).to_bytes(8, "little") + column for column in columns)


def _add(latency_ms: dict[str, float], part: str, began: float) -> None:
    latency_ms[part] = latency_ms.get(part, 0.0) + (time.perf_counter() - began) * 1000


# -- what made them ----------------------------------------------------------------------------------------------------


def frozen_key(model: GazeQwen) -> dict[str, Any]:
    """What decides the frozen features of given frames, in plain JSON types."""
    import torch
    import transformers

    config, backbone = model.config, model.backbone
    return {
        "vision": weights_digest(backbone.visual),
        "extractor": weights_digest(model.extractor),
        "features": config.features.to_dict(),
        "preprocess": config.preprocess.to_dict(),
        "patches": [backbone.patch_size, backbone.merge_size, backbone.temporal_patch_size],
        "dtype": str(backbone.dtype),
        "device": backbone.device.type,
        "versions": [torch.__version__, transformers.__version__],
    }


def weights_digest(module: nn.Module | Any | None) -> str:
    """sha256 of a module's class and all its parameters and buffers; of the class alone where it is no module."""
    from torch import nn

    digest = hashlib.sha256(type(module).__qualname__.encode())
    if isinstance(module, nn.Module):
        add_tensors(digest, module.state_dict())
    return digest.hexdigest()


def model_fingerprint(model: GazeQwen) -> str:
    """sha256 of all weights that training does not change: the backbone with its vision tower, and V-JEPA."""
    trained = {name for name in model.trainable_parameters() if name.startswith("vlm.")}
    digest = hashlib.sha256(weights_digest(model.extractor).encode())
    add_tensors(digest, {name: held for name, held in model.vlm.state_dict().items() if f"vlm.{name}" not in trained})
    return digest.hexdigest()


# -- the command -------------------------------------------------------------------------------------------------------


def command(arguments: Any) -> int:
    """`gazeqwen forget`; returns the exit code."""
    folder = arguments.cache or user_cache_folder()
    try:
        files, size = forget(folder)
    except OSError as error:
        raise InputError(
            error.filename or folder, expected="a file that can be deleted", found=error.strerror or str(error)
        ) from error
    print(f"deleted {files} files, {size / 1e6:.1f} MB of cached features in {folder}")
    return 0
