"""The model that a run trains, from its settings: loaded, adapted, frozen but for what is trained; and written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gazeqwen.arms import get_arm
from gazeqwen.backbone import Backbone
from gazeqwen.checkpoint import save
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.model import GazeQwen
from gazeqwen.resampler import build_resampler
from gazeqwen.train.config import TrainConfig, apply_overrides
from gazeqwen.weight_files import ARMS, LORA, TOLD, WEIGHTS, first_line, read_weights

CARD, SETTINGS, RESULTS = TOLD


@dataclass(frozen=True)
class Prepared:
    """A model ready to be trained.

    Attributes:
        model: with `requires_grad` on what is trained and nothing else.
        began: its config.json before, and `began_resampler` its resampler: what an arm's run leaves untouched.
        earlier: videos that what it starts from was trained on.
    """

    model: GazeQwen
    began: GazeQwenConfig
    began_resampler: dict[str, Tensor]
    earlier: tuple[str, ...] = ()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.model.trainable_parameters().items() if p.requires_grad}


def build(config: TrainConfig, *, device: str | torch.device | None = None) -> Prepared:
    """Loads what the settings name and prepares it.

    Raises:
        InputError: weights are absent or damaged.
        ConfigError: as `prepare`.
    """
    source, settings = config.init_from or config.model.path, config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # a plain Qwen2.5-VL gets a new resampler while it is loaded
        model = GazeQwen.from_pretrained(
            source,
            quantization=settings.quantization,
            device=device or settings.device,
            dtype=settings.dtype,
            vjepa=settings.vjepa or None,
            base=settings.base or None,
        )
    earlier = training_videos(Path(source)) if source != "tiny" else ()
    return prepare(model, config, earlier=earlier, stage_one=_stage_one(config))


def _stage_one(config: TrainConfig) -> dict[str, Tensor] | None:
    """The resampler that stage two of an arm other than inject begins with: that of its own stage one."""
    arm = get_arm(config.arm)
    if not (config.init_from and arm.inject and arm.name != "inject"):
        return None
    path = Path(config.init_from) / ARMS / arm.name / WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"arm {arm.name!r} has no stage one in {config.init_from} ({path} is not there): train it with "
            f"train=resampler arm={arm.name} first, or set model.fresh_resampler=true"
        )
    return {name.removeprefix("resampler."): tensor for name, tensor in read_weights(path).items()}


def prepare(
    model: GazeQwen,
    config: TrainConfig,
    *,
    earlier: tuple[str, ...] = (),
    stage_one: dict[str, Tensor] | None = None,
) -> Prepared:
    """Makes a loaded model trainable as the settings say, in place.

    The resampler starts anew from the seed for stage one and joint training (`model.fresh_resampler`), LoRA from PEFT's
    own start (B = 0): the first forward of a joint run equals the backbone's. What is trained is float32, or float64
    where the backbone is.

    Args:
        earlier: videos that the model was trained on.
        stage_one: the resampler to go on with, in place of the model's.

    Raises:
        ConfigError: a published checkpoint (compat="official"), whose features are those of whole clips; a model that
            holds an arm's weights; an adapter of its own that the settings contradict, or that another arm would
            inherit; overrides of a resampler that is to be trained on; nf4 weights that a CPU kernel has repacked
            already.
    """
    arm = get_arm(config.arm)
    if model.official:
        raise ConfigError("compat='official' weights are for inference: training starts from a Qwen2.5-VL")
    if model.arm_weights:
        raise ConfigError(f"the model holds the weights of arm {model.arm_weights!r}: load it anew")
    model.require_features(arm)
    began = model.config
    began_resampler = {name: tensor.detach().clone() for name, tensor in model.resampler.state_dict().items()}
    adapted = hasattr(model.vlm, "peft_config")
    if adapted and arm.name != "inject":
        raise ConfigError(f"arm {arm.name!r} is trained on a backbone without an adapter, and this model has one")
    fresh = config.model.fresh_resampler if config.model.fresh_resampler is not None else config.train != "lora"
    wanted = apply_overrides(model.config, config.model.overrides)
    if arm.name == "skip-only":
        wanted = replace(wanted, resampler=replace(wanted.resampler, kind="skip"))
    changed = wanted.resampler != began.resampler or wanted.gaze_encoding != began.gaze_encoding
    if arm.inject and changed and not fresh and stage_one is None:
        raise ConfigError(
            "model.overrides (or the arm) ask for another resampler than the model's, which this run would go on "
            "training: leave them out, or set model.fresh_resampler=true to start a new one"
        )
    if arm.inject and (fresh or changed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model.resampler = build_resampler(
                wanted,
                feature_dim=model._feature_dim,  # type: ignore[arg-type]
                hidden_dim=model.backbone.hidden_size,
                n_layers=model.backbone.n_layers,
            ).to(model.backbone.device)
    if stage_one is not None and not fresh:
        try:
            model.resampler.load_state_dict(stage_one)
        except RuntimeError as error:
            raise ConfigError(
                f"arm {arm.name!r}: its stage one does not fit this model: {first_line(error)}"
            ) from error
    model.config = wanted
    if config.trains_lora:
        _adapt(model, config, adapted)
    model.requires_grad_(False)
    if model.backbone.dtype == torch.float64:
        model.resampler.double()
    for name, parameter in model.trainable_parameters().items():
        if config.trains_lora if ".lora_" in name else config.trains_resampler:
            if parameter.dtype != torch.float64:
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    if config.gradient_checkpointing:
        bare = model.backbone.bare  # transformers 5.23 has renamed it
        enable = getattr(bare, "activation_checkpointing_enable", None) or bare.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    _keep_nf4_as_it_is(model)
    return Prepared(model, began, began_resampler, earlier)


def _adapt(model: GazeQwen, config: TrainConfig, adapted: bool) -> None:
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    if not adapted:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            vlm: Any = model.vlm
            model.vlm = get_peft_model(
                vlm,
                LoraConfig(
                    r=lora.rank,
                    lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works as well
                    lora_dropout=lora.dropout,
                    target_modules=lora.pattern,
                ),
            )
        model.backbone = Backbone(model.vlm)
        return
    held: Any = model.vlm.peft_config["default"]  # type: ignore[index]
    have = {"rank": held.r, "alpha": held.lora_alpha, "dropout": held.lora_dropout, "targets": held.target_modules}
    want = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout, "targets": lora.pattern}
    for name, value in have.items():
        if value != want[name]:
            raise ConfigError(
                f"lora.{name}: the model has an adapter with {value!r}, which goes on being trained; the settings say "
                f"{want[name]!r}"
            )


def _keep_nf4_as_it_is(model: GazeQwen) -> None:
    """bitsandbytes repacks nf4 weights for a CPU kernel at the first forward without gradients, and can't go back: such
    weights give no gradient. Here it is kept from it, so that a run can be validated and go on."""
    for module in model.backbone.decoder.modules():
        if type(module).__name__ != "Linear4bit":
            continue
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ConfigError("these nf4 weights have answered on the CPU, which repacked them: load the model anew")
        module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def training_mode(model: GazeQwen, on: bool) -> None:
    """Dropout of the adapter and gradient checkpointing live in the decoder; all else computes as in eval mode."""
    model.eval()
    model.backbone.decoder.train(on)


# -- writing -----------------------------------------------------------------------------------------------------------


def write(prepared: Prepared, config: TrainConfig, folder: Path, *, trained: str) -> None:
    """The trained model as a folder that `GazeQwen.from_pretrained` loads. Arms other than inject go to arms/NAME of it
    (`checkpoint.load_arm`), beside the model that the run began with.

    Args:
        folder: a new one.
        trained: what the weights are, in words.

    Raises:
        InputError: it can't be written.
        ConfigError: the backbone is quantised and the model's own (`load` it unquantised, and write that).
    """
    model, arm = prepared.model, get_arm(config.arm)
    if arm.name == "inject":
        name = Path(config.out).name or model.config.name
        model.config = replace(model.config, name=name, trained=trained, scoring=config.scoring)
        model.arms_folder = None  # other arms' weights beside had another budget than these
        save(model, folder)
        return
    own = folder.with_name(f"{folder.name}.arm")
    shutil.rmtree(own, ignore_errors=True)
    try:
        write_arm(model, config, own)
        if config.trains_lora:
            model.vlm = model.vlm.unload()  # type: ignore[operator]
            model.backbone = Backbone(model.vlm)
        model.config = prepared.began
        resampler: Any = build_resampler(
            prepared.began,
            feature_dim=model._feature_dim,  # type: ignore[arg-type]
            hidden_dim=model.backbone.hidden_size,
            n_layers=model.backbone.n_layers,
        )
        resampler.load_state_dict(prepared.began_resampler)
        model.resampler = resampler
        save(model, folder)
        place = folder / ARMS / arm.name
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        own.rename(place)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def write_arm(model: GazeQwen, config: TrainConfig, folder: Path) -> None:
    """What was trained, and nothing else, into a new folder: the resampler (model.safetensors) where the arm injects,
    the adapter (lora/) where one was trained. `checkpoint.load_arm` reads it from arms/NAME of a model's folder."""
    folder.mkdir(parents=True)
    if get_arm(config.arm).inject:
        tensors = {f"resampler.{name}": t.detach().cpu() for name, t in model.resampler.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    if config.trains_lora:
        model.vlm.save_pretrained(folder / LORA)  # type: ignore[operator]


# -- which videos a model has seen -------------------------------------------------------------------------------------


def training_videos(folder: Path) -> tuple[str, ...]:
    """The videos that a model's folder says it was trained on, arms' runs included; () where it says nothing.

    Raises:
        InputError: results.json is damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        return ()
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["videos"]["train"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, expected="results.json of a training run", found=f"{type(error).__name__}: {error}"[:80]
        ) from error


def require_unseen(
    ids: Any, trained_on: Any, *, source: str, fix: str = "split by video (data.split), or evaluate on others"
) -> None:
    """Raises InputError where a video to be evaluated was trained on."""
    both = sorted(set(ids) & set(trained_on))
    if both:
        raise InputError(
            source,
            expected="videos that the model was not trained on",
            found=f"{len(both)} that it was, e.g. {both[0]}",
            fix=fix,
        )
