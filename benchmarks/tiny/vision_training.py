"""Trains the embedded model's vision tower to make the symbols of `gazeqwen.tiny.symbols` from the world's pixels.

    .venv/bin/python -m benchmarks.tiny.vision_training --out WORK [--worlds 1000] [--steps 8000]

    worlds ─► make_pool ─► Pool (frames and labels, .npy) ─► FastTower ─► symbol_loss ─► WORK/visual.pt
                                                                └► measure, on validation worlds

A run that was killed goes on from its last checkpoint, bit for bit as if it had not been; its log then holds the steps
since that one twice. What a step learns from is a function of the seed and its number.

N samples of a pool, B of a batch, P merged tokens ("cells") of a sample, L patches, D symbol dimensions.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from benchmarks.commands import run_command
from benchmarks.tiny.files import DAMAGE, append_line, load_state, no_room, save_state, start_array, world_digest
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.preprocess import video_patches
from gazeqwen.tiny import scene_painting, symbols
from gazeqwen.tiny.model import SEED, TINY_CONFIG, tiny_tokenizer, tiny_vlm_config
from gazeqwen.tiny.symbols import CELL_PX, SymbolTable, cell_content, step_symbols, symbol_table
from gazeqwen.tiny.world import PRETRAINING_SEEDS, VALIDATION_SEEDS, World

FORMAT = 2
FRAME_GAP_S = 0.5  # between the two frames of a step
CLASSES = ("noun", "colour", "state")
LOG_EVERY = 50  # steps
GAIN = 8.0  # of the products with the table's rows, as logits: about 10 where a token is what it should be


def build_tower(*, seed: int = SEED) -> Any:
    """The embedded model's vision tower alone, seeded, float32; its last layer as wide as the symbols."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = tiny_vlm_config(tiny_tokenizer()).vision_config
        config.out_hidden_size = symbol_table().dim
        config._attn_implementation = "sdpa"
        tower = Qwen2_5_VisionTransformerPretrainedModel(config)
        for name, weight in tower.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5 * (0.5 if name.endswith("proj.weight") else 1.0))
        return tower


# -- samples -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool:
    """Rendered steps of many worlds, read from disk as they are needed.

    Attributes:
        frames: (N, 2, H, W, 3) uint8 RGB, half a second apart.
        labels: (N, 2, P, 4) int8, of each frame: for each cell noun, colour and state (-1: background), and whether the
            hand is there. A step shows what its last frame shows.
        name: of its folder.
    """

    frames: np.ndarray
    labels: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def open(cls, folder: Path) -> Pool:
        """A pool that `make_pool` wrote.

        Raises:
            InputError: a file is missing, damaged or of another shape.
        """
        made: dict[str, np.ndarray] = {}
        for name in ("frames", "labels"):
            try:
                made[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise _damaged(folder / f"{name}.npy", "a pool's .npy file", error) from error
        pool = cls(made["frames"], made["labels"], folder.name)
        shapes = f"{pool.frames.dtype} {pool.frames.shape} and {pool.labels.dtype} {pool.labels.shape}"
        (height, width) = pool.frames.shape[2:4] if pool.frames.ndim == 5 else (0, 0)
        cells = height // CELL_PX * (width // CELL_PX)
        types = (pool.frames.dtype, pool.labels.dtype)
        if types != (np.uint8, np.int8) or not cells or pool.labels.shape != (len(pool.frames), 2, cells, 4):
            raise InputError(folder, expected="frames and labels of one pool", found=shapes, fix="delete the folder")
        return pool

    def take(self, rows: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Frames (B, 2, H, W, 3) and labels (B, P, 4) int64 of samples; `parts`: 0 both frames, 1 or 2 one, twice."""
        frames = self.frames[rows]
        frames[parts == 1, 1] = frames[parts == 1, 0]
        frames[parts == 2, 0] = frames[parts == 2, 1]
        return frames, torch.from_numpy(self.labels[rows, np.where(parts == 1, 0, 1)].astype(np.int64))


def pool_name(first_seed: int, worlds: int, per_world: int) -> str:
    """Of a pool's folder: another where the code that draws or labels has changed, so that an old one is not found."""
    digest = world_digest(symbols, scene_painting, questions=False)
    return f"pool-{digest[:12]}-{FORMAT}-{first_seed}-{worlds}x{per_world}"


def make_pool(pools: Path, first_seed: int, worlds: int, *, per_world: int = 16) -> Pool:
    """Renders `per_world` steps of each world at random times into a folder of `pools`, unless it is there. About 0.2 s
    a world.

    Raises:
        InputError: as `Pool.open`, or the folder can't be written.
        ConfigError: no world, or no step of each.
    """
    if min(worlds, per_world) < 1:
        raise ConfigError(f"pool: expected 1 or more worlds and steps of each, found {worlds} and {per_world}")
    folder = pools / pool_name(first_seed, worlds, per_world)
    if folder.exists():
        return Pool.open(folder)
    staging = folder.with_name(f"{folder.name}.{uuid4().hex}")
    try:
        staging.mkdir(parents=True)
        with (staging / "frames.npy").open("wb") as frames, (staging / "labels.npy").open("wb") as labels:
            for seed in range(first_seed, first_seed + worlds):
                for file, part in zip((frames, labels), _samples(World.make(seed), per_world), strict=True):
                    if seed == first_seed:
                        start_array(file, part.dtype, (worlds * per_world, *part.shape[1:]))
                    file.write(part.tobytes())
        staging.rename(folder)
    except OSError as error:
        raise no_room(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Pool.open(folder)


def _samples(world: World, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames, labels) of a Pool, of `count` steps of one world."""
    rng = np.random.default_rng((world.seed, 11))
    first = rng.uniform(0, world.duration_s - FRAME_GAP_S, count)
    second = first + FRAME_GAP_S
    frames = np.stack([np.stack([world.frame(float(t)) for t in pair]) for pair in zip(first, second, strict=True)])
    labels = []
    for times in (first, second):
        pairs = np.stack([times, times], axis=1)
        step = step_symbols(world, pairs, pairs)
        shown = [step.of_cells(values) for values in (step.noun, step.colour, step.state)]
        there = step.thing >= 0
        labels.append(np.stack([*(np.where(there, values, -1) for values in shown), step.hand], axis=-1))
    return frames, np.stack(labels, axis=1).astype(np.int8)


# -- the tower, faster -------------------------------------------------------------------------------------------------


class FastTower:
    """The same numbers as transformers' Qwen2.5-VL vision tower with its weights, for many steps of one small grid.

    Attention is one call for all windows of a size, not one for each; the patch convolution is a matrix product.
    """

    def __init__(self, tower: Any, grid: tuple[int, int]) -> None:
        """`grid`: (gh, gw) patches of a step."""
        config = tower.config
        self.tower, self.heads, merge = tower, config.num_heads, config.spatial_merge_size
        self.unit = merge**2
        side = config.window_size // config.patch_size // merge
        rows, columns = grid[0] // merge, grid[1] // merge
        cells = np.arange(rows * columns).reshape(rows, columns)
        windows = [
            cells[y : y + side, x : x + side].ravel() for y in range(0, rows, side) for x in range(0, columns, side)
        ]
        order = np.concatenate(windows)
        self.back = torch.from_numpy(np.argsort(order))
        self.order = torch.from_numpy((order[:, None] * self.unit + np.arange(self.unit)).ravel())
        self.whole = [(0, 1, len(self.order))]
        self.windows: list[tuple[int, int, int]] = []  # (first patch, windows, patches of each)
        start = 0
        for length in (len(window) * self.unit for window in windows):
            if self.windows and self.windows[-1][2] == length:
                first, count, _ = self.windows[-1]
                self.windows[-1] = (first, count + 1, length)
            else:
                self.windows.append((start, 1, length))
            start += length
        self.full = set(config.fullatt_block_indexes)
        # Rotary embedding: half of a head's angles turn with the patch's row, half with its column.
        y, x = (axis.reshape(rows, merge, columns, merge).transpose(0, 2, 1, 3).ravel() for axis in np.indices(grid))
        width = config.hidden_size // self.heads
        speed = 1.0 / 10000.0 ** (torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
        at = torch.from_numpy(np.stack([y, x], axis=1)[self.order.numpy()].astype(np.float32))
        angles = (at[:, :, None] * speed).flatten(1).repeat(1, 2)[:, None]  # (L, 1, head width)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.sin[..., : width // 2] *= -1

    def __call__(self, patches: Tensor) -> Tensor:
        """(S, P, D) of S steps, patches (S * L, C) from `video_patches`."""
        tower = self.tower
        weight = tower.patch_embed.proj.weight
        x = F.linear(patches, weight.flatten(1))
        x = x.view(-1, len(self.order), x.shape[-1])[:, self.order]
        for number, block in enumerate(tower.blocks):
            parts = self.whole if number in self.full else self.windows
            x = x + self._attend(block.attn, _normed(block.norm1, x), parts)
            x = x + block.mlp(_normed(block.norm2, x))
        merger = tower.merger
        return merger.mlp(_normed(merger.ln_q, x).reshape(len(x), len(self.back), -1))[:, self.back]

    def _attend(self, attention: Any, x: Tensor, parts: list[tuple[int, int, int]]) -> Tensor:
        steps, length, dim = x.shape
        q, k, v = attention.qkv(x).view(steps, length, 3, self.heads, -1).unbind(2)
        q, k = self._turned(q), self._turned(k)
        seen = []
        for first, count, size in parts:
            mine = [
                t[:, first : first + count * size].reshape(steps * count, size, self.heads, -1).transpose(1, 2)
                for t in (q, k, v)
            ]
            out = F.scaled_dot_product_attention(mine[0], mine[1], mine[2])
            seen.append(out.transpose(1, 2).reshape(steps, count * size, dim))
        return attention.proj(seen[0] if len(seen) == 1 else torch.cat(seen, dim=1))

    def _turned(self, x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return torch.addcmul(x * self.cos, torch.cat([high, low], dim=-1), self.sin)


def _normed(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def step_patches(frames: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    """Patches (B * L, C) of steps (B, 2, H, W, 3) as the model preprocesses them, and the grid (gh, gw) of a step."""
    patches, (_, gh, gw) = video_patches(frames.reshape(-1, *frames.shape[2:]), config=TINY_CONFIG.preprocess)
    return patches, (gh, gw)


# -- learning ----------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for weight matrices; here twice as quick as AdamW.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the step's size of Liu et al. 2025
    (arXiv 2502.16982): a root mean square of 0.2 lr, as of AdamW.
    """

    def __init__(self, params: list[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["average"] = torch.zeros_like(weight)
                state["average"].lerp_(weight.grad, 1 - momentum)
                update = orthogonal(weight.grad.lerp(state["average"], momentum))
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-lr * 0.2 * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all 1: they come within 0.7 and 1.2, by five polynomials."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@dataclass(frozen=True)
class VisionTraining:
    """How the tower is trained.

    Args:
        steps, batch: of `batch` samples each.
        lr, muon_lr: of AdamW, for the patch embedding, gains and biases, and of Muon, for all matrices.
        warmup: share of the steps in which the rates rise; then they fall as a cosine.
        weight_decay: of matrices.
        naming: weight of the cross-entropies of noun, colour and state beside the normalised squared error.
        single: share of samples that show one frame twice, as partial steps do.
        seed: of weights and samples.
        eval_every, save_every: steps.
    """

    steps: int = 8000
    batch: int = 16
    lr: float = 2e-3
    muon_lr: float = 4e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    naming: float = 0.5
    single: float = 0.25
    seed: int = SEED
    eval_every: int = 500
    save_every: int = 500

    def __post_init__(self) -> None:
        least = min(self.steps, self.batch, self.eval_every, self.save_every)
        if least < 1 or min(self.lr, self.muon_lr) <= 0 or self.seed < 0:
            raise ConfigError(f"vision training: expected numbers above 0, found {asdict(self)}")
        if not 0 <= self.warmup <= 1 or not 0 <= self.single <= 1:
            raise ConfigError(f"vision training: expected shares in [0, 1], found {self.warmup=} {self.single=}")

    def rate(self, step: int) -> float:
        """Of both learning rates at this step, from 0, as a share of their peak."""
        rise = max(round(self.warmup * self.steps), 1)
        if step < rise:
            return (step + 1) / rise
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(self.steps - rise, 1)))


def targets(table: SymbolTable, labels: Tensor) -> Tensor:
    """(B, P, D) what cells with these labels of a Pool (B, P, 4) should be."""
    noun, colour, state, hand = labels.unbind(-1)
    return cell_content(table, noun, colour, state, hand > 0)


def symbol_loss(out: Tensor, labels: Tensor, table: SymbolTable, naming: float) -> tuple[Tensor, dict[str, float]]:
    """Squared error over the targets' power, and on object cells the cross-entropy of each kind of symbol.

    Args:
        out: (B, P, D). labels: (B, P, 4) as of a Pool.
        naming: weight of the mean of the cross-entropies, of products with the table's rows.
    """
    target = targets(table, labels)
    error = (out - target).square().sum() / target.square().sum()
    objects = labels[..., 0] >= 0
    named = out.new_zeros(())
    if naming and objects.any():
        told, shown = out[objects], labels[objects]
        for place, kind in enumerate(CLASSES):
            named = named + F.cross_entropy(GAIN * told @ table[kind].T, shown[:, place]) / len(CLASSES)
    return error + naming * named, {"error": float(error.detach()), "named": float(named.detach())}


@torch.no_grad()
def measure(tower: Any, pool: Pool, table: SymbolTable, *, batch: int = 64) -> dict[str, float]:
    """How well a tower makes symbols of a pool's steps (whole ones).

    Returns:
        error: squared, over the targets' power. noun, colour, state: share of object cells whose nearest symbol, by
        product, is the right one. background_precision, background_recall: a cell is taken for background where that
        symbol is nearer than every noun. hand: F1 of cells where the product with the hand is over half its own.
    """
    power = error = 0.0
    counts = np.zeros(6)
    right = dict.fromkeys(CLASSES, 0)
    cells = 0
    for first in range(0, len(pool), batch):
        rows = np.arange(first, min(first + batch, len(pool)))
        frames, labels = pool.take(rows, np.zeros_like(rows))
        patches, grid = step_patches(frames)
        out = FastTower(tower, grid)(patches)
        target = targets(table, labels)
        error += float((out - target).square().sum())
        power += float(target.square().sum())
        objects, hand = labels[..., 0] >= 0, labels[..., 3] > 0
        cells += int(objects.sum())
        for place, kind in enumerate(CLASSES):
            best = (out[objects] @ table[kind].T).argmax(-1)
            right[kind] += int((best == labels[objects][:, place]).sum())
        empty = out @ table["background"][0] > (out @ table["noun"].T).amax(-1)
        waves = out @ table["hand"][0] > 0.5 * table["hand"][0].square().sum()
        counts += [int(n.sum()) for n in (empty & ~objects, empty, ~objects, waves & hand, waves, hand)]
    hits, said, true, waved, waves_said, hands = counts[:6]
    return {
        "error": error / power,
        **{kind: right[kind] / max(cells, 1) for kind in CLASSES},
        "background_precision": float(hits / max(said, 1)),
        "background_recall": float(hits / max(true, 1)),
        "hand": float(2 * waved / max(waves_said + hands, 1)),
    }


def train(config: VisionTraining, pool: Pool, held_out: Pool | None, out: Path) -> Any:
    """Trains, or goes on; returns the tower. Writes `log.jsonl`, `checkpoint.pt` and in the end `visual.pt` to `out`.

    Raises:
        InputError: the checkpoint is damaged, a loss is not finite, or the folder can't be written.
        ConfigError: the checkpoint is of other settings, or of another pool.
    """
    table, tower = symbol_table(), build_tower(seed=config.seed)
    matrices = [weight for weight in tower.parameters() if weight.ndim == 2]
    others = [weight for weight in tower.parameters() if weight.ndim != 2]
    optimizers = (
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_room(out, error) from error
    kept, settings = out / "checkpoint.pt", {**asdict(config), "pool": pool.name}
    step, spent_s = _restore(kept, settings, tower, optimizers)
    since = time.monotonic() - spent_s
    fast: FastTower | None = None
    losses: list[dict[str, float]] = []
    while step < config.steps:
        rng = np.random.default_rng((config.seed, step))
        rows = np.sort(rng.integers(len(pool), size=config.batch))
        parts = np.where(rng.random(config.batch) < config.single, rng.integers(1, 3, config.batch), 0)
        frames, labels = pool.take(rows, parts)
        patches, grid = step_patches(frames)
        fast = fast or FastTower(tower, grid)
        loss, told = symbol_loss(fast(patches), labels, table, config.naming)
        tower.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise InputError(
                out,
                expected="a finite loss and gradient",
                found=f"{loss.item():.4g} and {norm.item():.4g} at step {step}",
                fix="lower lr or muon_lr",
            )
        for optimizer, peak in zip(optimizers, (config.muon_lr, config.lr), strict=True):
            optimizer.param_groups[0]["lr"] = peak * config.rate(step)
            optimizer.step()
        step += 1
        losses.append(told)
        spent_s = time.monotonic() - since
        if step % LOG_EVERY == 0 or step == config.steps:
            means = {name: float(np.mean([one[name] for one in losses])) for name in told}
            _log(out, {"step": step, "seconds": spent_s, "rate": config.rate(step - 1), **means})
            losses = []
        if held_out is not None and (step % config.eval_every == 0 or step == config.steps):
            _log(out, {"step": step, "seconds": spent_s, "held_out": measure(tower, held_out, table)})
        if step % config.save_every == 0 or step == config.steps:
            state = {"weights": tower.state_dict(), "optimizers": [one.state_dict() for one in optimizers]}
            save_state(kept, {"format": FORMAT, "settings": settings, "seconds": spent_s, "step": step, **state})
    save_state(out / "visual.pt", tower.state_dict())
    return tower.eval()


def _log(out: Path, entry: dict[str, Any]) -> None:
    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(part) for name, part in value.items()}
        return float(f"{value:.5g}") if isinstance(value, float) else value

    append_line(out / "log.jsonl", rounded(entry))


def _restore(
    path: Path, settings: dict[str, Any], tower: Any, optimizers: Iterable[torch.optim.Optimizer]
) -> tuple[int, float]:
    """(steps done, seconds spent) of a checkpoint, after loading it; zeros without one."""
    expected = "a checkpoint of this training"
    kept = load_state(path, expected)
    if kept is None:
        return 0, 0.0
    try:
        if (kept["format"], kept["settings"]) == (FORMAT, settings):
            tower.load_state_dict(kept["weights"])
            for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(state)
                if len(optimizer.state) != len(optimizer.param_groups[0]["params"]):
                    raise KeyError("moments")
            return int(kept["step"]), float(kept["seconds"])
    except DAMAGE as error:
        raise _damaged(path, expected, error) from error
    raise ConfigError(f"{path}: made with other settings, {kept['settings']}; choose another --out, or delete it")


def _damaged(path: Path, expected: str, error: Exception) -> InputError:
    found = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {str(error)[:80]}"
    return InputError(path, expected=expected, found=found, fix="delete it to begin anew")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny.vision_training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for pools, log, checkpoint and visual.pt")
    parser.add_argument("--pools", type=Path, help="folder of the pools, if another")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--per-world", type=int, default=16, help="steps rendered of each, 0.11 MB a step")
    parser.add_argument("--held-out-worlds", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    defaults = VisionTraining()
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    pools = options.pools or options.out
    config = VisionTraining(**{name: getattr(options, name) for name in asdict(VisionTraining())})
    pool = make_pool(pools, PRETRAINING_SEEDS, options.worlds, per_world=options.per_world)
    held_out = make_pool(pools, VALIDATION_SEEDS, options.held_out_worlds)
    train(config, pool, held_out, options.out)


if __name__ == "__main__":
    sys.exit(main())
