"""V-JEPA: the encoder's behaviour, official files, causal rolling features, the published model's own steps."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gazeqwen import vjepa
from gazeqwen.config import VJEPA_SIZES, FeatureConfig, VJEPAConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import GazeEvents, Step
from gazeqwen.vjepa import (
    VJEPA21,
    HFVJEPA2Features,
    RollingWindow,
    VJEPA21Features,
    build_extractor,
    convert_vjepa,
    encoder_flops,
    load_official,
    official_features,
    official_frame_indices,
    official_inputs,
    official_state_dict,
    step_features,
)
from gazeqwen.vjepa_encoder import ROPE_TABLES_KEPT

TINY = VJEPAConfig(dim=24, depth=4, heads=2, mlp_dim=48, hierarchical_layers=(0, 1, 2, 3))
CONFIG = FeatureConfig(vjepa=TINY, window_frames=8, size_px=32, tubelets_per_step=2, fps=4.0)


def tiny_encoder(config: VJEPAConfig = TINY) -> VJEPA21:
    """An encoder whose parameters are a fixed wave, different in every tensor, on any machine."""
    encoder = VJEPA21(config).eval()
    with torch.no_grad():
        for index, parameter in enumerate(encoder.parameters()):
            wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.013 * index) + index)
            parameter.copy_((wave * 0.3).view_as(parameter) + (1.0 if parameter.ndim == 1 else 0.0))
    return encoder


def clip(*shape: int) -> Tensor:
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * 0.37).float().view(shape)


def make_step(index: int, frames: int = 4, seed: int = 0) -> Step:
    """One second of noise with `frames` V-JEPA frames."""
    rng = np.random.default_rng(1000 * seed + index)
    video = rng.integers(0, 256, (frames, 20, 28, 3), dtype=np.uint8)
    times = index + np.arange(frames) / frames
    return Step(
        frames=video[[0, -1]],
        frame_times_s=times[[0, -1]],
        span_s=(float(index), index + 1.0),
        vjepa_frames=video,
        vjepa_times_s=times,
        gaze=GazeEvents.none(),
    )


# Three values of tokens 0, 7, 14, 21 of a video and of tokens 0 and 5 of an image, by the build that had error 0 in
# golden 03 and 03b.
FROZEN_VIDEO = [0.77396, -0.54312, 0.17065, 0.61424, -0.50892, -0.01709]
FROZEN_VIDEO += [1.01638, -0.78527, 0.46543, 0.59587, -0.66977, -0.02084]
FROZEN_IMAGE = [0.00257, -0.00778, 1.92275, 0.22057, -0.06893, 1.77322]


@pytest.fixture(scope="module")
def extractor() -> VJEPA21Features:
    return VJEPA21Features(tiny_encoder(), CONFIG)


# --- encoder ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_arithmetic_stays_what_it_was_when_it_equalled_the_official_class() -> None:
    """On a non-square video and an image."""
    encoder = tiny_encoder()
    video = encoder(clip(1, 3, 4, 48, 64))
    image = encoder(clip(1, 3, 1, 32, 48))
    assert video.shape == (1, 2 * 3 * 4, 24) and image.shape == (1, 6, 24)
    assert torch.allclose(video[0, ::7, :3].flatten(), torch.tensor(FROZEN_VIDEO), atol=2e-5)
    assert torch.allclose(image[0, ::5, :3].flatten(), torch.tensor(FROZEN_IMAGE), atol=2e-5)


@torch.no_grad()
def test_a_batch_gives_what_each_clip_gives_alone() -> None:
    encoder, x = tiny_encoder(), clip(3, 3, 4, 32, 48)
    alone = torch.cat([encoder(x[i : i + 1]) for i in range(3)])
    assert (encoder(x) - alone).abs().max() < 1e-5


@torch.no_grad()
def test_layers_are_returned_in_the_order_asked_for() -> None:
    encoder, x = tiny_encoder(), clip(1, 3, 2, 32, 32)
    last, first = encoder(x, layers=[3, 0])
    assert torch.equal(last, encoder(x)) and torch.equal(first, encoder(x, layers=(0,))[0])
    assert not torch.allclose(first, last)
    for wrong in ([], [4], [-1]):
        with pytest.raises(InputError, match=r"\[0, 1, 2, 3\]"):
            encoder(x, layers=wrong)


@torch.no_grad()
def test_a_grid_of_one_patch_is_position_zero() -> None:
    """Upstream divides by zero here. Ours is finite and equals a model without spatial positions."""
    out = tiny_encoder()(clip(1, 3, 4, 16, 16))
    assert out.shape == (1, 2, 24) and out.isfinite().all()
    assert tiny_encoder()(clip(1, 3, 2, 16, 48)).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((1, 3, 3, 32, 32), "3 frames"),
        ((1, 3, 2, 33, 32), "33"),
        ((1, 1, 2, 32, 32), "1, 1, 2"),
        ((3, 2, 32, 32), "3, 2, 32"),
        ((1, 3, 0, 32, 32), "0"),
    ],
)
def test_shapes_that_upstream_cuts_in_silence_are_refused(shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        tiny_encoder()(torch.zeros(shape))


def test_training_works_after_inference_mode_on_the_same_grid() -> None:
    encoder, x = tiny_encoder(), clip(1, 3, 2, 32, 32)
    with torch.inference_mode():
        expected = encoder(x).clone()
    out = encoder(x)
    out.square().mean().backward()
    assert torch.allclose(out, expected) and encoder.blocks[0].attn.qkv.weight.grad is not None  # type: ignore[union-attr]


@torch.no_grad()
def test_bfloat16_and_autocast_stay_close_to_float32() -> None:
    x = clip(1, 3, 4, 32, 48)
    expected = tiny_encoder()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tiny_encoder()(x)
    low = tiny_encoder().bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    for close in (mixed, low):
        assert (close.float() - expected).norm() / expected.norm() < 0.05


def test_more_grids_than_tables_kept_change_nothing() -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        first = encoder(clip(1, 3, 2, 32, 32))
        for side in range(1, ROPE_TABLES_KEPT + 3):
            encoder(clip(1, 3, 1, 16, 16 * side))
        assert torch.equal(encoder(clip(1, 3, 2, 32, 32)), first)


@pytest.mark.parametrize(
    ("config", "frames", "size_px"), [(VJEPA_SIZES["B"], 16, 384), (VJEPA_SIZES["B"], 1, 224), (TINY, 8, 64)]
)
def test_the_flop_formula_equals_torch_s_counter(config: VJEPAConfig, frames: int, size_px: int) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        VJEPA21(config)(torch.empty(1, 3, frames, size_px, size_px))
    assert counter.get_total_flops() == encoder_flops(config, frames, size_px)


@pytest.mark.parametrize(
    ("size", "keys", "parameters_m"), [("B", 158, 86.8), ("L", 302, 304.7), ("g", 494, 1013.3), ("G", 590, 1845.2)]
)
def test_published_sizes(size: str, keys: int, parameters_m: float) -> None:
    with torch.device("meta"):
        state = VJEPA21(VJEPA_SIZES[size]).state_dict()
    assert len(state) == keys
    assert sum(t.numel() for t in state.values()) / 1e6 == pytest.approx(parameters_m, abs=0.05)


# --- official weights ------------------------------------------------------------------------------------------------


def save_official(path: Path, state: dict[str, Tensor], key: str = "target_encoder", prefix: str = "") -> Path:
    torch.save({key: {prefix + name: t for name, t in state.items()}, "epoch": 3, "opt": {"lr": 0.1}}, path)
    return path


@pytest.mark.parametrize("key", ["ema_encoder", "target_encoder", "encoder"])
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_official_files_load_whatever_key_and_prefix(tmp_path: Path, key: str, prefix: str) -> None:
    encoder = tiny_encoder()
    path = save_official(tmp_path / "vjepa.pt", encoder.state_dict(), key, prefix)
    loaded = load_official(path, TINY)
    assert torch.equal(loaded(clip(1, 3, 2, 32, 32)), encoder(clip(1, 3, 2, 32, 32)))
    assert official_state_dict(path, key=key).keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("size", ["B", "L", "g", "G"])
def test_the_size_is_read_from_the_weights_and_not_from_the_name(tmp_path: Path, size: str) -> None:
    """vitg and vitG differ by case only. One stored number a tensor is enough to carry the shapes."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in VJEPA21(VJEPA_SIZES[size]).state_dict().items()}
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    path = save_official(tmp_path / "vjepa2_1_vitg_384.pt", state)
    assert load_official(path).config == VJEPA_SIZES[size]


def test_an_unknown_size_asks_for_the_config(tmp_path: Path) -> None:
    path = save_official(tmp_path / "other.pt", tiny_encoder().state_dict())
    with pytest.raises(InputError, match=r"\(24, 4, 48\).*pass config="):
        load_official(path)


def test_conversion_keeps_every_number_and_the_shape(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    source, out = save_official(tmp_path / "a.pt", encoder.state_dict()), tmp_path / "a.safetensors"
    report = convert_vjepa(source, out, config=TINY)
    assert report["key_count"] == len(encoder.state_dict()) and report["size"] == "other"
    assert report["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert report["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    again = load_official(out)  # without config: it is in the header
    assert again.config == TINY
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "a.safetensors"]
    with safe_open(out, framework="pt") as file:
        assert "patch_embed.proj.weight" in file.keys()  # noqa: SIM118 - not a mapping


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = dict(tiny_encoder().state_dict())
    del state["blocks.2.attn.qkv.weight"]
    state["pos_embed"] = torch.zeros(3)
    state["img_mod_embed"] = torch.zeros(1, 1, 25)
    state["video_mod_embed"] = torch.zeros(1, 1, 24, dtype=torch.int64)
    with pytest.raises(InputError) as caught:
        load_official(save_official(tmp_path / "bad.pt", state), TINY)
    for named in ("bad.pt", "missing 1 (blocks.2.attn.qkv.weight)", "unexpected 1 (pos_embed)", "shape 1 (img_mod"):
        assert named in str(caught.value)
    assert "not floating-point 1 (video_mod_embed)" in str(caught.value)


class Surprise:
    """What a pickle could run on loading: here it would leave a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_file_that_needs_a_full_pickle_load_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "was_run"
    torch.save({"encoder": dict(tiny_encoder().state_dict()), "args": Surprise(marker)}, path)
    with pytest.raises(InputError, match="full pickle load") as caught:
        load_official(path, TINY)
    assert not marker.exists() and "plain.pt" in str(caught.value) and "\n" not in str(caught.value)


def damaged_files(folder: Path) -> dict[str, Path]:
    old_style = folder / "cut_old_style.pt"
    torch.save(tiny_encoder().state_dict(), old_style, _use_new_zipfile_serialization=False)
    old_style.write_bytes(old_style.read_bytes()[:-40_000])
    whole = save_official(folder / "whole.pt", tiny_encoder().state_dict()).read_bytes()
    convert_vjepa(folder / "whole.pt", folder / "whole.safetensors", config=TINY)
    tensors = (folder / "whole.safetensors").read_bytes()
    assert b'\\"dim\\": 24' in tensors
    contents = {
        "cut.pt": whole[: len(whole) // 2],
        "empty.pt": b"",
        "text.pt": b"<html>not found</html>",
        "list.pt": None,
        "pickle.pt": pickle.dumps({"encoder": 1}, protocol=2),
        "cut.safetensors": tensors[: len(tensors) // 2],
        "empty.safetensors": b"",
        "head.safetensors": tensors.replace(b'\\"dim\\": 24', b'\\"dim\\": 25'),
    }
    for name, content in contents.items():
        if content is None:
            torch.save([1, 2], folder / name)
        else:
            (folder / name).write_bytes(content)
    return {name: folder / name for name in [*contents, old_style.name, "absent.pt"]}


def test_damaged_files_give_one_line_that_names_them(tmp_path: Path) -> None:
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(InputError) as caught:
            load_official(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_key_lists_what_is_there(tmp_path: Path) -> None:
    path = save_official(tmp_path / "a.pt", tiny_encoder().state_dict())
    with pytest.raises(InputError, match="target_encoder"):
        load_official(path, TINY, key="predictor")


# --- rolling causal features -----------------------------------------------------------------------------------------


def test_features_of_a_step_do_not_change_when_later_frames_arrive(extractor: VJEPA21Features) -> None:
    steps = [make_step(i) for i in range(5)]
    early = step_features(extractor, steps[:3], RollingWindow(CONFIG))
    late = step_features(extractor, [*steps[:3], *(make_step(i, seed=7) for i in (3, 4))], RollingWindow(CONFIG))
    assert early.shape == (3, 2, 2, 2, 24)
    assert (late[:3] - early).abs().max() < 1e-5


def test_features_see_the_past_of_their_window(extractor: VJEPA21Features) -> None:
    """The counterpart: a changed earlier step changes this one, until it has left the window."""
    changed = [make_step(0, seed=7), *(make_step(i) for i in (1, 2))]
    plain = step_features(extractor, [make_step(i) for i in range(3)], RollingWindow(CONFIG))
    other = step_features(extractor, changed, RollingWindow(CONFIG))
    assert (plain[1] - other[1]).abs().max() > 1e-4
    assert (plain[2] - other[2]).abs().max() < 1e-5


@pytest.mark.parametrize("group", [1, 2, 64])
def test_many_steps_in_one_call_equal_one_at_a_time(
    extractor: VJEPA21Features, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    steps = [make_step(i, frames=3 + i % 3) for i in range(5)]
    window = RollingWindow(CONFIG)
    single = torch.cat([step_features(extractor, [step], window) for step in steps])
    monkeypatch.setattr(vjepa, "GROUP_STEPS", group)
    monkeypatch.setattr(vjepa, "CHUNK_TOKENS", 40)  # two windows of 16 tokens
    assert (step_features(extractor, steps, RollingWindow(CONFIG)) - single).abs().max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 11), min_size=1, max_size=6))
def test_a_window_does_not_depend_on_how_its_frames_arrive(sizes: list[int]) -> None:
    total = sum(sizes)
    video = np.random.default_rng(total).integers(0, 256, (total, 9, 12, 3), dtype=np.uint8)
    times = np.arange(total) / 4
    window, at, newest = RollingWindow(CONFIG), 0, torch.empty(0)
    for size in sizes:
        newest = window.push(video[at : at + size], times[at : at + size])
        at += size
        assert len(window) == min(at, CONFIG.window_frames)
    assert newest.shape == (8, 32, 32, 3) and newest.dtype == torch.uint8
    assert torch.equal(newest[-1], RollingWindow(CONFIG).push(video[-1:], [0.0])[-1])
    if total <= CONFIG.window_frames:  # the start repeats the stream's first frame
        assert torch.equal(newest, RollingWindow(CONFIG).push(video, times))
        first = RollingWindow(CONFIG).push(video[:1], [0.0])[0]
        assert all(torch.equal(frame, first) for frame in newest[: 9 - total])
    else:
        assert torch.equal(newest, RollingWindow(CONFIG).push(video[-8:], times[-8:]))


def test_frames_are_squashed_to_the_square() -> None:
    wide = np.zeros((1, 16, 64, 3), np.uint8)
    wide[:, :, 32:] = 200
    square = RollingWindow(CONFIG).push(wide, [0.0])[-1]
    assert square[:, :15].max() == 0 and square[:, 17:].min() == 200


def test_a_fork_leaves_its_parent_unchanged(extractor: VJEPA21Features) -> None:
    parent, twin = RollingWindow(CONFIG), RollingWindow(CONFIG)
    for window in (parent, twin):
        step_features(extractor, [make_step(0), make_step(1)], window)
    fork = parent.copy()
    step_features(extractor, [make_step(2, seed=9)], fork)
    expected = step_features(extractor, [make_step(2)], twin)
    assert torch.equal(step_features(extractor, [make_step(2)], parent), expected)


@pytest.mark.parametrize(
    ("times", "named"),
    [
        ([2.0, 2.0], "2, 2"),
        ([3.0, 2.5], "3, 2.5"),
        ([1.0, 1.5], "1, 1.5"),
        ([2.0], "2 ascending"),
        ([2.0, np.nan], "nan"),
    ],
)
def test_times_that_do_not_ascend_are_refused_and_change_nothing(times: list[float], named: str) -> None:
    window, twin = RollingWindow(CONFIG), RollingWindow(CONFIG)
    frames = np.zeros((2, 9, 12, 3), np.uint8)
    for each in (window, twin):
        each.push(frames, [0.5, 1.0])
    with pytest.raises(InputError, match=named):
        window.push(frames + 50, times)
    assert torch.equal(window.push(frames, [5.0, 6.0]), twin.push(frames, [5.0, 6.0]))


def test_a_refused_step_leaves_the_window_as_before(extractor: VJEPA21Features) -> None:
    window = RollingWindow(CONFIG)
    with pytest.raises(InputError, match="ascending"):
        step_features(extractor, [make_step(0), make_step(1), make_step(1)], window)
    assert len(window) == 0
    with pytest.raises(InputError, match="at least one step"):
        step_features(extractor, [], window)


def test_frames_and_windows_of_another_kind_are_refused(extractor: VJEPA21Features) -> None:
    with pytest.raises(InputError, match="float32"):
        RollingWindow(CONFIG).push(np.zeros((1, 9, 12, 3), np.float32), [0.0])
    for wrong in (torch.zeros(1, 8, 32, 32, 3), torch.zeros(1, 6, 32, 32, 3, dtype=torch.uint8)):
        with pytest.raises(InputError, match="windows"):
            extractor.encode(wrong)
    assert extractor.encode(torch.zeros(0, 8, 32, 32, 3, dtype=torch.uint8)).shape == (0, 2, 2, 2, 24)


def test_an_extractor_is_frozen_and_keeps_the_newest_tubelets(extractor: VJEPA21Features) -> None:
    windows = torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8)
    features = extractor.encode(windows)
    every = VJEPA21Features(extractor.encoder, FeatureConfig(**{**vars(CONFIG), "tubelets_per_step": 4}))  # type: ignore[arg-type]
    assert torch.equal(every.encode(windows)[:, 2:], features)
    assert not features.requires_grad and not any(p.requires_grad for p in extractor.parameters())


def test_build_extractor_loads_weights_or_starts_at_random(tmp_path: Path, extractor: VJEPA21Features) -> None:
    path = save_official(tmp_path / "a.pt", extractor.encoder.state_dict())
    windows = torch.randint(0, 256, (1, 8, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(build_extractor(CONFIG, path).encode(windows), extractor.encode(windows))
    random = build_extractor(CONFIG)
    random.load_state_dict(extractor.state_dict(), strict=True)
    assert torch.equal(random.encode(windows), extractor.encode(windows))


def tiny_hf() -> Any:
    from transformers import VJEPA2Config, VJEPA2Model

    sizes: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2.0}
    predictor: dict[str, Any] = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return VJEPA2Model(VJEPA2Config(crop_size=32, frames_per_clip=8, **sizes, **predictor)).eval()


def test_vjepa2_of_transformers_plugs_in_by_the_same_protocol(tmp_path: Path) -> None:
    model = tiny_hf()
    model.save_pretrained(tmp_path)
    config = FeatureConfig(extractor="vjepa2_hf", window_frames=8, size_px=32, tubelets_per_step=2)
    ours = build_extractor(config, tmp_path)
    assert isinstance(ours, HFVJEPA2Features) and ours.dim == 24
    steps = [make_step(i) for i in range(3)]
    features = step_features(ours, steps, RollingWindow(config))
    window = RollingWindow(config)
    for step in steps:
        newest = window.push(step.vjepa_frames, step.vjepa_times_s)
    pixels = newest.permute(0, 3, 1, 2)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        theirs = model((pixels - mean) / std, skip_predictor=True).last_hidden_state
    assert (features[-1] - theirs.view(4, 2, 2, 24)[-2:]).abs().max() < 1e-5


def test_vjepa2_refuses_a_size_it_would_number_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="32 only"):
        HFVJEPA2Features(tiny_hf(), FeatureConfig(extractor="vjepa2_hf", window_frames=8, size_px=64))
    with pytest.raises(InputError, match="absent"):
        build_extractor(FeatureConfig(extractor="vjepa2_hf"), tmp_path / "absent")


def test_a_config_the_encoder_can_not_follow_is_refused() -> None:
    odd = VJEPAConfig(**{**vars(TINY), "patch_size": 24})
    with pytest.raises(ConfigError, match="24"):
        VJEPA21Features(VJEPA21(odd), CONFIG)
    slow = VJEPAConfig(**{**vars(TINY), "tubelet_size": 4})
    with pytest.raises(ConfigError, match="at most 2"):
        VJEPA21Features(VJEPA21(slow), FeatureConfig(**{**vars(CONFIG), "tubelets_per_step": 4}))


# --- the published GazeQwen's features -------------------------------------------------------------------------------


def test_official_indices_repeat_the_last_or_truncate() -> None:
    assert official_frame_indices(3) == [0, 1] + [2] * 14
    assert official_frame_indices(16) == list(range(16))
    assert official_frame_indices(20) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 19]
    with pytest.raises(InputError, match="at least one"):
        official_frame_indices(0)


def test_official_inputs_clamp_squash_and_normalise() -> None:
    frames = torch.full((2, 3, 20, 40), 127.5)
    frames[1] = 300.0  # over the range: clamped to white
    ours = official_inputs(frames, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert ours.shape == (1, 3, 16, 32, 32)
    assert torch.allclose(ours[0, :, 0], ((0.5 - mean) / std).expand(3, 32, 32), atol=1e-5)
    assert torch.allclose(ours[0, :, 1:], ((1.0 - mean) / std)[:, None].expand(3, 15, 32, 32), atol=1e-5)
    with pytest.raises(InputError, match="uint8"):
        official_inputs(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_official_features_keep_a_linear_ramp_and_pass_equal_sizes_through() -> None:
    t, side = 8, 6
    ramp = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(side), torch.arange(side), indexing="ij"), -1)
    encoded = ramp.reshape(1, -1, 3).float()
    same = official_features(encoded, 8, llm_h=side, llm_w=side)
    assert torch.equal(torch.cat(same)[None], encoded)
    four = official_features(encoded, 4, llm_h=3, llm_w=2)
    assert len(four) == 4 and four[0].shape == (6, 3)
    assert [step[0, 0].item() for step in four] == [0.5, 2.5, 4.5, 6.5]  # tubelets (0,1) (2,3) (4,5) (6,7)
    assert four[0][:, 1].tolist() == [0.5, 0.5, 2.5, 2.5, 4.5, 4.5]  # centres of two rows each
    with pytest.raises(InputError, match="at least one step"):
        official_features(encoded, 0, llm_h=2, llm_w=2)
    with pytest.raises(InputError, match=r"\(1, 289"):
        official_features(encoded[:, :-1], 4, llm_h=2, llm_w=2, grid=(1, 17, 17))
