"""From the embedded model's parts to a folder that loads, and its stage one on worlds, at toy size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.evidence import training as evidence_training
from benchmarks.evidence.plan import FULL
from benchmarks.tiny import assemble, ship, stage_one
from benchmarks.tiny.__main__ import Stage, make, stages
from benchmarks.tiny.world_source import WorldSource
from gazeqwen import GazeQwen
from gazeqwen.checkpoint import load_arm
from gazeqwen.errors import InputError
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm
from gazeqwen.vjepa_encoder import VJEPA21


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the three trainings would leave, of other random weights than the embedded model's own."""
    folder = tmp_path_factory.mktemp("parts")
    weights = {name: tensor.clone() for name, tensor in build_tiny_vlm(seed=11).state_dict().items()}
    language = {name: tensor for name, tensor in weights.items() if ".visual." not in name and name != "lm_head.weight"}
    save_file(language, folder / "language.safetensors")
    tower = {name.removeprefix("model.visual."): tensor for name, tensor in weights.items() if ".visual." in name}
    torch.save(tower, folder / "visual.pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        save_file(VJEPA21(TINY_CONFIG.features.vjepa).state_dict(), folder / "vjepa.safetensors")
    return folder


def flags(parts: Path) -> list[str]:
    files = {"language": "language.safetensors", "visual": "visual.pt", "vjepa": "vjepa.safetensors"}
    return [word for name, file in files.items() for word in (f"--{name}", str(parts / file))]


@pytest.fixture(scope="module")
def model(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "tiny"
    assert assemble.main([*flags(parts), "--out", str(out)]) == 0
    return out


def test_the_folder_holds_the_parts_in_float16(parts: Path, model: Path) -> None:
    loaded = GazeQwen.from_pretrained(model)
    assert "small synthetic world" in loaded.config.trained
    wanted = build_tiny_vlm(seed=11).state_dict()
    found = loaded.vlm.state_dict()
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor.half().float()), name


def test_a_missing_part_is_one_line(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = flags(parts)
    words[words.index("--visual") + 1] = str(tmp_path / "absent.pt")
    assert assemble.main([*words, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "absent.pt" in told and not (tmp_path / "out").exists()


def test_stage_one_trains_arms_on_worlds(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the command, two worlds, two steps; the model it writes loads, as does the other arm's."""

    def short(seeds: range, **options: object) -> WorldSource:
        return WorldSource(seeds, **(options | {"per_task": 1, "duration_s": 8.0}))  # type: ignore[arg-type]

    monkeypatch.setattr(evidence_training, "WorldSource", short)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    words = ["--model", str(model), "--out", str(tmp_path), "--worlds", "2", "--validation-worlds", "1", "--steps", "2"]
    assert stage_one.main([*words, "--fill", "1"]) == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "worlds").rglob("*.safetensors")}
    assert len([path for path in made if "frozen" in path.name]) == 3
    assert stage_one.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing is made twice
    trained = tmp_path / "inject" / "model"
    told = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    assert all(f"mini-{seeds[0]}.mp4" in json.dumps(told) for seeds in (FULL.training_seeds, FULL.validation_seeds))
    before, after = (GazeQwen.from_pretrained(folder) for folder in (model, trained))
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed and all(name.startswith("resampler.") for name in changed)
    assert stage_one.main([*words, "--arm", "null"]) == 0
    null = load_arm(GazeQwen.from_pretrained(tmp_path / "null" / "model"), None, "null")
    assert null.arm_weights == "null"


def test_what_ships_is_small_and_answers_as_it_is_stored(model: Path, tmp_path: Path) -> None:
    """Both arms' weights in float16; loaded and saved again they are the same, and so is what they answer."""
    null = tmp_path / "null"
    null.mkdir()
    moved = GazeQwen.from_pretrained(model)
    torch.nn.init.normal_(moved.resampler.to_hidden.weight, std=0.01)  # type: ignore[union-attr]
    moved.save_pretrained(tmp_path / "inject")
    weights = {f"resampler.{name}": tensor + 0.01 for name, tensor in moved.resampler.state_dict().items()}
    save_file(weights, null / "model.safetensors")
    words = ["--inject", str(tmp_path / "inject"), "--null", str(null), "--out", str(tmp_path / "tiny")]
    assert ship.main(words) == 0
    out = tmp_path / "tiny"
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 8_000_000
    for path in out.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}, path
    shipped = GazeQwen.from_pretrained(out)
    assert (shipped.config.name, shipped.config.trained) == ("tiny", "small synthetic world")
    again = GazeQwen.from_pretrained(shipped.save_pretrained(tmp_path / "again"))
    for name, tensor in shipped.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    other = load_arm(GazeQwen.from_pretrained(out), None, "null")
    key = "to_hidden.weight"
    expected = weights[f"resampler.{key}"].half().float()
    assert torch.equal(other.resampler.state_dict()[key], expected)
    assert ship.main(words) == 0  # again, over what it wrote
    (out / "notes.txt").write_text("mine")
    assert ship.main(words) == 2 and (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    (null / "model.safetensors").write_bytes(b"no weights")
    assert ship.main(words) == 2 and GazeQwen.from_pretrained(out).config.name == "tiny"


def test_stage_one_without_a_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage_one.main(["--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- all of them in order ---------------------------------------------------------------------------------------------


class Toy(Stage):
    """Writes when it began and ended, and fails if told to."""

    @property
    def command(self) -> list[str]:
        told = (
            "import pathlib,sys,time; p=pathlib.Path(sys.argv[1]); p.open('a').write('+'+sys.argv[2]); time.sleep(.3)"
        )
        ends = "p.open('a').write('-'+sys.argv[2]); sys.exit('no luck' if sys.argv[3]=='fails' else 0)"
        return [sys.executable, "-c", f"{told}; {ends}", self.flags[0], self.name, self.flags[1]]


def toys(path: Path, *, failing: str = "") -> list[Stage]:
    plan = {"a": (), "b": (), "c": ("a",), "d": ("b", "c")}
    return [Toy(name, "", (str(path), "fails" if name == failing else ""), after) for name, after in plan.items()]


def test_stages_come_after_what_they_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "work", toys(tmp_path / "told"))
    told = (tmp_path / "told").read_text()
    assert told.index("-a") < told.index("+c") and told.index("-c") < told.index("+d") > told.index("-b")
    assert told.index("+b") < told.index("-a")  # two side by side
    assert capsys.readouterr().out.count("done in") == 4


def test_a_stage_that_fails_ends_it_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmarks\.tiny c: .*found no luck"):
        make(tmp_path / "work", toys(tmp_path / "told", failing="c"))
    assert "+d" not in (tmp_path / "told").read_text()


def test_every_stage_is_a_command_with_these_flags(tmp_path: Path) -> None:
    """Each names a module that knows its flags, and only stages before it."""
    known: set[str] = set()
    for stage in stages(tmp_path, seed=3):
        assert known.issuperset(stage.after)
        known.add(stage.name)
        module = importlib.import_module(f"benchmarks.tiny.{stage.module}")
        with pytest.raises(SystemExit) as stopped:
            module.main([*stage.flags, "--help"])
        assert stopped.value.code == 0
        with pytest.raises(SystemExit) as stopped:
            module.main([*stage.flags, "--no-such-flag"])
        assert stopped.value.code == 2
