"""`gazeqwen info --model`: computed sizes against published ones and a model that is really built and quantised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gazeqwen import GazeQwen
from gazeqwen.cli import main
from gazeqwen.errors import GazeQwenError
from gazeqwen.info import fit, fit_text

QWEN_3B, QWEN_7B = "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder that owns its backbone."""
    return GazeQwen.from_pretrained("tiny").save_pretrained(tmp_path_factory.mktemp("models") / "saved")


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes", "layers"),
    [(QWEN_7B, 8.29e9, 57_344, 28), (QWEN_3B, 3.75e9, 36_864, 36)],  # 2 (k, v) x layers x 2 or 4 heads x 128 x 2 bytes
)
def test_published_sizes(name: str, parameters: float, kv_bytes: int, layers: int) -> None:
    report = fit(name)
    assert report["parameters"] == pytest.approx(parameters, rel=2e-3)
    assert (report["kv_bytes_per_token"], report["layers"]) == (kv_bytes, layers)
    assert report["weights_gib"]["fp16"] == report["parameters"] * 2 / 2**30
    assert 1e6 <= report["resampler_parameters"] <= 5e6
    assert report["tokens_per_step"] == [128, 768]
    assert report["kv_mib_per_step"] == [kv_bytes * tokens / 2**20 for tokens in (128, 768)]


def test_7b_to_a_thousandth() -> None:
    report = fit(QWEN_7B)
    assert report["parameters"] == pytest.approx(8.29e9, rel=1e-3)
    # By hand: q, k, v, o (28 and 4 heads of 128) and three MLP matrices of 28 layers are quantised, nothing else.
    quantised = 28 * (3584 * (28 + 4 + 4 + 28) * 128 + 3 * 3584 * 18944)
    rest = report["parameters"] - quantised
    rows = 28 * (3584 + 2 * 512 + 3584 + 2 * 18944 + 3584)
    assert report["weights_gib"]["int8"] * 2**30 == pytest.approx(2 * rest + quantised + 4 * rows)
    assert report["weights_gib"]["nf4"] * 2**30 == pytest.approx(2 * rest + quantised * (0.5 + 1 / 64 + 4 / 64 / 256))


def quantised_bytes(model: GazeQwen) -> tuple[int, int]:
    """(bytes of the quantised layers with all their scales, parameters elsewhere) of a loaded backbone."""
    size = elsewhere = 0
    quantised: set[int] = set()
    for module in model.vlm.modules():
        weight: Any = getattr(module, "weight", None)
        if type(module).__name__ == "Linear4bit":
            state = weight.quant_state
            size += weight.numel() * weight.element_size() + state.absmax.numel() * state.absmax.element_size()
            size += state.state2.absmax.numel() * state.state2.absmax.element_size()
        elif type(module).__name__ == "Linear8bitLt":
            scales = module.state.SCB if weight.SCB is None else weight.SCB
            size += weight.numel() + scales.numel() * scales.element_size()
        else:
            continue
        quantised.add(id(weight))
    for parameter in model.vlm.parameters():
        elsewhere += 0 if id(parameter) in quantised else parameter.numel()
    return size, elsewhere


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_sizes_are_those_of_a_quantised_model(kind: str) -> None:
    size, elsewhere = quantised_bytes(GazeQwen.from_pretrained("tiny", quantization=kind, device="cpu"))
    assert size > 0
    assert fit("tiny")["weights_gib"][kind] * 2**30 == pytest.approx(size + 2 * elsewhere, rel=2e-3)


def test_the_tiny_models_counts_are_those_of_the_loaded_model() -> None:
    model, report = GazeQwen.from_pretrained("tiny"), fit("tiny")
    assert report["parameters"] == sum(p.numel() for p in model.vlm.parameters())
    assert report["resampler_parameters"] == sum(p.numel() for p in model.resampler.parameters())
    extractor: Any = model.extractor
    assert report["vjepa_gib"] * 2**30 == sum(4 * p.numel() for p in extractor.encoder.parameters())
    config: Any = model.backbone.bare.config.get_text_config()
    cached = (
        2 * config.num_hidden_layers * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    )
    assert report["kv_bytes_per_token"] == 2 * cached


def test_folders_give_the_same_as_what_they_were_saved_from(saved: Path, tmp_path: Path) -> None:
    same = ("parameters", "layers", "hidden_size", "weights_gib", "kv_bytes_per_token")
    expected = {name: fit("tiny")[name] for name in same}
    assert {name: fit(str(saved))[name] for name in same} == expected
    backbone = saved / "backbone"
    assert {name: fit(str(backbone))[name] for name in same} == expected
    ours = tmp_path / "ours"
    ours.mkdir()
    config = json.loads((saved / "config.json").read_text())
    shutil.copytree(backbone, ours / "its backbone")
    for base in ("its backbone", str(backbone)):
        (ours / "config.json").write_text(json.dumps({**config, "base": base}))
        assert {name: fit(str(ours))[name] for name in same} == expected
    (ours / "config.json").write_text(json.dumps({**config, "base": QWEN_7B}))
    assert fit(str(ours))["parameters"] == fit(QWEN_7B)["parameters"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"base": "."}',
        '{"base": "nowhere/at-all"}',
        '{"bogus": 1}',
        '{"model_type": "qwen2_5_vl", "text_config": {"hidden_size": "x"}}',
        '{"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 100, "num_attention_heads": 0}}',
        '{"model_type": "qwen2_5_vl", "vision_config": 5}',
        "\ufeff",
    ],
)
def test_a_damaged_config_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(GazeQwenError):
        fit(str(tmp_path))
    assert main(["info", "--model", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1


def test_the_verdict_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib, fits in (
        (4, (False, False, False)),
        (12, (False, False, True)),
        (15, (False, True, True)),
        (64, (True,) * 3),
    ):
        monkeypatch.setattr("gazeqwen.info._free_memory", lambda free=free_gib: (free * 2.0**30, "a device"))
        assert tuple(fit(QWEN_7B)["fits"].values()) == fits
        assert fit_text(fit(QWEN_7B)).count("does not fit") == fits.count(False)


def test_the_text_is_narrow_and_names_the_licence(capsys: pytest.CaptureFixture[str]) -> None:
    for name, licence in ((QWEN_3B, "non-commercial"), (QWEN_7B, "Apache-2.0"), ("tiny", "Apache-2.0")):
        assert main(["info", "--model", name]) == 0
        shown = capsys.readouterr().out
        assert licence in shown and max(map(len, shown.splitlines())) <= 80
        assert main(["info", "--model", name, "--json"]) == 0
        assert licence in json.loads(capsys.readouterr().out)["licence"]
