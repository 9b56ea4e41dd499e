"""Settings of training: YAML, --set, errors that list what is known, and what makes two runs the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny import TINY_CONFIG
from gazeqwen.train.config import TrainConfig, apply_overrides, dump_config, load_config

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_says_its_command_and_is_understood(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# gazeqwen train --config configs/") or "eval" in path.name
    if "eval" not in path.name:
        assert f"--config configs/{path.name}" in first
        load_config(path)


def test_there_are_configs() -> None:
    names = {path.name for path in CONFIGS}
    wanted = ["stage1", "stage2", "joint", "repro_7b_stage1", "repro_7b_stage2", "repro_7b_joint", "repro_7b_eval"]
    assert {f"{name}.yaml" for name in wanted} <= names


def test_the_accelerate_configs_are_yaml_with_what_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = Path(__file__).resolve().parents[1] / "configs" / "accelerate"
    types = {}
    for path in sorted(folder.glob("*.yaml")):
        read = load_config_from_file(str(path))  # raises for keys that accelerate does not know
        types[path.stem] = str(read.distributed_type).split(".")[-1]
        assert path.read_text(encoding="utf-8").startswith("# accelerate launch --config_file configs/accelerate/")
    assert types == {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "multi_node": "MULTI_GPU"}


def test_settings_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("steps: 5\noptimizer: {lr: 1e-3, betas: [0.9, 0.99]}\nlosses:\n- {name: choice, weight: 2}\n")
    config = load_config(path, ["optimizer.lr=3e-4", "data.train=here", "forms={likelihood: 1}", "trackers=[]"])
    assert config.steps == 5 and config.optimizer.lr == 3e-4 and config.optimizer.betas == (0.9, 0.99)
    assert config.data.train == "here" and config.forms == {"likelihood": 1} and config.trackers == ()
    assert config.losses[0].weight == 2 and config.optimizer.clip_norm == 1.0
    assert load_config(None).steps == 0


@given(
    lr=st.floats(1e-6, 1.0),
    steps=st.integers(1, 10**6),
    weights=st.dictionaries(st.sampled_from(["letters", "likelihood", "text"]), st.floats(0.1, 9), min_size=1),
    tasks=st.lists(st.sampled_from(["SR", "OTP"]), max_size=2),
)
def test_what_is_dumped_is_read_back(lr: float, steps: int, weights: dict[str, float], tasks: list[str]) -> None:
    config = TrainConfig.from_dict(
        {"optimizer": {"lr": lr}, "steps": steps, "forms": weights, "data": {"tasks": tasks}, "model": {"dtype": None}}
    )
    assert TrainConfig.from_dict(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["optimiser.lr=1"], "unknown keys ['optimiser']; known keys are"),
        (["optimizer.rate=1"], "unknown keys ['rate']; known keys are ['betas', 'clip_norm'"),
        (["losses=[{nam: choice}]"], "unknown keys ['nam']; known keys are ['name'"),
        (["steps=abc"], "TrainConfig.steps: expected int, found 'abc'"),
        (["optimizer.lr=0"], "optimizer.lr, lora_lr: finite, > 0"),
        (["optimizer.lr=.inf"], "finite, > 0"),
        (["losses=[{name: choice, weight: .nan}]"], "losses: finite weights"),
        (["losses=[{name: choice}]", "forms={letters: 1, text: 1}"], "forms text: no loss of choice counts them"),
        (["losses=[{name: answer}]"], "forms letters: no loss of answer counts them"),
        (["arm=marker-trained", "train=lora", "null_gaze=0.1"], "draws gaze on the frames, where they do nothing"),
        (["arm=shuffled"], "is not trained; trained arms are inject, null"),
        (["arm=oracle"], "is not trained"),
        (["arm=nobody"], "unknown arm 'nobody'"),
        (["arm=blind"], "has no resampler, use lora"),
        (["train=lora"], "set init_from to its folder"),
        (["init_from=x"], "init_from goes with train=lora"),
        (["forms={letter: 1}"], "unknown names ['letter']"),
        (["forms={letters: 0}"], "forms: weights >= 0"),
        (["lora.targets=conv"], "matches none of q_proj"),
        (["lora.targets=("], "a regular expression"),
        (["eval_arms=[no-features]"], "does not answer with weights of arm 'inject'"),
        (["model.overrides={size: 1}"], "model.overrides: unknown keys ['size']"),
        (["epochs=0"], "steps or epochs"),
        (["null_gaze=1.5"], "null_gaze: in [0, 1]"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, settings)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_numbers_as_yaml_misses_them() -> None:
    written = ["optimizer.lora_lr=3e-4", "losses=[{name: choice, params: {label_smoothing: 1e-1}}]"]
    config = load_config(None, written)
    assert config.optimizer.lora_lr == 3e-4 and config.losses[0].params == {"label_smoothing": 0.1}


@pytest.mark.parametrize("text", ["steps", "=1", "a..b=1", ".a=1", "optimizer.lr={", "seed.x.y=1"])
def test_a_setting_that_is_none(text: str) -> None:
    base = ["seed=3"] if text.startswith("seed") else []
    with pytest.raises(InputError, match="--set"):
        load_config(None, [*base, text])


@pytest.mark.parametrize("content", ["- 1\n", "a: [\n", "\x00"])
def test_a_file_that_is_no_config(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_config(path)
    with pytest.raises(InputError, match="nothing"):
        load_config(tmp_path / "nothing.yaml")


def test_the_file_is_named_where_its_keys_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("stage: 1\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: TrainConfig: unknown keys \['stage'\]"):
        load_config(path)


def test_a_run_may_go_on_with_other_folders_and_not_with_another_rate() -> None:
    base = load_config(None)
    free = load_config(None, ["out=b", "max_keep=9", "data.cache=c", "accumulation=4", "trackers=[]", "log_every=1"])
    assert free.identity() == base.identity()
    dropped = ["lora.dropout=0.1", "accumulation=4"]  # each forward draws its own
    assert load_config(None, dropped).identity() != load_config(None, dropped[:1]).identity()
    for changed in ("optimizer.lr=1", "seed=1", "data.train=d", "forms={text: 1}", "batch_videos=8"):
        assert load_config(None, [changed]).identity() != base.identity()


def test_lora_targets_are_of_the_language_model_only() -> None:
    import re

    config = load_config(None, ["lora.targets=.*_proj"])
    hit = re.compile(config.lora.pattern).fullmatch
    assert hit("model.language_model.layers.0.self_attn.q_proj") and hit("model.language_model.layers.3.mlp.up_proj")
    assert not hit("model.visual.blocks.0.mlp.up_proj") and not hit("lm_head")
    assert not re.fullmatch(load_config(None).lora.pattern, "model.language_model.layers.0.self_attn.k_proj")


def test_overrides_of_the_models_config() -> None:
    changed = apply_overrides(TINY_CONFIG, {"resampler": {"latents": 4, "layers": [0.5]}, "fps": 1.0})
    assert changed.resampler.latents == 4 and changed.resampler.layers == (0.5,) and changed.fps == 1.0
    assert changed.features == TINY_CONFIG.features and changed.resampler.dim == TINY_CONFIG.resampler.dim
    assert apply_overrides(TINY_CONFIG, {}) is TINY_CONFIG
    with pytest.raises(ConfigError, match="unknown keys"):
        apply_overrides(TINY_CONFIG, {"resampler": {"widths": 1}})
