"""The cache of frozen features: the same bits with it and without, nothing decoded when all is there, never wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.streamgaze import feature_cache
from benchmarks.streamgaze.feature_cache import FeatureCache, command, model_fingerprint, user_cache_folder
from benchmarks.streamgaze.feature_files import FOLDER
from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import GazeSamples
from stream import recording as recordings
from stream.recording import Recording
from stream.session import StreamSession
from stream.trackers.base import GazeRecording
from stream.video_writer import write_clip
from tests.made_steps import OPTIONS, QUESTION, made_steps, moved_tiny, official_tiny

TIMES_S = [0.4, 1.7, 2.6, 2.6, 4.2]
Answers = list[list[float]]


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def recording_in(folder: Path, *, seed: int = 0) -> Recording:
    """Five seconds of noise at 10 fps with gaze that jumps every second."""
    rng = np.random.default_rng(seed)
    images = (rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(50))
    clip = write_clip(folder / f"clip{seed}.mp4", images, fps=10)
    t = np.arange(250) / 50 + 0.003
    xy = np.column_stack([0.15 + 0.15 * np.floor(t), 0.8 - 0.15 * np.floor(t)])
    return Recording(clip, GazeRecording(GazeSamples.build(t, xy), None, clip, "made"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording_in(tmp_path_factory.mktemp("recording"))


def answers(
    model: GazeQwen,
    recording: Recording,
    cache: FeatureCache | None,
    arm: str = "inject",
    times_s: list[float] | None = None,
    **options: object,
) -> Answers:
    """Log-probabilities at each time, in one pass."""
    source = None if cache is None else cache.source(recording, arm)
    session = StreamSession(model, arm=arm, frozen=source, **options)  # type: ignore[arg-type]
    steps = (source or recording).steps_for(times_s or TIMES_S, model.config.fps, vjepa_fps=model.config.features.fps)
    return [list(session.choose(QUESTION, OPTIONS).option_logprobs.values()) for _ in session.follow(steps)]


@pytest.fixture(scope="module")
def expected(model: GazeQwen, recording: Recording) -> Answers:
    return answers(model, recording, None)


@pytest.fixture
def warm(model: GazeQwen, recording: Recording, expected: Answers, tmp_path: Path) -> Path:
    """A folder that holds everything."""
    assert answers(model, recording, FeatureCache(tmp_path / "cache", model)) == expected
    return tmp_path / "cache"


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("*/*.safetensors"))


@pytest.fixture
def no_decoding(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoding(*_: object, **__: object) -> None:
        raise AssertionError("frames were read")

    monkeypatch.setattr(recordings, "read_at", decoding)


@pytest.fixture
def read_times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of all frames that are decoded from here on."""
    times_s: list[float] = []
    read_at = recordings.read_at

    def noted(*arguments, **options):
        for row, frame in read_at(*arguments, **options):
            times_s.append(frame.time_s)
            yield row, frame

    monkeypatch.setattr(recordings, "read_at", noted)
    return times_s


# -- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_decoding")
def test_a_warm_cache_decodes_nothing_and_changes_no_bit(
    model: GazeQwen, recording: Recording, expected: Answers, warm: Path
) -> None:
    cache = FeatureCache(warm, model)
    assert answers(model, recording, cache) == expected
    counts = cache.counts()
    assert counts["steps_computed"] == counts["damaged_files"] == counts["unwritten_files"] == 0
    assert counts["steps_read"] == 4 + 3  # whole steps and tails: at 2.6 s there is none
    assert cache.notes == []
    session = StreamSession(model, frozen=(source := cache.source(recording, "inject")))
    for _ in session.follow(source.steps_for([4.2], vjepa_fps=model.config.features.fps)):
        latency_ms = session.choose(QUESTION, OPTIONS).latency_ms
    assert latency_ms["cache"] > 0 == latency_ms["vit"] == latency_ms["vjepa"]


def test_arms_share_what_they_have_in_common(
    model: GazeQwen, recording: Recording, warm: Path, no_decoding: None
) -> None:
    cache = FeatureCache(warm, model)
    for arm in ("none", "null", "center"):
        answers(model, recording, cache, arm)
    assert cache.counts()["steps_computed"] == 0
    assert answers(model, recording, cache, "blind") and cache.counts()["steps_computed"] == 0


def test_an_arm_that_draws_on_frames_has_features_of_its_own(
    model: GazeQwen, recording: Recording, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = answers(model, recording, None, "marker")
    cache = FeatureCache(warm, model)
    assert answers(model, recording, cache, "marker") == fresh
    assert cache.counts()["steps_computed"] == 7
    monkeypatch.setattr(recordings, "read_at", None)
    assert answers(model, recording, cache, "marker") == fresh
    monkeypatch.undo()
    samples = GazeSamples.build(recording.samples.t_s, 1 - recording.samples.xy_norm)
    elsewhere = Recording(recording.path, GazeRecording(samples, None, recording.path, "made"))
    assert answers(model, elsewhere, cache, "marker") == answers(model, elsewhere, None, "marker") != fresh


def test_windows_and_budgets_are_served_from_it(model: GazeQwen, recording: Recording, warm: Path) -> None:
    cache = FeatureCache(warm, model)
    for options in ({"window_s": 2.0, "window": "refill"}, {"window_s": 1.5, "budget_steps": 2}):
        assert answers(model, recording, cache, **options) == answers(model, recording, None, **options)
    assert cache.counts()["steps_computed"] == 0


def test_only_what_is_missing_is_decoded(
    model: GazeQwen, recording: Recording, warm: Path, read_times: list[float]
) -> None:
    later = [*TIMES_S, 4.9]
    plain = answers(model, recording, None, times_s=later)
    read_times.clear()
    cache = FeatureCache(warm, model)
    found = answers(model, recording, cache, times_s=later)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(plain), atol=1e-5, rtol=0.0)
    # the fifth step and the tail; V-JEPA's window of 8 frames reaches back into the third step
    assert cache.counts()["steps_computed"] == 2 and 2.0 < min(read_times) < 3.6


def test_other_weights_settings_and_videos_have_other_features(
    model: GazeQwen, recording: Recording, tmp_path: Path, warm: Path
) -> None:
    other = GazeQwen.from_pretrained("tiny")
    with torch.no_grad():
        next(other.extractor.parameters()).add_(0.5)  # type: ignore[union-attr]
    finer = GazeQwen(
        replace(model.config, preprocess=replace(model.config.preprocess, max_pixels=56 * 56, min_pixels=28 * 28)),
        vlm=model.vlm,
        tokenizer=model.tokenizer,
        extractor=model.extractor,
    )
    for changed, clip in ((other, recording), (finer, recording), (model, recording_in(tmp_path, seed=3))):
        cache = FeatureCache(warm, changed)
        assert answers(changed, clip, cache, times_s=[2.6]) == answers(changed, clip, None, times_s=[2.6])
        assert cache.counts()["steps_read"] == 0
    moved = tmp_path / "renamed.mp4"
    moved.write_bytes(recording.path.read_bytes())
    cache = FeatureCache(warm, model)
    answers(model, Recording(moved, recording.gaze), cache)
    assert cache.counts()["steps_computed"] == 0
    with pytest.raises(ConfigError, match="as a whole"):
        FeatureCache(warm, official_tiny()).source(recording, "inject")


def test_the_fingerprint_is_of_all_frozen_weights(model: GazeQwen) -> None:
    untrained, moved = GazeQwen.from_pretrained("tiny"), GazeQwen.from_pretrained("tiny")
    assert model_fingerprint(untrained) == model_fingerprint(model)  # they differ in the resampler
    with torch.no_grad():
        moved.backbone.layers[0].mlp.up_proj.weight[0, 0] += 1.0  # type: ignore[union-attr, index]
    assert model_fingerprint(moved) != model_fingerprint(model)


def test_steps_on_another_clock_are_not_kept(model: GazeQwen, recording: Recording, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, model)
    source = cache.source(recording, "inject")
    for seed in (0, 1):  # the same times, other frames
        steps = made_steps(2, seed=seed)
        session, plain = StreamSession(model, frozen=source), StreamSession(model)
        session.extend(steps)
        plain.extend(steps)
        ours, theirs = (s.choose(QUESTION, OPTIONS).option_logprobs for s in (session, plain))
        assert ours == theirs
    assert files_of(tmp_path) == [] and cache.counts()["steps_computed"] == 0


# -- damage, company, and no room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "header", "stranger"])
def test_a_damaged_file_is_made_again_and_counted(
    model: GazeQwen, recording: Recording, expected: Answers, warm: Path, damage: str
) -> None:
    files = files_of(warm)
    assert len(files) >= 4
    for file in files[::2]:
        data = bytearray(file.read_bytes())
        if damage == "a bit":
            data[-10] ^= 1
        elif damage == "header":
            data[:8] = (1 << 40).to_bytes(8, "little")
        elif damage == "stranger":
            data = bytearray(files[1].read_bytes())
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, bytes(data)))
    cache = FeatureCache(warm, model)
    assert answers(model, recording, cache) == expected
    if damage != "stranger":  # another file's content under this name: made again before anything reads it
        assert cache.counts()["damaged_files"] == len(files[::2])
    assert 0 < cache.counts()["steps_computed"] <= 7
    again = FeatureCache(warm, model)
    assert answers(model, recording, again) == expected
    assert again.counts()["steps_computed"] == again.counts()["damaged_files"] == 0


def test_files_that_go_in_the_middle_of_a_pass_are_made_again(
    model: GazeQwen, recording: Recording, expected: Answers, warm: Path
) -> None:
    cache = FeatureCache(warm, model)
    source = cache.source(recording, "inject")
    session, found = StreamSession(model, frozen=source), []
    for cut in session.follow(source.steps_for(TIMES_S, vjepa_fps=model.config.features.fps)):
        found.append(list(session.choose(QUESTION, OPTIONS).option_logprobs.values()))
        if cut.t_s == TIMES_S[1]:
            feature_cache.forget(warm)
    assert found == expected
    counts = cache.counts()
    assert counts["steps_read"] > 0 < counts["steps_computed"] and counts["damaged_files"] == 0


def test_a_full_disk_costs_the_cache_and_nothing_else(
    model: GazeQwen, recording: Recording, expected: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        if len(written) == 2:
            write_bytes(path, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    cache = FeatureCache(tmp_path, model)
    assert answers(model, recording, cache) == expected
    assert cache.counts()["unwritten_files"] > 1
    (note,) = cache.notes
    assert "No space left" in note and str(tmp_path) in note
    assert len(files_of(tmp_path)) == 2 and not list((tmp_path / FOLDER).glob("*/.*"))
    monkeypatch.undo()
    assert answers(model, recording, FeatureCache(tmp_path, model)) == expected


def test_a_folder_that_can_not_be_made_is_a_note(
    model: GazeQwen, recording: Recording, expected: Answers, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    cache = FeatureCache(tmp_path / "file", model)
    assert answers(model, recording, cache) == expected
    assert cache.counts()["unwritten_files"] > 0 and len(cache.notes) == 1


def test_two_at_once_do_not_meet(model: GazeQwen, recording: Recording, expected: Answers, tmp_path: Path) -> None:
    caches = [FeatureCache(tmp_path, model) for _ in range(2)]
    sources = [cache.source(recording, "inject") for cache in caches]
    sessions = [StreamSession(model, frozen=source) for source in sources]
    passes = [
        session.follow(source.steps_for(TIMES_S, vjepa_fps=model.config.features.fps))
        for session, source in zip(sessions, sources, strict=True)
    ]
    found: list[Answers] = [[], []]
    for _ in zip(*passes, strict=True):
        for session, rows in zip(sessions, found, strict=True):
            rows.append(list(session.choose(QUESTION, OPTIONS).option_logprobs.values()))
    assert found == [expected, expected]
    names = {file.name for file in files_of(tmp_path)}
    assert answers(model, recording, FeatureCache(tmp_path, model)) == expected
    assert {file.name for file in files_of(tmp_path)} == names


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_forget_deletes_what_was_cached_and_nothing_else(warm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = files_of(warm)
    size = sum(file.stat().st_size for file in files)
    left_over = files[0].with_name(f".{'0' * 32}.tmp")
    left_over.write_bytes(b"123")
    outside = warm / "outside"
    outside.mkdir()
    (outside / f"{'0' * 32}.safetensors").write_bytes(b"mine")
    (warm / FOLDER / ("a" * 32)).symlink_to(outside)
    mine = [warm / "notes.txt", warm / FOLDER / "x.safetensors", files[0].parent / "model.safetensors"]
    for path in mine:
        path.write_text("mine")
    assert command(Namespace(cache=warm)) == 0
    assert f"deleted {len(files) + 1} files, {(size + 3) / 1e6:.1f} MB" in capsys.readouterr().out
    assert [file for file in files_of(warm) if file.parent == files[0].parent] == [mine[2]]
    assert all(path.read_text() == "mine" for path in mine) and (outside / f"{'0' * 32}.safetensors").exists()
    assert command(Namespace(cache=warm)) == 0
    assert "deleted 0 files" in capsys.readouterr().out
    assert command(Namespace(cache=warm / "absent")) == 0


def test_forget_leaves_no_empty_folder(warm: Path) -> None:
    assert feature_cache.forget(warm)[0] == 6 and list(warm.iterdir()) == []


def test_a_file_that_can_not_be_deleted_is_named(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"safetensors: expected a file that can be deleted, found Permission denied"):
        command(Namespace(cache=warm))


def test_the_users_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache_folder() == tmp_path / ".cache" / "gazeqwen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert user_cache_folder() == tmp_path / "elsewhere" / "gazeqwen"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert user_cache_folder() == tmp_path / ".cache" / "gazeqwen"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert user_cache_folder() == tmp_path / "Library" / "Caches" / "gazeqwen"


def test_forgetting_needs_no_torch() -> None:
    code = "import sys, benchmarks.streamgaze.feature_cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
