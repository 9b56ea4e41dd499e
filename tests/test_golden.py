"""The golden numbers where they are, and the runner itself on small folders made here."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tests.golden as golden
from tests.conftest import shared_dir
from tests.golden.__main__ import main
from tests.golden.io import load, max_error

# Qwen's own answers for two frame sizes, and the 16 frames of a 17-frame clip: sections small enough to write here.
RESIZE = [[480, 640, 28, 3136, 1003520, [476, 644]], [70, 70, 28, 3136, 12845056, [56, 56]]]
INDICES = {"17": [*range(15), 16], "2": [0] + [1] * 15}


@pytest.mark.parametrize("section", golden.covered())
def test_section(section: str) -> None:
    folder = shared_dir("golden")
    if section not in golden.found_in(folder):
        pytest.skip(f"section {section} absent from {folder.name}")
    result = golden.run_section(section, folder)
    assert result.ok, result.line


def write(folder: Path, name: str, record: object) -> None:
    (folder / name).write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good sections and files that belong to none."""
    write(tmp_path, "05d_smart_resize.json", {"table": RESIZE})
    write(tmp_path, "04c_indices.json", {"indices_by_n_frames": INDICES})
    (tmp_path / "README.md").write_text("no section")
    (tmp_path / "CHECKSUMS").write_text("no section")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().out.splitlines()


def test_good_sections_pass_and_name_the_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, folder)
    assert code == 0
    assert lines == [
        "04c: 0 / 0: ok  (gazeqwen.vjepa.official_frame_indices)",
        "05d: 0 / 0: ok  (gazeqwen.preprocess.smart_resize)",
    ]


def test_a_wrong_number_fails_with_its_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "05d_smart_resize.json", {"table": [RESIZE[0], [70, 70, 28, 3136, 12845056, [56, 84]]]})
    code, lines = run(capsys, folder)
    assert code == 1 and "05d: 28 / 0: FAIL" in lines[1] and "04c: 0 / 0: ok" in lines[0]


def test_an_error_of_the_reference_must_be_ours_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "05d_smart_resize.json", {"table": [[10, 2010, 28, 3136, 10**6, "ValueError: aspect ratio"]]})
    assert run(capsys, folder)[0] == 0
    for wrong in ([100, 100, 28, 3136, 10**6, "ValueError"], [10, 2010, 28, 3136, 10**6, [56, 56]]):
        write(folder, "05d_smart_resize.json", {"table": [wrong]})
        code, lines = run(capsys, folder)
        assert code == 1 and "05d: inf / 0: FAIL" in lines[1]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"table": [[1, ', b"[]", b"{}", b'{"table": []}', b'{"table": [[1, 2]]}', b"\xff\xfe\x00", b"nul"],
)
def test_a_damaged_file_fails_its_section_in_one_line_and_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (folder / "05d_smart_resize.json").write_bytes(content)
    code, lines = run(capsys, folder)
    assert code == 1 and len(lines) == 2
    assert "04c: 0 / 0: ok" in lines[0] and lines[1].startswith("05d: FAIL: ")


def test_a_section_without_a_check_is_listed_and_fails_only_when_required(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "99z_something.json", {})
    code, lines = run(capsys, folder)
    assert code == 0 and lines[-1] == "99z: not covered"
    code, lines = run(capsys, folder, "--require", "04c,99z")
    assert code == 1 and lines[-1] == "99z: not covered: FAIL (required)"


def test_a_required_section_must_be_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, folder, "--require", "04c,05d")[0] == 0
    code, lines = run(capsys, folder, "--require", "04c,06")
    assert code == 1 and lines[-1].startswith("06: no such section")


def test_a_folder_that_is_none_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "absent")])
    assert stop.value.code == 2 and "absent" in capsys.readouterr().err


def test_tensors_must_be_there_and_have_the_shapes_that_the_json_lists(tmp_path: Path) -> None:
    about = {"tensors": {"x": {"shape": [2, 3]}}}
    write(tmp_path, "50_a.json", about)
    for tensors in ({"x": torch.zeros(3, 2)}, {"y": torch.zeros(2, 3)}):
        save_file(tensors, tmp_path / "50_a.safetensors")
        with pytest.raises(ValueError, match=r"50_a.safetensors: expected x of shape \[2, 3\]"):
            load(tmp_path, "50")
    save_file({"x": torch.zeros(2, 3)}, tmp_path / "50_a.safetensors")
    (pair,) = load(tmp_path, "50")
    assert pair.tensor("x").shape == (2, 3)
    (tmp_path / "50_a.safetensors").write_bytes((tmp_path / "50_a.safetensors").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"50_a\.safetensors"):
        load(tmp_path, "50")
    (tmp_path / "50_a.json").unlink()
    with pytest.raises(ValueError, match="50_"):
        load(tmp_path, "50")


def test_numbers_that_are_none_are_never_a_pass() -> None:
    assert max_error([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert max_error([1.0], [[1.0]]) == math.inf
    assert max_error([math.nan], [math.nan]) == math.inf
    assert max_error([math.nan], [0.0]) == math.inf
    assert not golden.Result("x", "f", math.nan, 1.0).ok and not golden.Result("x", "f", None, None).ok


def test_every_check_names_a_public_function_that_exists() -> None:
    for section in golden.covered():
        module = importlib.import_module(f"tests.golden.section_{section}")
        assert section == module.SECTION
        assert "._" not in module.FUNCTION and callable(pkgutil.resolve_name(module.FUNCTION))
