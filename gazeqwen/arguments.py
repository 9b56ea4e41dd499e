"""What the `gazeqwen` command accepts: commands, flags and their values. What they do is in `cli.py`.

Bad usage is one line on stderr and exit code 2. Flags are never abbreviated, so that a script keeps its meaning when a
release adds a flag. Nothing heavy is imported here: `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NoReturn

from gazeqwen._version import __version__
from gazeqwen.arguments_gaze_target import add_gaze_target
from gazeqwen.arguments_streamgaze import add_commands
from gazeqwen.arguments_train import add_train

HELP_WIDTH = 80
ROLES = ("t", "x", "y", "valid", "confidence")


class Parser(argparse.ArgumentParser):
    """argparse with whole flags only, 80 columns, and errors of one line."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see `{self.prog} --help`)\n")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=HELP_WIDTH)


def build_parser() -> Parser:
    """Every command and flag. The parsed namespace names its command in `command`."""
    parser = Parser(prog="gazeqwen", description="Ask an egocentric video what its wearer sees and looks at.")
    parser.add_argument("--version", action="version", version=f"gazeqwen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    text = "answer a question about a recording, with the evidence"
    ask = commands.add_parser("ask", help=text, description=f"{text[0].upper()}{text[1:]}.")
    ask.add_argument("video", metavar="VIDEO", help="any file that FFmpeg reads")
    _gaze_flags(ask, required=False)
    ask.add_argument("--question", "-q", required=True, metavar="Q", help="what is asked")
    ask.add_argument("--options", nargs="+", default=[], metavar="OPTION", help="2 to 26 answers to choose from")
    ask.add_argument("--scoring", choices=("letters", "likelihood"), default="letters", help="how options are compared")
    ask.add_argument("--at", type=_seconds, metavar="T", help="the question's time in s (default: end of the video)")
    ask.add_argument("--fps", type=_positive, metavar="F", help="Qwen's frames a second (default: the model's, 2)")
    ask.add_argument("--window-s", type=_positive, metavar="S", help="see only the last S seconds (default: all)")
    ask.add_argument(
        "--arm",
        default="inject",
        metavar="NAME",
        help="how gaze reaches the model: inject (default), none, null, center, lagged, text, marker, heatmap, blind; "
        "or marker-trained, no-features, skip-only where the model's folder has them",
    )
    ask.add_argument(
        "--detector",
        metavar="NAME",
        help="fixations by device, file, ivt or streamgaze (default: the file's or ivt)",
    )
    ask.add_argument(
        "--detector-parameters",
        type=_parameters,
        metavar="NAME=VALUE,...",
        help="of the detector, e.g. radius_norm=0.05 for streamgaze",
    )
    ask.add_argument("--max-new-tokens", type=_count, default=64, metavar="N", help="length of a free-text answer")
    _model_flags(ask)
    ask.add_argument("--json", action="store_true", help="one JSON object on stdout")
    ask.set_defaults(command="ask")

    gaze = commands.add_parser("gaze", help="look at a gaze file", description="Look at a gaze file.")
    gaze_commands = gaze.add_subparsers(metavar="COMMAND", required=True)
    text = "does this gaze belong to this video: numbers, suspicions, an overlay"
    check = gaze_commands.add_parser("check", help=text, description=f"{text[0].upper()}{text[1:]}.")
    check.add_argument("video", metavar="VIDEO", help="any file that FFmpeg reads")
    _gaze_flags(check, required=True)
    check.add_argument("--out", type=Path, metavar="OVERLAY.mp4", help="write the video with gaze and fixations drawn")
    check.add_argument("--json", action="store_true", help="one JSON object on stdout")
    check.set_defaults(command="gaze check")

    add_gaze_target(commands, positive=_positive)

    text = "this machine, a recording, or whether a model fits"
    info = commands.add_parser("info", help=text, description=f"{text[0].upper()}{text[1:]}.")
    info.add_argument("path", nargs="?", metavar="PATH", help="a video, a gaze file or a recording folder")
    info.add_argument("--model", metavar="ID", help="'tiny', a model folder, or a published Qwen2.5-VL id")
    _reading_flags(info.add_argument_group("gaze", "How to read a PATH that does not say it itself."))
    info.add_argument("--json", action="store_true", help="one JSON object on stdout")
    info.set_defaults(command="info")

    text = "others' weights to this project's form"
    convert = commands.add_parser("convert", help=text, description=f"Convert {text}.")
    kinds = convert.add_subparsers(metavar="KIND", required=True)
    text = "the published GazeQwen checkpoint"
    official = kinds.add_parser("official", help=text, description=f"Convert {text} to a folder that --model takes.")
    official.add_argument("checkpoint", type=Path, metavar="best_model.pt")
    official.add_argument(
        "--base", required=True, metavar="ID", help="the Qwen2.5-VL it was trained on: folder or hub id"
    )
    official.add_argument("--vjepa", required=True, type=Path, metavar="FILE", help="V-JEPA 2.1 B weights")
    official.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    official.add_argument(
        "--flat", choices=("refuse", "copy"), default="refuse", help="of a file in the older one-module layout"
    )
    official.set_defaults(command="convert official")
    text = "a V-JEPA 2.1 .pt file to safetensors"
    vjepa = kinds.add_parser("vjepa", help=text, description=f"Convert {text}.")
    vjepa.add_argument("checkpoint", type=Path, metavar="FILE.pt")
    vjepa.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    vjepa.set_defaults(command="convert vjepa")

    text = "render a clip, ask about it with gaze, without and with another's"
    demo = commands.add_parser("demo", help=text, description=f"{text[0].upper()}{text[1:]}.")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), metavar="DIR", help="default: demo_out")
    demo.add_argument("--seed", type=_seed, default=0, help="of the rendered clip, below 1,000,000 (default: 0)")
    demo.set_defaults(command="demo")

    add_train(commands, count=_count)
    text = "every control arm on the embedded model and its small world, in one table"
    evidence = commands.add_parser("evidence", help=text, description=f"{text[0].upper()}{text[1:]}.")
    evidence.add_argument("--out", required=True, type=Path, metavar="DIR", help="an unfinished one goes on")
    evidence.add_argument("--quick", action="store_true", help="none, null, inject and shuffled; nothing is trained")
    evidence.add_argument(
        "--until", choices=("choices",), default="", help="stop when learning rates are chosen, before any test world"
    )
    evidence.add_argument("--recheck", type=_count, metavar="N", help="answer N samples of each arm again, and compare")
    evidence.add_argument("--model", default="tiny", metavar="DIR", help="a folder like the embedded model (tiny)")
    evidence.add_argument("--processes", type=_count, default=2, metavar="N", help="side by side (default: 2)")
    evidence.add_argument("--json", action="store_true", help="one JSON object on stdout")
    evidence.set_defaults(command="evidence")
    add_commands(commands, model_flags=_model_flags, types={"count": _count, "seed": _seed})

    app = commands.add_parser("app", help="the live page (not in this release yet)")
    app.set_defaults(command="app")
    return parser


# Flags that say how a gaze file is to be read: by the name that `open_recording` has for them.
GAZE_FLAGS = {
    "format": "--format",
    "gaze_offset_s": "--gaze-offset-s",
    "y_origin": "--y-origin",
    "frame_size_px": "--frame-size",
    "calibration": "--calibration",
    "min_confidence": "--min-confidence",
    "columns": "--columns",
    "time_unit": "--time-unit",
    "xy_unit": "--xy-unit",
}


def _gaze_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    group = parser.add_argument_group("gaze", "Only --gaze is needed where the file says the rest.")
    group.add_argument("--gaze", required=required, type=Path, metavar="F", help="the tracker's file or folder")
    _reading_flags(group)


def _reading_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--format", metavar="NAME", help="the tracker's format (default: recognised by content)")
    group.add_argument(
        "--gaze-offset-s",
        "--offset-s",
        dest="gaze_offset_s",
        type=_seconds,
        metavar="S",
        help="added to every gaze time",
    )
    group.add_argument("--y-origin", choices=("top", "bottom"), help="where y = 0 is, when the file does not say")
    group.add_argument(
        "--frame-size", dest="frame_size_px", type=_size, metavar="WxH", help="the frame that gaze pixels refer to"
    )
    group.add_argument("--calibration", type=Path, metavar="PATH", help="Aria calibration, HoloAssist folder")
    group.add_argument("--min-confidence", type=_share, metavar="C", help="gaze below it is not valid (0 to 1)")
    group.add_argument(
        "--columns", type=_columns, metavar="t=A,x=B,y=C", help="plain CSV: which column is which (also valid=)"
    )
    group.add_argument("--time-unit", choices=("s", "ms", "us", "ns"), help="plain CSV: unit of the time column")
    group.add_argument("--xy-unit", choices=("norm", "px"), help="plain CSV: unit of the coordinates")


def _model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="tiny", metavar="ID", help="'tiny' (default), a model folder or a hub id")
    group.add_argument("--quantization", choices=("nf4", "int8"), help="of the backbone, by bitsandbytes")
    group.add_argument("--device", metavar="DEVICE", help="cuda, cpu, ... (default: cuda when there is one)")
    group.add_argument("--vjepa", type=Path, metavar="FILE", help="V-JEPA 2.1 weights, over what the model names")
    group.add_argument("--offline", action="store_true", help="never ask the hub")


# -- values ------------------------------------------------------------------------------------------------------------


def _number(text: str, expected: str, *, above: float = -math.inf, most: float = math.inf) -> float:
    """A finite number in (above, most]."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and above < value <= most):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return value


def _seconds(text: str) -> float:
    return _number(text, "seconds")


def _positive(text: str) -> float:
    return _number(text, "a number above 0", above=0.0)


def _share(text: str) -> float:
    return _number(text, "a number from 0 to 1", above=-1e-300, most=1.0)


def _whole(text: str, expected: str, *, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, "a whole number of at least 1", least=1)


def _seed(text: str) -> int:
    return _whole(text, "a whole number of at least 0", least=0)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels, found {text!r}")
    return int(parts[0]), int(parts[1])


def _pairs(text: str, example: str) -> list[tuple[str, str]]:
    """name=value pairs between commas, each name once."""
    pairs = [(name.strip(), value) for name, _, value in (item.partition("=") for item in text.split(","))]
    if not all(name and value for name, value in pairs) or len({name for name, _ in pairs}) < len(pairs):
        raise argparse.ArgumentTypeError(f"expected pairs such as {example}, each name once, found {text!r}")
    return pairs


def _parameters(text: str) -> dict[str, float | int | str]:
    """Numbers where they read as such; what a detector takes is the detector's to say."""

    def value(shown: str) -> float | int | str:
        for kind in (int, float):
            try:
                return kind(shown)
            except ValueError:
                continue
        return shown

    return {name: value(shown) for name, shown in _pairs(text, "radius_norm=0.05,min_duration_s=0.1")}


def _columns(text: str) -> dict[str, str]:
    pairs = dict(_pairs(text, "t=time,x=gx,y=gy"))
    unknown = sorted(set(pairs) - set(ROLES))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected the roles {', '.join(ROLES)}, found {unknown[0]!r}")
    return pairs
