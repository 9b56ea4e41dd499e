"""benchmarks.tiny.vision_training and .files: the fast tower, pools, resuming, learning, damage, full disks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.tiny import vision_training
from benchmarks.tiny.files import append_line, load_state, save_state, world_digest, write_bytes
from benchmarks.tiny.vision_training import (
    FastTower,
    Pool,
    VisionTraining,
    build_tower,
    main,
    make_pool,
    measure,
    orthogonal,
    pool_name,
    step_patches,
    symbol_loss,
    targets,
    train,
)
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny import symbols
from gazeqwen.tiny.symbols import content, step_symbols, symbol_table
from gazeqwen.tiny.world import PRETRAINING_SEEDS, World


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


@pytest.fixture(scope="module")
def pool(pools: Path) -> Pool:
    """Of the worlds 3 and 4."""
    return make_pool(pools, 3, 2, per_world=4)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes."""
    resource = pytest.importorskip("resource", reason="a limit of files' sizes is Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_fast_tower_is_transformers_tower(pool: Pool) -> None:
    tower = build_tower()
    assert sum(weight.numel() for weight in tower.parameters()) <= 800_000
    frames, _ = pool.take(np.arange(3), np.zeros(3, dtype=int))
    small = frames[:, :, :84, :140]  # windows of several sizes
    for images in (frames, small):
        patches, (gh, gw) = step_patches(images)
        with torch.no_grad():
            found = FastTower(tower, (gh, gw))(patches)
            told = tower(patches, grid_thw=torch.tensor([[3, gh, gw]]))
        expected = told if isinstance(told, torch.Tensor) else told.pooler_output
        assert expected.std() > 0.1
        torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-5, atol=1e-5)


def test_the_tower_is_seeded() -> None:
    before = torch.random.get_rng_state()
    one, again, other = (torch.cat([w.flatten() for w in build_tower(seed=s).parameters()]) for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_pool_holds_frames_and_what_they_show(pool: Pool) -> None:
    assert (pool.frames.shape, pool.labels.shape) == ((8, 2, 112, 168, 3), (8, 2, 24, 4))
    rng = np.random.default_rng((4, 11))
    world = World.make(4)
    first = rng.uniform(0, world.duration_s - 0.5, 4)
    for part, times in enumerate([(first, first + 0.5), (first, first), (first + 0.5, first + 0.5)]):
        rows = np.arange(4, 8)
        frames, labels = pool.take(rows, np.full(4, part))
        for place in range(4):
            for frame in (0, 1):
                assert np.array_equal(frames[place, frame], world.frame(float(times[frame][place])))
        pairs = np.stack(times, axis=1)
        expected = content(symbol_table(), step_symbols(world, pairs, pairs))
        found = targets(symbol_table(), labels)
        assert torch.equal(found, expected)


def test_a_pool_is_made_once(pool: Pool, pools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object, **__: object) -> None:
        raise AssertionError("a world was made")

    monkeypatch.setattr(World, "make", again)
    assert np.array_equal(make_pool(pools, 3, 2, per_world=4).labels, pool.labels)
    assert [path.name for path in pools.iterdir()] == [pool.name]


def test_a_pool_of_other_code_or_worlds_is_not_found(
    pool: Pool, pools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.name == pool_name(3, 2, 4)
    assert len({pool_name(3, 2, 4), pool_name(4, 2, 4), pool_name(3, 3, 4), pool_name(3, 2, 5)}) == 4
    changed = ModuleType("symbols")
    changed.__file__ = str(tmp_path / "symbols.py")
    (tmp_path / "symbols.py").write_bytes(Path(str(symbols.__file__)).read_bytes() + b"# another rule\n")
    monkeypatch.setattr(vision_training, "symbols", changed)
    assert not (pools / pool_name(3, 2, 4)).exists()
    assert world_digest() == world_digest() != world_digest(symbols) != world_digest(changed)
    assert world_digest(questions=False) != world_digest()


def test_the_measures_of_perfect_and_of_empty_tokens(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    table = symbol_table()
    _, labels = pool.take(np.arange(len(pool)), np.zeros(len(pool), dtype=int))
    target = targets(table, labels)
    loss, told = symbol_loss(target, labels, table, 1.0)
    assert told["error"] == 0 and float(loss) == pytest.approx(told["named"]) and told["named"] < 0.1
    assert float(symbol_loss(torch.zeros_like(target), labels, table, 0.0)[0]) == pytest.approx(1.0)
    monkeypatch.setattr(FastTower, "__call__", lambda self, patches: target)
    best = measure(build_tower(), pool, table)
    assert best["error"] == 0 and all(value == 1 for name, value in best.items() if name != "error")
    monkeypatch.setattr(FastTower, "__call__", lambda self, patches: table["background"].expand(len(pool), 24, -1))
    empty = measure(build_tower(), pool, table)
    share = float((labels[..., 0] < 0).float().mean())
    assert (empty["background_recall"], empty["hand"]) == (1, 0)
    assert empty["background_precision"] == pytest.approx(share) and empty["noun"] < 0.5


def test_orthogonal() -> None:
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
        assert values.min() > 0.5 and values.max() < 1.3


def test_it_learns_a_small_pool(pool: Pool, tmp_path: Path) -> None:
    config = VisionTraining(steps=24, batch=4, warmup=0.2, eval_every=24, save_every=24)
    before = measure(build_tower(seed=config.seed), pool, symbol_table())
    tower = train(config, pool, pool, tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [24, 24]
    after = entries[-1]["held_out"]
    assert after["error"] < 0.8 < before["error"] and after["colour"] > before["colour"]
    assert entries[0]["error"] > 0 and entries[0]["seconds"] > 0
    kept = torch.load(tmp_path / "visual.pt", weights_only=True)
    assert all(torch.equal(kept[name], weight) for name, weight in tower.state_dict().items())


def test_a_killed_run_goes_on_as_if_it_had_not(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = VisionTraining(steps=6, batch=2, save_every=2)
    whole = train(config, pool, None, tmp_path / "whole")
    taken = Pool.take

    def killed(self: Pool, rows: np.ndarray, parts: np.ndarray) -> object:
        if (tmp_path / "cut" / "checkpoint.pt").exists() and (tmp_path / "cut" / "late").exists():
            raise KeyboardInterrupt
        if (tmp_path / "cut" / "checkpoint.pt").exists():
            (tmp_path / "cut" / "late").touch()  # one step after the checkpoint is lost
        return taken(self, rows, parts)

    monkeypatch.setattr(Pool, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, pool, None, tmp_path / "cut")
    monkeypatch.setattr(Pool, "take", taken)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 2
    parts = train(config, pool, None, tmp_path / "cut")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    monkeypatch.setattr(Pool, "take", None)  # nothing is left to do
    again = train(config, pool, None, tmp_path / "cut")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())
    with pytest.raises(ConfigError, match="other settings"):
        train(VisionTraining(steps=7, batch=2, save_every=2), pool, None, tmp_path / "cut")
    with pytest.raises(ConfigError, match="other settings"):
        train(config, Pool(pool.frames, pool.labels, "another"), None, tmp_path / "cut")


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def broken(*arguments: object) -> tuple[torch.Tensor, dict[str, float]]:
        nonlocal calls
        calls += 1
        loss, told = symbol_loss(*arguments)  # type: ignore[arg-type]
        return loss * (float("nan") if calls == 2 else 1.0), told

    monkeypatch.setattr(vision_training, "symbol_loss", broken)
    with pytest.raises(InputError, match="expected a finite loss and gradient, found nan and nan at step 1"):
        train(VisionTraining(steps=2, batch=1, save_every=1), pool, None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1


@pytest.mark.parametrize("limit", [10, 4096])
def test_a_full_disk_is_one_line(pool: Pool, tmp_path: Path, limit: int) -> None:
    """The log fails, or the checkpoint."""
    with full_disk(limit), pytest.raises(InputError, match="expected room to write, found File too large") as caught:
        train(VisionTraining(steps=1, batch=1), pool, None, tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_full_disk_leaves_no_pool(tmp_path: Path) -> None:
    with full_disk(4096), pytest.raises(InputError, match="expected room to write"):
        make_pool(tmp_path, 3, 1, per_world=1)
    assert not list(tmp_path.iterdir())


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "state.pt"
    assert load_state(path, "a state") is None
    save_state(path, {"a": torch.ones(2)})
    with full_disk(10), pytest.raises(InputError, match="expected room to write"):
        write_bytes(path, bytes(100))
    loaded = load_state(path, "a state")
    assert loaded is not None and torch.equal(loaded["a"], torch.ones(2))
    assert [found.name for found in path.parent.iterdir()] == ["state.pt"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"state\.pt: expected a state, found a damaged file; delete it"):
        load_state(path, "a state")
    with pytest.raises(InputError, match="expected room to write"):
        write_bytes(path / "below a file", b"")

    log = tmp_path / "log.jsonl"
    append_line(log, {"step": 1})
    log.write_bytes(log.read_bytes() + b'{"step": 2, "lo')
    append_line(log, {"step": 2, "loss": float("nan")})
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"step": 1}, {"step": 2, "loss": None}]


def test_damage_is_one_line(pool: Pool, pools: Path, tmp_path: Path) -> None:
    for content_ in (b"", b"not a checkpoint", b"PK\x03\x04" + bytes(200)):
        (tmp_path / "checkpoint.pt").write_bytes(content_)
        with pytest.raises(InputError, match=r"checkpoint\.pt: expected a checkpoint of this training") as caught:
            train(VisionTraining(steps=1, batch=1), pool, None, tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "checkpoint.pt").unlink()
    train(VisionTraining(steps=1, batch=1), pool, None, tmp_path)
    whole = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del whole["optimizers"][0]["state"][0]  # a matrix's momentum
    for broken in ({"format": 1}, whole):
        torch.save(broken, tmp_path / "checkpoint.pt")
        with pytest.raises(InputError, match="expected a checkpoint"):
            train(VisionTraining(steps=1, batch=1), pool, None, tmp_path)
    broken = tmp_path / "pool"
    broken.mkdir()
    with pytest.raises(InputError, match=r"frames\.npy: expected a pool's \.npy file, found no such file"):
        Pool.open(broken)
    for name in ("frames", "labels"):
        (broken / f"{name}.npy").write_bytes((pools / pool.name / f"{name}.npy").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"frames\.npy"):
        Pool.open(broken)
    for name in ("frames", "labels"):
        np.save(broken / f"{name}.npy", pool.labels)
    with pytest.raises(InputError, match="of one pool"):
        Pool.open(broken)
    with pytest.raises(ConfigError, match="1 or more worlds"):
        make_pool(tmp_path, 3, 0)
    with pytest.raises(ConfigError, match="above 0"):
        VisionTraining(steps=0)
    with pytest.raises(ConfigError, match="shares"):
        VisionTraining(single=2.0)


def test_the_command_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / pool_name(PRETRAINING_SEEDS, 1, 16)).mkdir()
    assert main(["--out", str(tmp_path), "--worlds", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
