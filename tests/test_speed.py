"""The speed suite: its form, its bounds, its counting, and that it notices a module that computes something else.

No test asserts a time: what is measured depends on the machine, how it is measured and reported does not.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.speed import __main__ as cli
from benchmarks.speed import injection, loading
from benchmarks.speed import resampler as loop
from benchmarks.speed.core import CORE, Measurement
from benchmarks.speed.injection import TINY, WIDE, injection_overhead
from benchmarks.speed.resampler import resampler_vs_loop
from benchmarks.speed.results import Bound, Result, as_json, interleaved, table_row, write_json
from benchmarks.speed.sizes import (
    QWEN_7B,
    counted_flops,
    decoder_formula,
    meta_backbone,
    parameters_7b,
    prefill_flops,
    resampler_flops_7b,
    vision_tower_formula,
)
from gazeqwen.backbone import Backbone
from gazeqwen.config import GazeEncodingConfig, ResamplerConfig, VJEPAConfig
from gazeqwen.errors import InputError
from gazeqwen.resampler import GazeResampler
from gazeqwen.vjepa import VJEPA21, encoder_flops

CPU = torch.device("cpu")
FORM = {"name", "value", "unit", "ratio", "parts", "repeats", "note", "bound", "ok"}
COUNTS = ["parameters_7b", "parameters_7b_learned", "resampler_flops_7b", "resampler_flops_7b_learned"]
SMALL = {
    "text_config": {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    "vision_config": {
        **QWEN_7B["vision_config"],
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_heads": 2,
        "out_hidden_size": 48,
        "fullatt_block_indexes": [1],
    },
    "image_token_id": 2,
    "video_token_id": 3,
    "vision_start_token_id": 4,
    "vision_end_token_id": 5,
}


def run_cli(*arguments: str, out: Path) -> tuple[int, dict]:
    code = cli.main(["core", "--quick", "--device", "cpu", "--json", str(out), *arguments])
    return code, json.loads(out.read_text())


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def small_shape() -> injection.Shape:
    return replace(WIDE, hidden=64, heads=2, key_value_heads=1, intermediate=64, layers=4, steps=1, side=2)


# --- the command -----------------------------------------------------------------------------------------------------


def test_counts_come_in_the_stated_form_and_keep_their_bounds(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, content = run_cli("--check", *only(*COUNTS), out=tmp_path / "speed.json")
    assert code == 0
    assert content["quick"] is True and content["failed"] == {}
    assert {"torch", "threads", "device", "processors"} <= set(content["machine"])
    assert sorted(row["name"] for row in content["results"]) == sorted(COUNTS)
    for row in content["results"]:
        assert set(row) == FORM
        assert row["ok"] is True and row["bound"] and row["repeats"] >= 1
        assert all(isinstance(part, (int, float)) for part in row["parts"].values())
        assert (row["ratio"] is None) == row["name"].startswith("parameters")
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(COUNTS) and all(len(line) <= 80 for line in lines)


def test_every_bound_of_the_suite_is_stated() -> None:
    assert {m.name: None if m.bound is None else str(m.bound) for m in CORE} == {
        "decode_vs_pyav": "ratio <= 1.15",
        "resampler_vs_loop": "ratio >= 4",
        "resampler_vs_loop_7b": None,
        "resampler_vs_loop_7b_cuda": "ratio >= 10",
        "injection_overhead": "ratio <= 1.05",
        "injection_overhead_tiny": "ratio <= 1.1",
        "resampler_flops_7b": "ratio <= 0.01",
        "resampler_flops_7b_learned": "ratio <= 0.01",
        "vjepa_flops_7b": None,
        "parameters_7b": "1M to 5M",
        "parameters_7b_learned": "1M to 5M",
        "from_pretrained_tiny_s": "value < 3",
    }


def test_injection_is_measured_over_a_thousand_video_tokens() -> None:
    assert TINY.video_tokens >= 1000 and WIDE.video_tokens >= 1000 and injection.WIDE_GPU.video_tokens >= 1000


def test_a_timed_run_has_the_same_form_and_is_not_judged_when_quick(tmp_path: Path) -> None:
    names = ["resampler_vs_loop_7b", "resampler_vs_loop", "injection_overhead", "injection_overhead_tiny"]
    code, content = run_cli("--check", *only(*names), out=tmp_path / "speed.json")
    assert code == 0
    for row in content["results"]:
        assert set(row) == FORM and row["ratio"] > 0 and row["value"] > 0 and row["ok"] is None
    (at_7b,) = (row for row in content["results"] if row["name"] == "resampler_vs_loop_7b")
    assert math.isfinite(at_7b["parts"]["output_projection_share"])


def test_loading_is_timed_in_its_own_interpreter(tmp_path: Path) -> None:
    code, content = run_cli("--repeats", "1", *only("from_pretrained_tiny_s"), out=tmp_path / "speed.json")
    assert code == 0
    (row,) = content["results"]
    assert row["value"] == row["parts"]["load"] > 0 and row["parts"]["imports"] > 0 and row["unit"] == "s"


def test_check_fails_on_a_missed_bound_only_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Measurement("slow", Bound("ratio", high=1.05), lambda name, _: Result(name, 1.0, "s", 1.06), timed=False)
    monkeypatch.setitem(cli.SUITES, "core", (slow,))
    assert run_cli(out=tmp_path / "a.json")[0] == 0
    code, content = run_cli("--check", out=tmp_path / "b.json")
    assert code == 1 and content["results"][0]["ok"] is False


def test_what_cannot_be_measured_is_named_and_the_rest_still_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exact = loop.published_residual
    monkeypatch.setattr(loop, "published_residual", lambda *args, **kwargs: 1.01 * exact(*args, **kwargs))
    code, content = run_cli(*only("resampler_vs_loop", "parameters_7b"), out=tmp_path / "speed.json")
    assert code == 2
    assert [row["name"] for row in content["results"]] == ["parameters_7b"]
    assert "equal within" in content["failed"]["resampler_vs_loop"]
    assert "resampler_vs_loop: not measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["core", "--only", "nonsense"], "decode_vs_pyav"),
        (["core", "--repeats", "0"], "at least 1"),
        (["core", "--device", "abacus"], "abacus"),
        (["core", "--device", "cpu", "--only", "resampler_vs_loop_7b_cuda"], "needs a GPU"),
        (["core", "--json", "no/such/folder/file.json"], "no folder"),
        (["warp"], "core"),
    ],
)
def test_wrong_arguments_are_refused_before_measuring(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    assert cli.main(["core", "--device", "cpu", "--json", str(tmp_path / "taken"), *only("parameters_7b")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(InputError, match="can be written"):
        write_json(tmp_path / "absent" / "speed.json", {})


# --- how times become results ----------------------------------------------------------------------------------------


def test_rounds_turn_round_and_every_run_is_warmed_up() -> None:
    called: list[str] = []
    runs = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = interleaved(runs, 3, device=CPU, warm_up=1)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    with pytest.raises(InputError, match="at least 1"):
        interleaved(runs, 0, device=CPU)


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    # The machine slowed down for both in the second pair and for ours alone in the third.
    result = Result.of_pairs(
        "x", {"ours": [2.0, 22.0, 9.0], "theirs": [1.0, 10.0, 3.0]}, cost="ours", reference="theirs"
    )
    assert result.ratio == pytest.approx(2.2) and result.value == 9.0
    assert result.parts["theirs"] == 3.0 and result.repeats == 3


@pytest.mark.parametrize(
    ("bound", "number", "holds"),
    [
        (Bound("ratio", high=1.05), 1.05, True),
        (Bound("ratio", high=1.05), 1.0501, False),
        (Bound("value", high=3.0, below=True), 3.0, False),
        (Bound("value", high=3.0, below=True), 2.99, True),
        (Bound("ratio", low=4.0), 3.99, False),
        (Bound("ratio", low=4.0), 4.0, True),
        (Bound("value", low=1e6, high=5e6), 10.8e6, False),
        (Bound("value", low=1e6, high=5e6), 0.9e6, False),
        (Bound("value", low=1e6, high=5e6), 3.1e6, True),
    ],
)
def test_bounds(bound: Bound, number: float, holds: bool) -> None:
    assert bound.holds(Result("x", number, "s", number)) is holds


def test_a_bound_on_a_ratio_needs_one() -> None:
    with pytest.raises(InputError, match="a ratio"):
        Bound("ratio", high=1.0).holds(Result("x", 1.0, "s"))


@pytest.mark.parametrize("measurement", CORE, ids=lambda measurement: measurement.name)
def test_rows_fit_eighty_columns(measurement: Measurement) -> None:
    result = Result(measurement.name, 1.2345678e14, "params", 0.00012345678)
    row = as_json(result, measurement.bound, judged=True)
    failing = {**row, "ok": False}
    assert len(table_row(failing)) <= 80 and table_row(failing).endswith("FAIL")


# --- what is measured ------------------------------------------------------------------------------------------------


def test_injection_is_not_measured_when_nothing_is_injected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert injection_overhead("injection", small_shape(), 1, device=CPU).parts["video_tokens"] == 4

    @contextmanager
    def nothing(*_args: object, **_kwargs: object):
        yield

    monkeypatch.setattr(injection, "inject", nothing)
    with pytest.raises(InputError, match="residuals that change the forward"):
        injection_overhead("injection", small_shape(), 1, device=CPU)


def test_a_broken_resampler_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resampler_vs_loop(1, width="tiny")["max_difference"] < 1e-5
    exact = loop.OfficialResampler.forward

    def broken(self: loop.OfficialResampler, *args: object, **kwargs: object):
        found = exact(self, *args, **kwargs)  # type: ignore[arg-type]
        return replace(found, base=found.base.roll(1, dims=1))

    monkeypatch.setattr(loop.OfficialResampler, "forward", broken)
    with pytest.raises(InputError, match="equal within"):
        resampler_vs_loop(1, width="tiny")


def test_an_interpreter_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_SCRIPT", "raise SystemExit('no such model')")
    with pytest.raises(InputError, match="no such model"):
        loading.from_pretrained_tiny("from_pretrained_tiny_s", 1)


@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_decoder_formula_agrees_with_the_counter(tokens: int) -> None:
    config = Qwen2_5_VLConfig(**SMALL)
    text = config.get_text_config()
    counted = prefill_flops(meta_backbone(config), tokens)
    assert decoder_formula(text, tokens) == counted
    masked = 4 * text.hidden_size * text.num_hidden_layers * tokens * (tokens - 1) // 2
    assert decoder_formula(text, tokens, causal=True) == counted - masked


@pytest.mark.parametrize(("steps", "rows", "columns"), [(1, 8, 8), (2, 16, 16), (2, 10, 20)])
def test_vision_tower_formula_agrees_with_the_counter(steps: int, rows: int, columns: int) -> None:
    config = Qwen2_5_VLConfig(**SMALL)
    config._attn_implementation = "eager"  # its products are counted on a CPU, those of sdpa are not
    backbone = Backbone(Qwen2_5_VLForConditionalGeneration(config).eval())
    pixels = torch.zeros(steps * rows * columns, 3 * 2 * 14 * 14)
    counted = counted_flops(lambda: backbone.encode_visual(pixels, (steps, rows, columns)))
    assert vision_tower_formula(config.vision_config, steps, rows, columns) == counted


@pytest.mark.parametrize("frames", [1, 4])
def test_vjepa_formula_agrees_with_the_counter(frames: int) -> None:
    config = VJEPAConfig(dim=48, depth=4, heads=2, mlp_dim=96, hierarchical_layers=(0, 1, 2, 3))
    with torch.device("meta"):
        encoder = VJEPA21(config)
    counted = counted_flops(lambda: encoder(torch.empty(1, 3, frames, 64, 64, device="meta")))
    assert encoder_flops(config, frames, 64) == counted


def test_flops_at_7b_state_the_clip_and_vjepa_apart() -> None:
    result = resampler_flops_7b("flops", ResamplerConfig())
    assert result.parts["video_tokens"] == 60 * 64 and result.parts["resampler"] == result.value
    # Twice the decoder's 6.5 billion weights a token, and attention: the order of magnitude anyone can check.
    assert result.parts["prefill"] / (60 * 64 + 32) == pytest.approx(2 * 6.53e9, rel=0.15)
    assert result.parts["prefill_causal"] < result.parts["prefill"]
    assert result.parts["vjepa"] == 60 * encoder_flops(VJEPAConfig(), 16, 384)
    assert result.ratio == pytest.approx(result.value / result.parts["prefill"])


def test_parameters_are_those_of_a_module_with_memory() -> None:
    built = GazeResampler(ResamplerConfig(), GazeEncodingConfig(), feature_dim=768, hidden_dim=3584, n_layers=28)
    result = parameters_7b("parameters", ResamplerConfig())
    assert result.value == sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    assert result.parts["output_projection"] + result.parts["trunk"] == result.value
    assert result.parts["published_module"] == 10_807_324  # the count of the released checkpoint: 10.8 million
