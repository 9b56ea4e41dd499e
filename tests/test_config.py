"""config.json: written and read back equal; anything else is one error that says what was expected."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.config import (
    VJEPA_SIZES,
    FeatureConfig,
    FixationConfig,
    GazeEncodingConfig,
    GazeQwenConfig,
    PreprocessConfig,
    ResamplerConfig,
    VJEPAConfig,
)
from gazeqwen.errors import ConfigError
from gazeqwen.tiny import TINY_CONFIG

OFFICIAL = GazeQwenConfig(
    compat="official",
    gaze_encoding=GazeEncodingConfig(name="official"),
    resampler=ResamplerConfig(kind="official", layers=(6, 13, 20, 27), allow_last_layer=True, heads=1),
)


@pytest.mark.parametrize(
    "config",
    [
        GazeQwenConfig(),
        TINY_CONFIG,
        OFFICIAL,
        GazeQwenConfig(resampler=ResamplerConfig(layers="learned")),
        GazeQwenConfig(scoring="likelihood"),
        GazeQwenConfig(fixations=FixationConfig("streamgaze", {"radius_norm": 0.1, "dtype": "float32"})),
        GazeQwenConfig(features=FeatureConfig(vjepa=VJEPA_SIZES["G"], extractor="vjepa2_hf", hf_id="owner/name")),
    ],
)
def test_json_and_back(config: GazeQwenConfig) -> None:
    again = GazeQwenConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.resampler.layers == config.resampler.layers
    assert [type(x) for x in again.resampler.layers] == [type(x) for x in config.resampler.layers]


JSON = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "official", "B"]) | st.lists(st.floats(0, 2))
)
KEY = st.sampled_from([f.name for f in fields(GazeQwenConfig)])


@settings(deadline=None)
@given(values=st.dictionaries(KEY, JSON | st.dictionaries(st.sampled_from(["layers", "fps", "x"]), JSON), max_size=3))
def test_any_json_is_a_config_or_a_config_error(values: dict[str, Any]) -> None:
    try:
        config = GazeQwenConfig.from_dict(values)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert GazeQwenConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"colour": 1}, "unknown keys ['colour']; known keys are"),
        ({"resampler": {"latent": 3}}, "ResamplerConfig: unknown keys ['latent']"),
        ({"fps": "2"}, "fps: expected float"),
        ({"fps": True}, "fps: expected float"),
        ({"fps": 0}, "fps: > 0"),
        ({"lora": "yes"}, "lora: expected bool"),
        ({"compat": "old"}, "compat: expected"),
        ({"scoring": "generate"}, "scoring: expected"),
        ({"version": 2}, "upgrade gazeqwen"),
        ({"resampler": 3}, "resampler: expected ResamplerConfig"),
        ({"resampler": {"latents": 2.5}}, "latents: expected int"),
        ({"resampler": {"layers": ["last"]}}, "layers: expected"),
        ({"resampler": {"layers": []}}, "at least one layer"),
        ({"resampler": {"layers": "all"}}, "layers: expected"),
        ({"resampler": {"layers": [1.5]}}, "fractions lie in (0, 1)"),
        ({"resampler": {"layers": [float("nan")]}}, "fractions lie in (0, 1)"),
        ({"resampler": {"heads": 0}}, "divisible by heads"),
        ({"resampler": {"dim": 66}}, "divisible by heads"),
        ({"resampler": {"latents": 0}}, "latents and blocks"),
        ({"resampler": {"kind": "official"}}, "go together"),
        ({"preprocess": {"min_pixels": 9, "max_pixels": 8}}, "min_pixels <= max_pixels"),
        ({"preprocess": {"mean": [0.5, 0.5]}}, "mean: expected"),
        ({"features": {"window_frames": 7}}, "window_frames: even"),
        ({"features": {"size_px": 100}}, "multiple of 16"),
        ({"features": {"fps": -1.0}}, "fps: > 0"),
        ({"features": {"tubelets_per_step": 9}}, "tubelets_per_step: 1 to 8"),
        ({"features": {"extractor": "clip"}}, "extractor: expected"),
        ({"features": {"vjepa": {"heads": 0}}}, "at least 1"),
        ({"features": {"vjepa": {"heads": 5}}}, "divisible by heads"),
        ({"features": {"vjepa": {"depth": 4}}}, "hierarchical_layers"),
        ({"gaze_encoding": {"sigmas": []}}, "sigmas"),
        ({"gaze_encoding": {"sigmas": [0.1, -0.1]}}, "sigmas"),
        ({"gaze_encoding": {"frequencies": 0}}, "frequencies"),
        ({"gaze_encoding": {"recency_s": 0.0}}, "recency_s"),
        ({"fixations": {"parameters": 3}}, "parameters: expected"),
    ],
)
def test_what_is_not_understood_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GazeQwenConfig.from_dict(values)
    assert words in str(caught.value)


def test_official_needs_all_three() -> None:
    assert OFFICIAL.compat == "official"
    for change in ({"compat": None}, {"gaze_encoding": GazeEncodingConfig()}, {"resampler": ResamplerConfig()}):
        with pytest.raises(ConfigError):
            replace(OFFICIAL, **change)  # type: ignore[arg-type]


def test_configs_can_not_be_changed_and_must_be_mappings() -> None:
    with pytest.raises(FrozenInstanceError):
        GazeQwenConfig().name = "other"  # type: ignore[misc]
    with pytest.raises(ConfigError, match="expected a mapping"):
        PreprocessConfig.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "n_layers", "chosen"),
    [
        ((0.25, 0.5, 0.75), 28, (6, 13, 20)),
        ((0.25, 0.5), 4, (0, 1)),
        ((0.001, 0.999), 28, (0, 26)),
        ((0.5, 0.51), 10, (4,)),
        ((5, 2), 28, (2, 5)),
        ("learned", 4, (0, 1, 2)),
    ],
)
def test_layers_by_depth(layers: Any, n_layers: int, chosen: tuple[int, ...]) -> None:
    assert ResamplerConfig(layers=layers).layer_indices(n_layers) == chosen


def test_layers_that_are_not_there_or_reach_no_text() -> None:
    for layers, n_layers in (((28,), 28), ((-1,), 28), ((0.5,), 1), ("learned", 1)):
        with pytest.raises(ConfigError, match=r"layers 0\.\."):
            ResamplerConfig(layers=layers).layer_indices(n_layers)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the last one"):
        ResamplerConfig(layers=(27,)).layer_indices(28)
    assert ResamplerConfig(layers=(27,), allow_last_layer=True).layer_indices(28) == (27,)


def test_published_sizes_of_vjepa() -> None:
    assert {name: (c.dim, c.depth) for name, c in VJEPA_SIZES.items()} == {
        "B": (768, 12),
        "L": (1024, 24),
        "g": (1408, 40),
        "G": (1664, 48),
    }
    assert VJEPAConfig() == VJEPA_SIZES["B"]
