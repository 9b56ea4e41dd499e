"""The README and the docs say what the program does: their blocks are run, their figures and flags compared."""

from __future__ import annotations

import csv
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.gaze_target.__main__ import main as gaze_target_benchmark
from benchmarks.tiny.__main__ import stages
from gazeqwen.arguments import GAZE_FLAGS, build_parser
from gazeqwen.cli import COMMANDS, main
from gazeqwen.info import fit
from gazeqwen.tiny.scene import render
from stream.trackers import FORMATS
from stream.trackers.plain_csv import gaze_csv
from stream.video import write_clip

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
SIZE_PX = (160, 120)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(page: str) -> Iterator[list[str]]:
    """The gazeqwen commands of a page's bash blocks, as argument lists."""
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "gazeqwen":
                yield words[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name."""
    folder = tmp_path_factory.mktemp("readme")
    scene = render(7, duration_s=4.0, size_px=SIZE_PX)
    write_clip(folder / "clip.mp4", (image for _, image in scene.frames()), fps=scene.fps)
    (folder / "gaze.csv").write_text(gaze_csv(scene.gaze), encoding="utf-8")
    (folder / "VIDEO.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    (folder / "RECORDING").write_bytes((folder / "gaze.csv").read_bytes())
    header, *rows = csv.reader((folder / "gaze.csv").read_text().splitlines())
    pixels = [[t, f"{float(x) * SIZE_PX[0]}", f"{float(y) * SIZE_PX[1]}", v] for t, x, y, v in rows if x]
    with (folder / "pixels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *pixels])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["time", "gx", "gy"], *([float(t) * 1000, x, y] for t, x, y, _ in pixels)])
    return folder


@pytest.mark.parametrize(
    ("page", "arguments"), [(page, arguments) for page in PAGES for arguments in commands(page)], ids=str
)
def test_commands_run_as_they_are_written(
    page: str,
    arguments: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main(arguments) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert shown and all(len(line) <= 80 for line in shown.splitlines())
    assert "SUSPICION" not in shown
    if "--out" in arguments:
        out = folder / arguments[arguments.index("--out") + 1]
        assert any(out.iterdir()) if out.is_dir() else out.stat().st_size > 0


def test_the_readme_has_commands_and_python_to_run() -> None:
    assert {words[0] for words in commands("README.md")} >= {"ask", "gaze", "info", "data", "eval", "report"}
    assert len(blocks("README.md", "python")) >= 1


@pytest.mark.parametrize("code", [block for page in PAGES for block in blocks(page, "python")])
def test_python_runs_as_it_is_written(
    code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.split()[0] in ("A", "B", "C", "D")


def test_flags_of_the_pages_exist() -> None:
    parser = build_parser().format_help()
    for name in COMMANDS:
        parser += _help(main, *name.split())
    for module in {stage.module for stage in stages(Path(), seed=0)}:
        parser += _help(importlib.import_module(f"benchmarks.tiny.{module}").main)
    parser += _help(gaze_target_benchmark)
    known = set(re.findall(r"--[a-z][\w-]+", parser)) | {"--no-clips"}  # the lmms-eval plug-in's own
    others = {"--system-site-packages", "--extra-index-url"}  # of venv and pip
    others |= {"--num_processes"}  # of accelerate launch
    others |= {"--model_args", "--include_path"}  # of lmms-eval
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) <= known | others, page
    assert set(GAZE_FLAGS.values()) <= set(re.findall(r"--[a-z][\w-]+", (ROOT / "docs/gaze_formats.md").read_text()))


def _help(main: Callable[[list[str]], int], *words: str) -> str:
    import contextlib
    import io

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return shown.getvalue()


def test_every_format_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/gaze_formats.md").read_text(), re.MULTILINE)
    assert rows == list(FORMATS)


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_the_table_of_models_is_what_info_computes(size: str) -> None:
    line = re.search(rf"^\| Qwen2.5-VL-{size}-Instruct \|.*$", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    assert line is not None
    cells = [cell.strip() for cell in line[0].strip("|").split("|")]
    report = fit(f"Qwen/Qwen2.5-VL-{size}-Instruct")
    assert cells[1] == f"{report['parameters'] / 1e9:.2f} G"
    for cell, kind in zip(cells[2:5], ("fp16", "int8", "nf4"), strict=True):
        assert float(cell.removesuffix(" GiB")) == pytest.approx(report["weights_gib"][kind], abs=0.051)
    assert cells[5] == "{:g}-{:g} MiB".format(*report["kv_mib_per_step"])


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_no_page_names_a_machine_or_an_index_of_packages() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|home|root|tmp)/|https?://[^\s)]*(simple|whl)", text), page
