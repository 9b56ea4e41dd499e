"""Pre-trains the embedded model's small V-JEPA encoder on videos of the tiny world, and probes what it has learnt.

    seeds ─► worlds ─► clips (uint8, a file) ─► student sees some tubelets ─► predictor ─► the teacher's latents, pixels
                                           └──► teacher (moving average of the student) sees all ──┘

The objective is V-JEPA's (V-JEPA 2: arXiv 2506.09985): latents of hidden space-time tokens, predicted from the visible
ones, L1 to a moving average's features after a LayerNorm, no gradient there. The loss on visible tokens is V-JEPA 2.1's
(arXiv 2603.14482). Different here, because the encoder is small and has minutes: the hidden tokens are the highest of a
smoothed noise field and not rectangles; pixels are predicted beside the latents (`pixel_weight`, 0 for latents alone);
one level of features and no images, so `patch_embed_img`, `img_mod_embed` and all norms but the last stay untrained;
fewer tokens are hidden (0.6), and Muon trains the matrices.

Measured once (600 steps of 8 on 2000 clips, 100 s of one core; whole-step probe in percent, random weights / latents /
latents and pixels): noun 12/15/15, colour 56/62/67, state 45/46/46, motion 26/32/34, flash 53/70/73, touch 65/72/72.

No label is learnt from. Which moments are cut out does use the script: brief events are rare (`event_share`).

    OMP_NUM_THREADS=1 python -m benchmarks.tiny.vjepa_training --out runs/vjepa

Shapes: B clips, W frames, N tokens (t gh gw), V of them visible, D features, P numbers of a patch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.commands import run_command
from benchmarks.tiny.files import append_line, staged, start_array, world_digest, write_bytes
from gazeqwen.config import FeatureConfig, VJEPAConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny import scene_painting
from gazeqwen.tiny.model import SEED, TINY_CONFIG
from gazeqwen.tiny.world import PRETRAINING_SEEDS, VALIDATION_SEEDS, World, world_seed
from gazeqwen.tiny.world_events import DIRECTIONS, FLASHES, STATES, STEP_S
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS
from gazeqwen.train.state import METRICS
from gazeqwen.types import plain_json
from gazeqwen.vjepa import IMAGENET_MEAN, IMAGENET_STD, RollingWindow, VJEPA21Features
from gazeqwen.vjepa_encoder import VJEPA21, Block
from gazeqwen.vjepa_weights import load_official

MOMENTS = (("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq"))  # of Muon, of AdamW
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "vjepa.safetensors"
FEATURES = TINY_CONFIG.features


@dataclass(frozen=True)
class VJEPATraining:
    """How the encoder is trained. What is not a bound or a rhythm makes the weights: the same settings, the same file.

    Attributes:
        seed: of weights, batches, masks and the choice of clips.
        first_seed, worlds, clips_per_world, duration_s: what the clips are cut from; None draws each world's length.
        event_share: share of clips that are cut around a brief event or a contact of the hand.
        steps, batch, warmup_steps: with a cosine to 0 after the warm-up.
        matrix_rate, matrix_decay: Muon's learning rate and weight decay, for the matrices of the blocks.
        learning_rate, weight_decay: AdamW's, for everything else.
        mask_share: of tokens that the student does not see.
        tube_share: of clips whose mask is the same in all tubelets; others hide other places at other times.
        momentum: of the teacher, reached slowly.
        predictor_dim, predictor_depth: of its blocks; heads are as wide as the encoder's.
        latent_weight, pixel_weight: of the two losses.
        context_weight: of a visible token's losses beside a hidden one's.
        max_minutes: a run that takes longer stops at a checkpoint and goes on when it is called again.
        checkpoint_every, log_every: in steps.
    """

    seed: int = SEED
    first_seed: int = PRETRAINING_SEEDS
    worlds: int = 300
    clips_per_world: int = 8
    duration_s: float | None = None
    event_share: float = 0.5
    steps: int = 3000
    batch: int = 8
    warmup_steps: int = 30
    matrix_rate: float = 0.02
    matrix_decay: float = 0.05
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    mask_share: float = 0.6
    tube_share: float = 0.25
    momentum: float = 0.99
    predictor_dim: int = 64
    predictor_depth: int = 2
    latent_weight: float = 0.3
    pixel_weight: float = 1.0
    context_weight: float = 0.5
    max_minutes: float = math.inf
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        counts = ("worlds", "clips_per_world", "steps", "batch", "predictor_depth", "checkpoint_every", "log_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"V-JEPA training: expected {name} of 1 or more, found {getattr(self, name)!r}")
        for name in ("event_share", "mask_share", "tube_share", "momentum", "context_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"V-JEPA training: expected {name} in [0, 1], found {getattr(self, name)!r}")
        if min(self.latent_weight, self.pixel_weight) < 0 or self.latent_weight + self.pixel_weight == 0:
            raise ConfigError(
                "V-JEPA training: expected latent_weight and pixel_weight of 0 or more, one of them above 0"
            )
        if self.seed < 0 or min(self.learning_rate, self.matrix_rate, self.max_minutes) <= 0:
            raise ConfigError("V-JEPA training: expected a seed of 0 or more, rates and max_minutes above 0")

    @property
    def makes(self) -> dict[str, Any]:
        """What decides the weights, as JSON types."""
        rhythm = ("max_minutes", "checkpoint_every", "log_every")
        return plain_json({name: value for name, value in asdict(self).items() if name not in rhythm})


# -- clips -------------------------------------------------------------------------------------------------------------


def draw_ends(
    world: World, count: int, rng: np.random.Generator, config: FeatureConfig, *, events: float
) -> np.ndarray:
    """(count,) rows k of the grid k/fps where clips end.

    A share `events` of them alternates between brief events, some of which the clip shows, and contacts of the hand, in
    which it ends.
    """
    fps, frames = config.fps, config.window_frames
    first, last = frames - 1, math.floor(world.frame_times_s[-1] * fps + 1e-6)
    brief = sorted({(span.start_s, span.stop_s + (frames - 2) / fps) for span in world.script.spans})
    contact = [(deed.start_s, deed.stop_s) for deed in world.script.deeds]
    ends = np.zeros(count, dtype=int)
    for at in range(count):
        moments = (brief, contact)[at % 2] if rng.random() < events else []
        low, high = first, last
        if moments:
            start_s, stop_s = moments[rng.integers(len(moments))]
            low, high = max(first, math.ceil(start_s * fps)), min(last, math.floor(stop_s * fps))
        ends[at] = rng.integers(low, high + 1) if high >= low else rng.integers(first, last + 1)
    return ends


def draw_clips(world: World, ends: Sequence[int] | np.ndarray, config: FeatureConfig = FEATURES) -> np.ndarray:
    """(clips, W, size, size, 3) uint8: what a stream's window holds when frame k/fps is its newest, for each k."""
    clips = np.empty((len(ends), config.window_frames, config.size_px, config.size_px, 3), dtype=np.uint8)
    for row, end in enumerate(ends):
        times_s = np.arange(end - config.window_frames + 1, end + 1) / config.fps
        frames = np.stack([world.frame(time_s) for time_s in times_s.tolist()])
        clips[row] = RollingWindow(config).push(frames, times_s).numpy()
    return clips


def clip_pool(settings: VJEPATraining, work: Path, config: FeatureConfig = FEATURES) -> np.ndarray:
    """(worlds * clips_per_world, W, size, size, 3) uint8, made once and read from a file of `work` as it is needed.

    Raises:
        InputError: the folder can't be written.
    """
    names = ("seed", "first_seed", "worlds", "clips_per_world", "duration_s", "event_share")
    made_by = {name: getattr(settings, name) for name in names} | {
        "features": config.to_dict(),
        "code": world_digest(scene_painting, questions=False),
    }
    text = json.dumps(plain_json(made_by), sort_keys=True)
    path = work / f"clips-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    count, side = settings.clips_per_world, config.size_px
    shape = (settings.worlds * count, config.window_frames, side, side, 3)
    try:
        found = np.load(path, mmap_mode="r")
        if found.shape == shape and found.dtype == np.uint8:
            return found
    except (OSError, ValueError, EOFError):
        pass  # none, or one that was cut short: made again
    with staged(path) as staging, staging.open("wb") as file:
        start_array(file, np.uint8, shape)
        for index in range(settings.worlds):
            world = World.make(world_seed(settings.first_seed, index), duration_s=settings.duration_s)
            rng = np.random.default_rng((settings.seed, world.seed))
            ends = draw_ends(world, count, rng, config, events=settings.event_share)
            file.write(draw_clips(world, ends, config).tobytes())
    return np.load(path, mmap_mode="r")


# -- the objective -----------------------------------------------------------------------------------------------------


def patches_of(clips: Tensor, config: VJEPAConfig) -> Tensor:
    """(B, W, H, H, 3) uint8 -> (B, N, P) ImageNet-normalised patches, in the order of `patch_embed`'s kernel."""
    b, frames, height, width, _ = clips.shape
    side, tubelet = config.patch_size, config.tubelet_size
    video = clips.float().sub_(255 * torch.tensor(IMAGENET_MEAN)).div_(255 * torch.tensor(IMAGENET_STD))
    cut = video.view(b, frames // tubelet, tubelet, height // side, side, width // side, side, 3)
    return cut.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, -1, 3 * tubelet * side * side)


def encode_patches(encoder: VJEPA21, patches: Tensor, grid: tuple[int, int, int], seen: Tensor | None = None) -> Tensor:
    """(B, N, P) -> (B, V, D) as `VJEPA21.forward`, from the tokens `seen` (B, V) alone; all of them for None."""
    cos, sin = encoder._rope(grid, patches)
    if seen is not None:
        patches = patches.gather(1, seen[..., None].expand(-1, -1, patches.shape[2]))
        cos, sin = cos[seen][:, None], sin[seen][:, None]
    embed = encoder.patch_embed.proj
    h = F.linear(patches, embed.weight.flatten(1), embed.bias) + encoder.video_mod_embed
    for block in encoder.blocks:
        h = block(h, cos, sin)
    return encoder.norms_block[-1](h)


class Predictor(nn.Module):
    """From the visible tokens' features to every token's latents and pixels."""

    def __init__(self, config: VJEPAConfig, *, dim: int, depth: int) -> None:
        super().__init__()
        head = config.dim // config.heads
        if dim % head:
            raise ConfigError(f"V-JEPA training: expected predictor_dim, a multiple of {head}, found {dim}")
        shape = VJEPAConfig(dim, depth, dim // head, 4 * dim, (depth - 1,) * 4, config.patch_size, config.tubelet_size)
        self.embed = nn.Linear(config.dim, dim)
        self.hidden = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.latents = nn.Linear(dim, config.dim)
        self.pixels = nn.Linear(dim, 3 * config.tubelet_size * config.patch_size**2)

    def forward(self, features: Tensor, seen: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, V, D) at the places `seen` (B, V) of N -> (B, N, predictor dim), for `latents` and `pixels`."""
        b, n = len(features), len(cos)
        h = self.hidden.expand(b, n, -1)
        h = h.scatter(1, seen[..., None].expand(-1, -1, h.shape[2]), self.embed(features))
        for block in self.blocks:
            h = block(h, cos, sin)
        return self.norm(h)


def draw_masks(
    count: int, grid: tuple[int, int, int], generator: torch.Generator, *, mask_share: float, tube_share: float
) -> tuple[Tensor, Tensor]:
    """Which tokens are visible: (seen (B, V) ascending, hidden (B, N) bool), the same number in every clip.

    The highest values of a noise field are hidden: smoothed over 3 x 3 patches, and constant in time for tubes, it
    hides connected blocks.
    """
    t, gh, gw = grid
    noise = torch.rand(count, t, gh, gw, generator=generator)
    tubes = torch.rand(count, generator=generator) < tube_share
    noise = torch.where(tubes[:, None, None, None], noise[:, :1], noise)
    noise = F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    n = t * gh * gw
    visible = min(n - 1, max(1, round(n * (1 - mask_share))))
    seen = noise.flatten(1).argsort(dim=1, stable=True)[:, :visible].sort(dim=1).values
    hidden = torch.ones(count, n, dtype=torch.bool).scatter(1, seen, False)
    return seen, hidden


class Losses(NamedTuple):
    """`total` is what is minimised. `spread`: the teacher's mean standard deviation over tokens, 0 after a collapse."""

    total: Tensor
    latent: float
    pixel: float
    spread: float


class MaskedPrediction(nn.Module):
    """Student, predictor and teacher of one encoder shape."""

    def __init__(self, settings: VJEPATraining, config: FeatureConfig = FEATURES) -> None:
        super().__init__()
        shape = config.vjepa
        self.settings, self.config = settings, config
        side = config.size_px // shape.patch_size
        self.grid = (config.window_frames // shape.tubelet_size, side, side)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.student = VJEPA21(shape)
            self.predictor = Predictor(shape, dim=settings.predictor_dim, depth=settings.predictor_depth)
        self.teacher = VJEPA21(shape).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimisers see, by name: all that a loss reaches."""
        last = len(self.student.norms_block) - 1
        idle = ["teacher.", "student.patch_embed_img.", "student.img_mod_embed"]
        idle += [f"student.norms_block.{level}." for level in range(last)]
        idle += [] if self.settings.latent_weight else ["predictor.latents."]
        idle += [] if self.settings.pixel_weight else ["predictor.pixels."]
        return {name: p for name, p in self.named_parameters() if not name.startswith(tuple(idle))}

    def forward(self, clips: Tensor, seen: Tensor, hidden: Tensor) -> Losses:
        """Losses of clips (B, W, size, size, 3) uint8 under a mask of `draw_masks`."""
        settings, student = self.settings, self.student
        patches = patches_of(clips, self.config.vjepa)
        cos, sin = student._rope(self.grid, patches)
        found = self.predictor(encode_patches(student, patches, self.grid, seen), seen, cos, sin)
        latent = pixel = spread = found.new_zeros(())
        if settings.latent_weight:
            with torch.no_grad():
                target = encode_patches(self.teacher, patches, self.grid)
                spread = target.flatten(0, 1).std(dim=0).mean()
                target = F.layer_norm(target, target.shape[-1:])
            latent = self._error(F.l1_loss, self.predictor.latents, found, target, hidden)
        if settings.pixel_weight:
            pixel = self._error(F.mse_loss, self.predictor.pixels, found, patches, hidden)
        total = settings.latent_weight * latent + settings.pixel_weight * pixel
        return Losses(total, latent.item(), pixel.item(), spread.item())

    def _error(
        self, loss: Callable[[Tensor, Tensor], Tensor], head: nn.Module, found: Tensor, target: Tensor, hidden: Tensor
    ) -> Tensor:
        """The mean over tokens, a visible one with `context_weight`."""
        context = self.settings.context_weight
        parts = [(hidden, 1.0), (~hidden, context)] if context else [(hidden, 1.0)]
        shares = [weight * int(part.sum()) for part, weight in parts]
        errors = [loss(head(found[part]), target[part]) for part, _ in parts]
        return torch.stack([share / sum(shares) * error for share, error in zip(shares, errors, strict=True)]).sum()

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Moves the teacher towards the student after optimiser step `step`, fast at first."""
        momentum = min(self.settings.momentum, (1 + step) / (10 + step))
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


# -- the run -----------------------------------------------------------------------------------------------------------


def train_vjepa(
    settings: VJEPATraining, out: Path, *, work: Path | None = None, config: FeatureConfig = FEATURES
) -> Path:
    """Trains, or goes on from OUT/checkpoint.safetensors to the same weights as an uninterrupted run. On the CPU, with
    the caller's number of threads.

    Args:
        out: gets the checkpoint, metrics.jsonl (a line every `log_every` steps) and vjepa.safetensors.
        work: where the clips are kept; default `out`.

    Returns:
        vjepa.safetensors: the teacher's weights, for `gazeqwen.vjepa_weights.load_official`.

    Raises:
        InputError: the checkpoint is damaged or another run's, a loss is not finite, or `out` can't be written.
    """
    out = Path(out)
    started = time.monotonic()
    model = MaskedPrediction(settings, config)
    parameters = model.trained()
    optimizers = _optimizers(settings, parameters)
    step = _resume(out / CHECKPOINT, model, parameters, optimizers)
    pool = clip_pool(settings, out if work is None else Path(work), config)
    while step < settings.steps and time.monotonic() - started < 60 * settings.max_minutes:
        share = _rate(settings, step)
        for optimizer, peak in zip(optimizers, (settings.matrix_rate, settings.learning_rate), strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.zero_grad(set_to_none=True)
        losses = model(*_batch(settings, pool, model.grid, step))
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        if not math.isfinite(losses.total.item()) or not math.isfinite(norm.item()):
            raise InputError(
                out,
                expected="a finite loss and gradient",
                found=f"{losses.total.item():.4g} and {norm.item():.4g} at step {step}",
                fix="lower learning_rate or matrix_rate",
            )
        for optimizer in optimizers:
            optimizer.step()
        model.follow(step)
        step += 1
        if step % settings.log_every == 0 or step == settings.steps:
            row = {"step": step, "loss": losses.total.item(), "latent": losses.latent, "pixel": losses.pixel}
            row |= {"spread": losses.spread, "lr": settings.learning_rate * share}
            append_line(out / METRICS, row | {"seconds": round(time.monotonic() - started, 2)})
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            _save_checkpoint(out / CHECKPOINT, model, parameters, optimizers, step)
    _save_checkpoint(out / CHECKPOINT, model, parameters, optimizers, step)
    header = {"format": "pt", "vjepa": json.dumps(config.vjepa.to_dict()), "step": str(step)}
    header["settings"] = json.dumps(settings.makes)
    _save(out / WEIGHTS, model.teacher.state_dict(), header)
    return out / WEIGHTS


def _batch(
    settings: VJEPATraining, pool: np.ndarray, grid: tuple[int, int, int], step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips and masks of a step: of the seed and the step alone."""
    rng = np.random.default_rng((settings.seed, 1, step))
    rows = np.sort(rng.choice(len(pool), min(settings.batch, len(pool)), replace=False))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    masks = draw_masks(len(rows), grid, generator, mask_share=settings.mask_share, tube_share=settings.tube_share)
    return torch.from_numpy(pool[rows]), *masks


def _rate(settings: VJEPATraining, step: int) -> float:
    """Share of the peak learning rate."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


def _optimizers(settings: VJEPATraining, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest.

    After 250 steps of 8 clips the squared error of hidden pixels was 0.413; with AdamW for everything 0.455 and 0.446
    (learning rates 0.002, 0.005).
    """
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"V-JEPA training: expected torch 2.9 or newer, which has Muon, found {torch.__version__}")
    matrices = [p for name, p in parameters.items() if p.ndim == 2 and ".blocks." in name]
    rest = [p for name, p in parameters.items() if p.ndim != 2 or ".blocks." not in name]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=settings.matrix_decay),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=settings.weight_decay),
    ]


def _save_checkpoint(
    path: Path,
    model: MaskedPrediction,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for optimizer in optimizers:
        for name, parameter in parameters.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
    _save(path, tensors, {"step": str(step), "settings": json.dumps(model.settings.makes)})


def _resume(
    path: Path,
    model: MaskedPrediction,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
) -> int:
    """Puts back what the checkpoint holds and returns its step; 0 without one."""
    if not path.exists():
        return 0
    fix = "delete it to begin anew"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
            header = file.metadata() or {}
        step, made_by = int(header["step"]), json.loads(header["settings"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise InputError(path, expected="a checkpoint of V-JEPA training", found=found, fix=fix) from error
    ours = model.settings.makes
    differ = sorted(name for name in ours if not isinstance(made_by, dict) or made_by.get(name) != ours[name])
    if differ:
        raise InputError(
            path, expected="these settings", found=f"others: {', '.join(differ)}", fix="choose another out"
        )
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(path, expected="the tensors of this model", found=str(error), fix=fix) from error
    if step == 0:
        return 0
    names = {id(parameter): name for name, parameter in parameters.items()}
    for optimizer, keys in zip(optimizers, MOMENTS, strict=True):
        for parameter in optimizer.param_groups[0]["params"]:
            name = names[id(parameter)]
            for key in keys:
                moment, shape = tensors.get(f"{key}.{name}"), () if key == "step" else parameter.shape
                if moment is None or moment.shape != shape:
                    found = "none" if moment is None else f"one of shape {tuple(moment.shape)}"
                    raise InputError(path, expected=f"the optimizer's {key} of {name}", found=found, fix=fix)
                optimizer.state[parameter][key] = moment
    return step


def _save(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header))


# -- the probe ---------------------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[str, ...]] = {
    "noun": tuple(NOUNS),
    "colour": tuple(COLOURS),
    "state": STATES,
    "motion": ("none", *DIRECTIONS),
    "flash": ("none", *FLASHES),
    "touch": ("no", "yes"),
}
PLATEAU = (0.08, 0.92)  # of a brief event: a frame within shows it
RIDGES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class ProbeSettings:
    """Held-out worlds for the probe. The last `test_share` of the worlds is for testing.

    Attributes:
        clips_per_world: a third each without a wish, around a brief event, and ending in a contact of the hand.
    """

    first_seed: int = VALIDATION_SEEDS
    worlds: int = 160
    clips_per_world: int = 12
    duration_s: float | None = None
    test_share: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if self.worlds < 2 or self.clips_per_world < 1 or not 0 < self.test_share < 1:
            raise ConfigError(
                "V-JEPA probe: expected 2 or more worlds, 1 or more clips and test_share in (0, 1), "
                f"found {self.worlds}, {self.clips_per_world} and {self.test_share}"
            )


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Objects in the newest frame of clips; R of them.

    Attributes:
        clips: (C, W, size, size, 3) uint8.
        clip: (R,) where the object is seen. `test`: (R,) whether its world is for testing.
        xy_norm: (R, t, 2) its centre in each tubelet: in the later frame, without a jolt; the last is the newest frame.
        labels: by task, (R,) an index into VALUES[task]; -1 where the object is no example of the task.
    """

    clips: np.ndarray
    clip: np.ndarray
    test: np.ndarray
    xy_norm: np.ndarray
    labels: dict[str, np.ndarray]


def make_probe_set(settings: ProbeSettings, config: FeatureConfig = FEATURES) -> ProbeSet:
    """Draws the clips and reads the truth from the scripts.

    Motion and flash: what the object does in a frame of the clip; what falls between frames is no example. `none` is
    thinned to the mean of the other classes. Touch: the object that the hand acts on in the newest frame, against
    others of such clips, as many.
    """
    rng = np.random.default_rng(settings.seed)
    first_test = settings.worlds - max(1, round(settings.test_share * settings.worlds))
    clips: list[np.ndarray] = []
    rows: list[tuple[float, ...]] = []
    for index in range(settings.worlds):
        world = World.make(world_seed(settings.first_seed, index), duration_s=settings.duration_s)
        ends = draw_ends(world, settings.clips_per_world, rng, config, events=2 / 3)
        for place, end in enumerate(ends.tolist()):
            clip = index * settings.clips_per_world + place
            rows += [(clip, index >= first_test, *row) for row in _truth(world, end, config)]
        clips.append(draw_clips(world, ends, config))
    table = np.array(rows, dtype=np.float64)
    labels = {task: table[:, 2 + at].astype(int) for at, task in enumerate(VALUES)}
    test = table[:, 1] > 0
    for task in ("motion", "flash"):
        for part in (test, ~test):
            events = int((part & (labels[task] > 0)).sum())
            _thin(labels[task], part & (labels[task] == 0), round(events / (len(VALUES[task]) - 1)), rng)
    for part in (test, ~test):
        _thin(labels["touch"], part & (labels["touch"] == 0), int((part & (labels["touch"] == 1)).sum()), rng)
    return ProbeSet(
        np.concatenate(clips),
        table[:, 0].astype(int),
        test,
        table[:, 2 + len(VALUES) :].reshape(len(rows), -1, 2),
        labels,
    )


def _truth(world: World, end: int, config: FeatureConfig) -> list[tuple[float, ...]]:
    """(one label a task, x and y for each tubelet) of each object that is seen in frame `end`."""
    script, newest_s = world.script, end / config.fps
    times_s = np.arange(end - config.window_frames + 1, end + 1) / config.fps
    rows = np.minimum(np.round(times_s / STEP_S).astype(int), len(script.t_s) - 1)[
        config.vjepa.tubelet_size - 1 :: config.vjepa.tubelet_size
    ]
    row = rows[-1]
    xy = (script.home[rows] - script.camera[rows, None] + script.half) / (2 * script.half)  # (t, N, 2)
    acted = [deed.thing for deed in script.deeds if deed.start_s <= newest_s <= deed.stop_s]
    found = []
    for thing, name in enumerate(world.names):
        if not world.visible[row, thing] or not ((xy[-1, thing] >= 0) & (xy[-1, thing] < 1)).all():
            continue
        brief = {"motion": 0, "flash": 0}
        for span in script.spans:
            if span.thing == thing and span.start_s <= times_s[-1] and span.stop_s >= times_s[0]:
                phase = (times_s - span.start_s) / (span.stop_s - span.start_s)
                shown = ((phase >= PLATEAU[0]) & (phase <= PLATEAU[1])).any()
                brief[span.kind] = span.value + 1 if shown else -1
        touch = int(thing in acted) if acted else -1
        noun, colour = NOUNS.index(name), list(COLOURS).index(world.colours[thing])
        state = int(script.state[row, thing])
        labels = (noun, colour, state, brief["motion"], brief["flash"], touch)
        found.append((*labels, *xy[:, thing].ravel().tolist()))
    return found


def _thin(labels: np.ndarray, among: np.ndarray, keep: int, rng: np.random.Generator) -> None:
    """Takes all but `keep` of the rows `among` out of a task."""
    rows = rng.permutation(np.flatnonzero(among))
    labels[rows[keep:]] = -1


class Score(NamedTuple):
    """Of one task on the test rows: shares right, of all and as the mean over classes."""

    accuracy: float
    balanced: float


def probe(
    encoder: VJEPA21, data: ProbeSet, config: FeatureConfig = FEATURES, *, whole_step: bool = False
) -> dict[str, Score]:
    """Linear probes on frozen features: multinomial logistic regression, classes weighted equally.

    Args:
        whole_step: False reads the newest tubelet of `VJEPA21Features.encode` at the object's centre, between the four
            nearest patches; True all tubelets of a step, each at the centre then, as their mean and their maximum: a
            brief event may be in any of them.

    Returns:
        By task; tasks whose training or test rows hold fewer than two classes are left out.
    """
    features = _features_at(encoder, data, config, whole_step)
    found = {}
    for task, labels in data.labels.items():
        train, test = (np.flatnonzero((labels >= 0) & (data.test == part)) for part in (False, True))
        if min(len(np.unique(labels[rows])) for rows in (train, test)) < 2:
            continue
        x, y = features[train], torch.from_numpy(labels[train])
        mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
        x, x_test = (x - mean) / std, (features[test] - mean) / std
        inner = 3 * len(train) // 4  # rows are in the order of worlds
        scores = []
        for ridge in RIDGES:
            weight = _fit(x[:inner], y[:inner], ridge, len(VALUES[task]))
            scores.append(_score(weight, x[inner:], y[inner:]).balanced)
        best = RIDGES[int(np.argmax(scores))]
        found[task] = _score(_fit(x, y, best, len(VALUES[task])), x_test, torch.from_numpy(labels[test]))
    return found


def _features_at(encoder: VJEPA21, data: ProbeSet, config: FeatureConfig, whole_step: bool) -> Tensor:
    """(R, D), or (R, 2 D) for a whole step."""
    tubelets = config.tubelets_per_step if whole_step else 1
    extractor = VJEPA21Features(encoder, config)
    parts = []
    for start in range(0, len(data.clips), 64):
        rows = np.flatnonzero((data.clip >= start) & (data.clip < start + 64))
        maps = extractor.encode(torch.from_numpy(data.clips[start : start + 64]))[:, -tubelets:].float()
        maps = maps.permute(0, 1, 4, 2, 3)[torch.from_numpy(data.clip[rows] - start)].flatten(0, 1)
        at = torch.from_numpy(2 * data.xy_norm[rows, -tubelets:] - 1).float().view(-1, 1, 1, 2)
        read = F.grid_sample(maps, at, padding_mode="border", align_corners=False)
        read = read.view(len(rows), tubelets, extractor.dim)
        parts.append(torch.cat([read.mean(dim=1), read.amax(dim=1)], dim=1) if whole_step else read[:, 0])
    return torch.cat(parts)


def _fit(x: Tensor, y: Tensor, ridge: float, classes: int) -> Tensor:
    """(features + 1, classes) by L-BFGS."""
    counts = torch.bincount(y, minlength=classes).clamp(min=1)
    weight = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight[:-1] + weight[-1], y, weight=1 / counts) + ridge * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach()


def _score(weight: Tensor, x: Tensor, y: Tensor) -> Score:
    right = ((x @ weight[:-1] + weight[-1]).argmax(dim=1) == y).float()
    return Score(right.mean().item(), float(np.mean([right[y == value].mean().item() for value in y.unique()])))


def probe_table(
    weights: Path | None, settings: ProbeSettings | None = None, *, config: FeatureConfig = FEATURES
) -> dict[str, dict[str, Any]]:
    """Probes of trained weights beside those of random ones and the commonest class, in percent.

    Args:
        weights: of `train_vjepa`; None for random ones alone.

    Returns:
        By task: n_train, n_test, classes, majority (accuracy of the training rows' commonest class) and, each with
        accuracy and balanced (chance: 100 / classes), `random`, `trained` from the newest tubelet and `random_step`,
        `trained_step` from a whole step.

    Raises:
        InputError: as `load_official`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoders = {"random": VJEPA21(config.vjepa)}
    if weights is not None:
        encoders["trained"] = load_official(weights, config.vjepa)
    data = make_probe_set(settings or ProbeSettings(), config)
    table: dict[str, dict[str, Any]] = {}
    for name, encoder in encoders.items():
        for suffix, whole_step in (("", False), ("_step", True)):
            for task, score in probe(encoder, data, config, whole_step=whole_step).items():
                row = table.setdefault(task, _counts(data, task))
                row[name + suffix] = {key: round(100 * value, 1) for key, value in score._asdict().items()}
    return table


def _counts(data: ProbeSet, task: str) -> dict[str, Any]:
    labels = data.labels[task]
    train, test = (labels[(labels >= 0) & (data.test == part)] for part in (False, True))
    majority = round(100 * float((test == np.bincount(train).argmax()).mean()), 1)
    return {"n_train": len(train), "n_test": len(test), "classes": len(VALUES[task]), "majority": majority}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains with the default settings but for those named, then prints and writes OUT/probe.json."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny model's V-JEPA encoder on tiny worlds.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same one again goes on")
    parser.add_argument("--work", type=Path, help="folder that keeps the clips (default: --out)")
    parser.add_argument("--threads", type=int, default=1)
    for item in fields(VJEPATraining):
        kind = float if item.name == "duration_s" else type(item.default)
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=kind, default=item.default)
    arguments = vars(parser.parse_args(argv))
    torch.set_num_threads(arguments["threads"])
    return run_command(lambda: _run(arguments))


def _run(arguments: dict[str, Any]) -> str:
    out: Path = arguments["out"]
    settings = VJEPATraining(**{item.name: arguments[item.name] for item in fields(VJEPATraining)})
    table = probe_table(train_vjepa(settings, out, work=arguments["work"]))
    text = json.dumps({"settings": settings.makes, "probe": table}, indent=1)
    write_bytes(out / "probe.json", f"{text}\n".encode())
    return text


if __name__ == "__main__":
    sys.exit(main())
