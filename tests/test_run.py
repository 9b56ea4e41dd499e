"""The runner: rows are complete, a run goes on where it was stopped, shards agree, and nothing is lost or mixed up."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.streamgaze import protocols, run, work
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.plan import plan, plan_text
from benchmarks.streamgaze.records import (
    FAILED,
    MANIFEST,
    OK,
    PREDICTION_KEYS,
    SAMPLES,
    SESSIONS,
    prediction_files,
    read_lines,
    read_run,
)
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.work import Settings, share
from gazeqwen import cli
from gazeqwen.errors import ConfigError, InputError
from tests.made_steps import moved_tiny
from tests.streamgaze_data import make_dataset

QUICK = Settings(tasks=("OTP", "OI-E", "GTA"))
Rows = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), videos=3, seconds=5.0, points=2)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of three tasks."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run.run(data, out, QUICK, model=moved_tiny())
    return out


def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def assert_same(a: Rows, b: Rows) -> None:
    """Equal predictions: everything but latencies bit for bit, log-probabilities within 1e-5."""
    assert sorted(a) == sorted(b)
    for name in a:
        first, second = dict(a[name]), dict(b[name])
        for row in (first, second):
            row.pop("latency_ms")
        one, other = first.pop("logprobs"), second.pop("logprobs")
        assert first == second
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5)


def test_every_sample_has_a_row_with_everything_in_it(whole: Path, data: Path) -> None:
    found = read_run(whole)
    samples = [s for s in Dataset.open(data).samples() if s.task in QUICK.tasks]
    assert [sample["id"] for sample in found.samples] == [sample.id for sample in samples]
    assert len(samples) == 3 * (1 + 1 + 2)
    assert not found.missing
    for row in found.predictions.values():
        assert tuple(sorted(row)) == tuple(sorted(PREDICTION_KEYS))
        assert row["status"] == OK
        assert row["correct"] == (row["prediction"] == row["answer"])
        assert row["has_gaze"] is True
        assert max(row["frame_times_s"]) <= row["t_s"]
        assert max(row["gaze_times_s"]) <= row["t_s"]
        assert row["prediction"] == max(row["logprobs"], key=row["logprobs"].get)
        assert np.logaddexp.reduce(list(row["logprobs"].values())) == pytest.approx(0, abs=1e-5)
    identity = found.manifest["identity"]
    assert identity["protocol"] == "stream"
    assert identity["scoring"] == "letters"
    assert identity["questions"] == {"OTP": 3, "OI-E": 3, "GTA": 6}
    assert identity["model"]["trained"] == "untrained"
    assert not identity["limited"]
    started, ended = read_lines(whole / SESSIONS)
    assert (started["event"], ended["event"], ended["ended"]) == ("start", "end", "done")
    assert started["id"] == ended["id"]
    assert ended["answered"] == len(samples)


def test_ten_tasks_by_default_and_a_limit_is_marked(data: Path, tmp_path: Path) -> None:
    run.run(data, tmp_path / "run", Settings(limit=1), model=moved_tiny())
    found = read_run(tmp_path / "run")
    assert [sample["task"] for sample in found.samples] == list(TASKS)
    assert found.manifest["identity"]["limited"]
    assert not found.missing


@pytest.mark.parametrize("seed", range(3))
def test_a_predictions_file_cut_at_any_byte_is_completed(whole: Path, data: Path, tmp_path: Path, seed: int) -> None:
    out = copied(whole, tmp_path)
    file = prediction_files(out)[0]
    keep = int(np.random.default_rng(seed).integers(0, file.stat().st_size))
    os.truncate(file, keep)
    before = len(read_run(out).predictions)
    summary = run.run(data, out, QUICK, model=moved_tiny())
    assert summary.answered == len(read_run(whole).predictions) - before
    assert_same(read_run(out).predictions, read_run(whole).predictions)


def test_one_two_and_three_shards_in_one_folder_agree(whole: Path, data: Path, tmp_path: Path) -> None:
    for count in (2, 3):
        out = tmp_path / str(count)
        for index in range(count):
            run.run(data, out, QUICK, model=moved_tiny(), shard=(index, count))
        assert len(prediction_files(out)) == count
        assert_same(read_run(out).predictions, read_run(whole).predictions)


def test_shards_that_start_at_once_agree_on_one_run(whole: Path, data: Path, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def one(index: int) -> None:
        try:
            run.run(data, tmp_path / "run", QUICK, model=moved_tiny(), shard=(index, 3))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_same(read_run(tmp_path / "run").predictions, read_run(whole).predictions)
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]


SAMPLES_DRAWN = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 900), st.sampled_from(list(TASKS))), min_size=1, max_size=40
)


@given(drawn=SAMPLES_DRAWN, count=st.integers(1, 5))
def test_every_sample_is_in_one_share(drawn: list[tuple[str, float, str]], count: int) -> None:
    samples = [
        Sample(str(k), task, video, t_s, "?", (), "Yes", entry=k, index=0) for k, (video, t_s, task) in enumerate(drawn)
    ]
    shares = [share(samples, (index, count)) for index in range(count)]
    assert sorted(s.id for part in shares for of_video in part.values() for s in of_video) == sorted(
        s.id for s in samples
    )
    videos = [video for part in shares for video in part]
    assert len(videos) == len(set(videos)) == len({s.video for s in samples})
    assert shares == [share(samples[::-1], (index, count)) for index in range(count)] or len(
        {(s.video, s.t_s) for s in samples}
    ) < len(samples)  # samples at the same moment keep the order they come in


def test_the_processes_of_a_launcher_are_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert work.shard_of_process((0, 1)) == (2, 4)
    assert work.shard_of_process((1, 3)) == (1, 3)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match="--shard"):
        work.shard_of_process((0, 1))
    monkeypatch.delenv("RANK")
    assert work.shard_of_process((0, 1)) == (0, 1)


def test_a_finished_run_does_nothing_and_loads_no_torch(whole: Path, data: Path) -> None:
    # The run's model is at hand in this process only; a command names the tiny one, whose id it has.
    code = (
        "import sys; from gazeqwen.cli import main\n"
        f"code = main(['eval', 'streamgaze', '--data', {str(data)!r}, '--out', {str(whole)!r}, '--no-cache', "
        "'--tasks', 'OTP', 'OI-E', 'GTA'])\n"
        "assert code == 0, code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    before = {file: file.read_bytes() for file in whole.iterdir()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 samples have a row, 0 failed, 0 without gaze; 0 now" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert {file: file.read_bytes() for file in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": "official"}, "protocol = 'stream'"),
        ({"arm": "none"}, "arm = 'inject'"),
        ({"limit": 2}, "limit = None"),
        ({"seed": 3}, "seed = 0"),
        ({"window": "refill"}, "window = 'evict'"),
        ({"max_frames": 10}, "max_frames = 600"),
        ({"scoring": "likelihood"}, "scoring = 'letters'"),
        ({"gaze_input": "fixations"}, "gaze_input = None"),
        ({"tasks": ("OTP",)}, "tasks = ['OTP', 'OI-E', 'GTA']"),
    ],
)
def test_another_experiment_is_refused(whole: Path, data: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        run.run(data, whole, replace(QUICK, **change), model=moved_tiny())
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_data_and_other_weights_are_refused(whole: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    gaze = other / "gaze" / "clip-1.csv"
    gaze.write_text(gaze.read_text().replace("0.5", "0.6", 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"data: gaze: gaze/clip-1\.csv"):
        run.run(other, whole, QUICK, model=moved_tiny())
    out = copied(whole, tmp_path)
    prediction_files(out)[0].unlink()
    with pytest.raises(InputError, match="model: fingerprint"):
        run.run(data, out, QUICK, model="tiny")
    assert not prediction_files(out)


def test_another_version_of_the_code_is_refused(whole: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "__version__", "99.0")
    with pytest.raises(InputError, match="expected gazeqwen = "):
        run.run(data, whole, QUICK, model=moved_tiny())


def test_a_folder_with_something_else_in_it_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words", encoding="utf-8")
    with pytest.raises(InputError, match="a new or empty folder"):
        run.run(data, tmp_path, QUICK, model=moved_tiny())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="a run's manifest"):
        run.run(data, tmp_path / "run", QUICK, model=moved_tiny())


def test_killed_between_the_manifest_and_the_samples(whole: Path, data: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path)
    (out / SAMPLES).unlink()
    assert run.run(data, out, QUICK, model=moved_tiny()).answered == 0
    assert (out / SAMPLES).read_bytes() == (whole / SAMPLES).read_bytes()


def broken_data(data: Path, tmp_path: Path, *, at_s: float) -> Path:
    """The same data, with a video that was cut off in the middle of the frame at `at_s`: its header promises more."""
    other = Path(shutil.copytree(data, tmp_path / "broken"))
    video = other / "videos" / "original_video" / "clip-1.mp4"
    with av.open(str(video)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.pts is not None]
        cut = next(packet for packet in packets if float(packet.pts or 0) * float(packet.time_base) >= at_s)
        assert cut.pos is not None
        size = cut.pos + cut.size // 2
    os.truncate(video, size)
    return other


def test_an_unreadable_video_fails_its_own_samples_after_the_readable_ones(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    other = broken_data(data, tmp_path, at_s=3.2)
    summary = run.run(other, tmp_path / "run", QUICK, model=moved_tiny())
    rows = read_run(tmp_path / "run").predictions
    failed = [row for row in rows.values() if row["status"] == FAILED]
    assert summary.failed == len(failed)
    assert len(rows) == 12
    assert {row["video"] for row in failed} == {"clip-1.mp4"}
    assert 0 < len(failed) < 4  # what lies before the damage was answered
    readable = max(row["t_s"] for row in rows.values() if row["video"] == "clip-1.mp4" and row["status"] == OK)
    assert all(row["t_s"] > readable for row in failed)
    for row in failed:
        assert not row["correct"]
        assert row["prediction"] == ""
        assert "clip-1.mp4" in row["reason"]
        assert "\n" not in row["reason"]
    untouched = {name: row for name, row in rows.items() if row["video"] != "clip-1.mp4"}
    assert_same(untouched, {name: read_run(whole).predictions[name] for name in untouched})


@pytest.mark.parametrize("protocol", ["stream", "official", "streamgaze"])
def test_a_video_that_is_no_video_or_not_there(data: Path, tmp_path: Path, protocol: str) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    folder = other / "videos" / "original_video"
    (folder / "clip-0.mp4").write_bytes(b"no video")
    (folder / "clip-2.mp4").unlink()
    run.run(other, tmp_path / "run", Settings(protocol=protocol, tasks=("OTP",)), model=moved_tiny())
    rows = {row["video"]: row for row in read_run(tmp_path / "run").predictions.values()}
    assert [rows[f"clip-{k}.mp4"]["status"] for k in range(3)] == [FAILED, OK, FAILED]
    assert "clip-0.mp4" in rows["clip-0.mp4"]["reason"]
    assert "missing video" in rows["clip-2.mp4"]["reason"]


def test_a_video_that_was_missing_can_be_brought_and_retried(data: Path, tmp_path: Path) -> None:
    other, out = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "run"
    away = (other / "videos" / "original_video" / "clip-2.mp4").rename(tmp_path / "clip-2.mp4")
    chosen = Settings(tasks=("OTP",))
    assert run.run(other, out, chosen, model=moved_tiny()).failed == 1
    video = away.rename(other / "videos" / "original_video" / "clip-2.mp4")
    again = run.run(other, out, chosen, model=moved_tiny(), retry_failed=True)
    assert (again.answered, again.failed) == (1, 0)
    assert run.run(other, out, chosen, model=moved_tiny()).answered == 0
    (other / "videos" / "original_video" / "clip-0.mp4").unlink()  # the other way round it is other data
    with pytest.raises(InputError, match=r"videos: clip-0\.mp4"):
        run.run(other, out, chosen, model=moved_tiny())
    assert video.is_file()


def test_a_finished_run_is_not_shown_for_another_quantization(whole: Path, data: Path) -> None:
    with pytest.raises(InputError, match="model: quantization = None"):
        run.run(data, whole, QUICK, model=moved_tiny(), load={"quantization": "nf4"})


def test_failed_samples_are_answered_again_when_asked_to(whole: Path, data: Path, tmp_path: Path) -> None:
    """The first time one kind of question runs out of memory."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        ask = protocols.ModelProtocol.ask

        def short_of_memory(self: Any, session: Any, sample: Sample, **options: Any) -> Any:
            if sample.task == "OTP":
                raise MemoryError("no room for 3 GiB")
            return ask(self, session, sample, **options)

        patch.setattr(protocols.ModelProtocol, "ask", short_of_memory)
        assert run.run(data, out, QUICK, model=moved_tiny()).failed == 3
    assert run.run(data, out, QUICK, model=moved_tiny()).answered == 0
    rows = read_run(out).predictions.values()
    assert {row["reason"] for row in rows if row["status"] == FAILED} == {"MemoryError: no room for 3 GiB"}
    again = run.run(data, out, QUICK, model=moved_tiny(), retry_failed=True)
    assert (again.answered, again.failed) == (3, 0)
    assert_same(read_run(out).predictions, read_run(whole).predictions)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "no space")])
def test_what_is_no_samples_fault_stops_the_run_and_keeps_what_is_written(
    whole: Path, data: Path, tmp_path: Path, error: BaseException
) -> None:
    out, ask = tmp_path / "run", protocols.ModelProtocol.ask
    asked: list[str] = []

    def fails_at_last(self: Any, session: Any, sample: Sample, **options: Any) -> Any:
        asked.append(sample.id)
        if len(asked) == 6:
            raise error
        return ask(self, session, sample, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols.ModelProtocol, "ask", fails_at_last)
        with pytest.raises(type(error)):
            run.run(data, out, QUICK, model=moved_tiny())
    rows = read_run(out).predictions
    assert len(rows) == 5
    assert all(row["status"] == OK for row in rows.values())
    ended = list(read_lines(out / SESSIONS))[-1]
    assert ended["ended"] == "stopped"
    assert type(error).__name__ in ended["reason"]
    run.run(data, out, QUICK, model=moved_tiny())
    assert_same(read_run(out).predictions, read_run(whole).predictions)


def test_whose_fault_an_error_is() -> None:
    for error, reason in (
        (InputError("clip.mp4", expected="a video", found="text"), "clip.mp4: expected a video, found text"),
        (FileNotFoundError(errno.ENOENT, "no such file", "x"), "FileNotFoundError: [Errno 2] no such file: 'x'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("shapes\n differ"), "RuntimeError: shapes differ"),
    ):
        assert protocols.reason_of(error) == reason
    wrapped = InputError("cache", expected="room", found="none")
    wrapped.__cause__ = OSError(errno.ENOSPC, "no space")
    for error in (wrapped, NotImplementedError(), RecursionError(), RuntimeError("CUDA error: unspecified launch")):
        with pytest.raises(type(error)):
            protocols.reason_of(error)
    assert not issubclass(TypeError, protocols.SAMPLE_ERRORS)
    assert not issubclass(ConfigError, protocols.SAMPLE_ERRORS)


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """Files of this process can't grow beyond a size: what comes after is written in part, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_written(whole: Path, data: Path, tmp_path: Path, full_disk: Any) -> None:
    out = copied(whole, tmp_path)
    size = prediction_files(out)[0].stat().st_size
    prediction_files(out)[0].unlink()
    full_disk(size // 2 + 100)
    with pytest.raises(InputError, match="room for the next row"):
        run.run(data, out, QUICK, model=moved_tiny())
    full_disk(resource.RLIM_INFINITY)
    kept = read_run(out).predictions
    assert 0 < len(kept) < 12
    assert not prediction_files(out)[0].read_bytes().endswith(b"\n")
    run.run(data, out, QUICK, model=moved_tiny())
    assert_same(read_run(out).predictions, read_run(whole).predictions)


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in (
        {"protocol": "live"},
        {"arm": "telepathy"},
        {"tasks": ("XYZ",)},
        {"scoring": "guess"},
        {"protocol": "official", "window": "refill"},
        {"protocol": "streamgaze", "max_frames": 100},
        {"proactive_wording": "standalone"},
        {"max_frames": 1},
        {"limit": 0},
        {"arm": "oracle", "scoring": "letters"},
    ):
        with pytest.raises(ConfigError):
            Settings(**wrong)  # type: ignore[arg-type]


def test_the_command_shows_progress_and_a_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["eval", "streamgaze", "--data", str(data), "--out", str(tmp_path / "run"), "--tasks", "OTP", "OAA"]
    flags += ["--no-cache", "--limit", "2"]
    assert cli.main(flags) == 0
    told = capsys.readouterr()
    assert "4/4 samples" in told.err
    assert "OTP" in told.out
    assert "LIMITED" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    assert cli.main([*flags, "--json"]) == 0
    told = capsys.readouterr()
    values = json.loads(told.out)
    assert (values["answered"], values["samples"], values["missing"], values["failed"]) == (0, 4, 0, 0)
    assert set(values["report"]["tasks"]) == {"OTP", "OAA"}
    assert cli.main([*flags, "--arm", "none"]) == 2
    assert "arm = 'inject'" in capsys.readouterr().err


def test_entries_that_cannot_be_scored_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    file = other / "qa" / f"{TASKS['OTP'].key}.json"
    entries = json.loads(file.read_text())
    entries[0]["questions"][0]["answer"] = "E"
    file.write_text(json.dumps(entries), encoding="utf-8")
    flags = ["eval", "streamgaze", "--data", str(other), "--out", str(tmp_path / "run"), "--tasks", "OTP", "--no-cache"]
    assert cli.main([*flags, "--protocol", "official"]) == 0
    assert "1 entries can't be scored" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / MANIFEST).read_text())["unusable_entries"] == 1


def test_a_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["eval", "streamgaze", "--data", str(data), "--out", str(tmp_path / "run"), "--dry-run"]
    assert cli.main([*flags, "--cache", str(tmp_path / "cache"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == sum(found["questions"].values()) == 3 * (8 + 2 * 2)
    assert found["videos"] == 3
    assert found["cost"]["questions"] == found["samples"]
    assert min(found["hours"], found["cache_bytes"], found["kv_cache_bytes"], found["weights_bytes"]) > 0
    assert max(map(len, plan_text(found).splitlines())) <= 80
    for protocol in ("official", "streamgaze"):
        found = plan(Dataset.open(data), Settings(protocol=protocol), model=moved_tiny(), cache=tmp_path / "cache")
        assert found["cost"]["questions"] == found["samples"]
        assert found["cache_bytes"] == 0
        assert max(map(len, plan_text(found).splitlines())) <= 80
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_counts_what_a_run_then_takes(data: Path, tmp_path: Path) -> None:
    """Of clips it is exact; of a stream it is at most one step a question too many."""
    for protocol in ("stream", "official", "streamgaze"):
        chosen = Settings(protocol=protocol, scoring="letters", tasks=("OTP", "GTA"))
        cost = plan(Dataset.open(data), chosen, model=moved_tiny())["cost"]
        run.run(data, tmp_path / protocol, chosen, model=moved_tiny())
        rows = read_run(tmp_path / protocol).predictions.values()
        if protocol != "stream":
            assert cost["steps"] == sum(row["steps"] for row in rows)
            assert cost["encoded"] == sum(len(row["frame_times_s"]) for row in rows)
        longest = {row["video"]: max(r["steps"] for r in rows if r["video"] == row["video"]) for row in rows}
        if protocol == "stream":
            assert 0 <= cost["steps"] - sum(longest.values()) <= len(rows)
        assert cost["held"] >= max(row["steps"] for row in rows)
