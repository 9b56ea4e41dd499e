"""`gazeqwen`: ask, gaze check, gaze-target, info, convert, demo, train, app. Joins the rooms; everything it does is a
library call.

Results go to stdout; progress, notes and warnings to stderr. Bad input ends with exit code 2 and one line, never a
traceback. With --json stdout holds one JSON object and nothing else. Flags: `arguments.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gazeqwen.arguments import GAZE_FLAGS, build_parser
from gazeqwen.arguments_file import with_file
from gazeqwen.errors import GazeQwenError, InputError
from gazeqwen.types import plain_json

if TYPE_CHECKING:
    from gazeqwen import Answer
    from stream.recording import Recording

APP_NOTICE = "gazeqwen app: the live page is not part of this release yet; use `gazeqwen ask` on a recording"
WIDTH = 80
SHOWN_FIXATIONS = 6
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a program ends with that does not handle it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 2 for bad input or usage, 130 interrupted, 141 reader gone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path or a label that the terminal can't show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # FFmpeg's own lines: what matters of them is in our errors
    try:
        arguments = build_parser().parse_args(with_file(sys.argv[1:] if argv is None else argv))
        code = COMMANDS[arguments.command](arguments)
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
        return code
    except GazeQwenError as error:
        return _failed(_as_flags(str(error)))
    except BrokenPipeError:
        # `| head` has seen enough. What is still buffered goes nowhere, or Python would complain at its end.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # a full disk, a folder without permission: no bug of ours, so one line too
        return _failed(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except KeyboardInterrupt:
        print("gazeqwen: interrupted", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    print("gazeqwen: error:", " ".join(message.split()), file=sys.stderr)
    return 2


_KEYWORDS = {
    **GAZE_FLAGS,
    "offset_s": "--gaze-offset-s",
    **{name: f"--{name}" for name in ("fps", "options", "quantization", "question", "vjepa")},
}


def _as_flags(message: str) -> str:
    """The library's errors name arguments of Python (`y_origin=`, or `fps: ...`); here they are flags."""
    argument, colon, rest = message.partition(": ")
    message = f"{_KEYWORDS.get(argument, argument)}{colon}{rest}"
    message = re.sub(r"columns=\{(.*?)\}", lambda found: f"--columns {_pairs(found[1])}", message)
    message = message.replace("frame_size_px=(width, height), on the command line ", "")
    message = re.sub(
        rf"(?<![\w-])({'|'.join(_KEYWORDS)})=(\S?)",
        lambda found: _KEYWORDS[found[1]] + (f" {found[2]}" if re.match(r"[\w']", found[2]) else found[2]),
        message,
    )
    return re.sub(r"(--[\w-]+) \(\1\)", r"\1", message)


def _pairs(shown: str) -> str:
    """The inside of a shown dictionary as --columns takes it: 'x': 'gx', 'y': ... -> x=gx,y=NAME."""
    pairs = re.findall(r"'([^']*)': ('[^']*'|\.\.\.)", shown)
    return ",".join(f"{role}={'NAME' if name == '...' else name[1:-1]}" for role, name in pairs)


# -- commands ----------------------------------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace) -> int:
    from gazeqwen.arms import require_one_recording
    from gazeqwen.types import Question

    # Everything that can be wrong with the question is said before a model is loaded for it.
    require_one_recording(arguments.arm)
    for text in (arguments.question, *arguments.options):
        _require_text(text)
    at_s = 0.0 if arguments.at is None else arguments.at
    Question(arguments.question, at_s, tuple(arguments.options))
    recording = _open(arguments)
    until_s = recording.end_s if arguments.at is None else arguments.at
    recording.steps(arguments.fps or 2.0, until_s=until_s)
    with _quiet_libraries():
        answer, trained = _answer(arguments, recording, until_s)
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({**answer.to_dict(), "trained": trained}, allow_nan=False))
    else:
        print(_answer_text(answer, trained=trained))
    return 0


def _answer(arguments: argparse.Namespace, recording: Recording, until_s: float) -> tuple[Answer, str]:
    """The answer, and what the weights are that gave it."""
    from gazeqwen import GazeQwen
    from gazeqwen.checkpoint import load_arm
    from stream.session import StreamSession

    model = GazeQwen.from_pretrained(
        arguments.model,
        quantization=arguments.quantization,
        device=_device(arguments.device),
        vjepa=arguments.vjepa,
        local_files_only=arguments.offline,
    )
    load_arm(model, arguments.model, arguments.arm)
    fps = arguments.fps or model.config.fps
    with _progress("reading", total=math.ceil(until_s * min(fps, recording.info.fps) / 2), unit="step") as advance:
        session = StreamSession.of(
            model,
            recording,
            until_s=until_s,
            fps=fps,
            arm=arguments.arm,
            window_s=arguments.window_s,
            progress=advance,
        )
    if arguments.options:
        answer = session.choose(arguments.question, arguments.options, at_s=until_s, scoring=arguments.scoring)
    else:
        answer = session.answer(arguments.question, at_s=until_s, max_new_tokens=arguments.max_new_tokens)
    return answer, model.config.trained


def _device(name: str | None) -> str | None:
    """The device, if it can hold a tensor here."""
    import torch

    if name is not None:
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [""])[0].split(". ")[0][:120]
            raise InputError("--device", expected="cpu, cuda, cuda:1, ...", found=f"{name!r} ({reason})") from error
    return name


def _answer_text(answer: Answer, *, trained: str) -> str:
    """For a terminal of `WIDTH` columns: the answer, the options, and what it rests on."""
    said = f"{answer.letter}. {answer.text}" if answer.letter else answer.text or "(the model said nothing)"
    lines = ["\n".join(textwrap.fill(line, WIDTH) for line in said.splitlines())]
    for option, logprob in answer.option_logprobs.items():
        share = f"{100 * math.exp(logprob):6.1f} %  "
        lines.append(textwrap.fill(option, WIDTH, initial_indent=share, subsequent_indent=" " * len(share)) or share)
    times, fixations = answer.gaze_times_s, answer.fixations
    if math.isnan(answer.gaze_valid_fraction) and not fixations:
        gaze = "no samples in what the model saw"
    elif not times and not fixations:
        gaze = f"{_share(answer.gaze_valid_fraction)} valid; none reached the model"
    else:
        span = f" ({times[0]:.2f} to {times[-1]:.2f} s)" if times else ""
        gaze = (
            f"{_share(answer.gaze_valid_fraction)} valid; {_count(len(times), 'sample')}{span} and "
            f"{_count(len(fixations), 'fixation')} reached the model; {answer.steps_without_gaze} of "
            f"{_count(answer.steps, 'step')} without"
        )
    rows = [
        ("model", f"{answer.model} ({trained}), arm {answer.arm}, asked at {answer.t_s:.2f} s"),
        (
            "saw",
            f"{_count(len(answer.frame_times_s), 'frame')} in {_count(answer.steps, 'step')}, "
            f"{answer.span_s[0]:.2f} to {answer.span_s[1]:.2f} s",
        ),
        ("gaze", gaze),
    ]
    shown = [
        f"{fixation['start_s']:.2f}-{fixation['stop_s']:.2f} s at ({fixation['x_norm']:.2f}, {fixation['y_norm']:.2f})"
        for fixation in fixations[-SHOWN_FIXATIONS:]
    ]
    if shown:
        newest = f"the last {len(shown)} of {len(fixations)}: " if len(fixations) > len(shown) else ""
        rows.append(("fixations", newest + ", ".join(shown)))
    rows.append(("took", ", ".join(f"{part} {ms:.0f} ms" for part, ms in answer.latency_ms.items())))
    return "\n".join([*lines, _table(rows)])


def _gaze_check(arguments: argparse.Namespace) -> int:
    from stream.gaze_check import check
    from stream.overlay import write_overlay

    recording = _open(arguments)
    assert recording.gaze is not None
    with _seconds_bar("comparing with the scene", recording.end_s) as advance:
        report = check(
            recording.path,
            recording.gaze,
            applied_offset_s=arguments.gaze_offset_s or 0.0,
            applied_y_origin=arguments.y_origin,
            fixations=recording.fixations,
            progress=advance,
        )
    written: dict[str, Any] = {}
    if arguments.out is not None:
        with _seconds_bar("drawing the overlay", recording.end_s) as advance:
            counts = write_overlay(
                recording.path,
                recording.samples,
                recording.fixations,
                arguments.out,
                progress=lambda time_s, _duration_s: advance(time_s),
            )
        written = {"overlay": str(arguments.out), **counts}
    if arguments.json:
        print(json.dumps(plain_json({**report.to_dict(), **written}), allow_nan=False))
        return 0
    print(report.to_text(width=WIDTH))
    if written:
        counted = f"{written['frames']} frames, {written['frames_without_gaze']} without gaze"
        print(_table([("overlay", f"{arguments.out}: {counted}")], least=14))
    return 0


def _gaze_target(arguments: argparse.Namespace) -> int:
    from stream.gaze_targets import Heads, picture_targets, read_picture, require_heads_in, video_targets
    from stream.target_report import report_rows

    # Everything that can be wrong with the files is said before weights are loaded for them.
    path = Path(arguments.path)
    heads = Heads.given(file=arguments.boxes, boxes=arguments.box)
    picture = read_picture(path)
    if picture is None:
        from stream.video import probe

        end_s = probe(path).duration_s
    else:
        end_s = None
        unused = [flag for flag, value in (("--smoothing", arguments.smoothing), ("--fps", arguments.fps)) if value]
        if unused:
            raise InputError(unused[0], expected="a video", found=f"the picture {path.name}")
    require_heads_in(heads, path, end_s=end_s)
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(arguments.out, expected="a folder to write to", found="a file", fix="pass another --out")
    with _quiet_libraries():
        from gazeqwen.gaze_target import GazeTargetEstimator

        estimator = GazeTargetEstimator.from_pretrained(
            arguments.weights,
            arguments.backbone,
            device=_device(arguments.device),
            local_files_only=arguments.offline,
        )
    if picture is not None:
        report = picture_targets(path, picture, estimator, heads, out=arguments.out)
    else:
        with _seconds_bar("looking for gaze targets", end_s or 0.0) as advance:
            report = video_targets(
                path,
                estimator,
                heads,
                smoothing=arguments.smoothing or "none",
                fps=arguments.fps,
                out=arguments.out,
                progress=advance,
            )
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(report, allow_nan=False) if arguments.json else _table(report_rows(report)))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from gazeqwen.info import environment, fit, fit_text

    if arguments.model is not None and arguments.path is not None:
        raise InputError("info", expected="a PATH or --model, not both", found="both")
    if arguments.model is not None:
        report = fit(arguments.model)
        print(json.dumps(plain_json(report), allow_nan=False) if arguments.json else fit_text(report, width=WIDTH))
        return 0
    options = _gaze_options(arguments)
    if arguments.path is None and options:
        raise InputError(GAZE_FLAGS[next(iter(options))], expected="a gaze file to read", found="no PATH")
    values = _recording_summary(Path(arguments.path), options) if arguments.path is not None else environment()
    if arguments.json:
        print(json.dumps(plain_json(values), allow_nan=False))
    else:
        print(_table(list(values.items())))
    return 0


def _recording_summary(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What a video, a gaze file or a recording folder holds."""
    from stream.summary import summarise

    return summarise(path, **options)


def _convert_official(arguments: argparse.Namespace) -> int:
    with _quiet_libraries():
        from gazeqwen.official import convert_official

        report = convert_official(
            arguments.checkpoint, base=arguments.base, vjepa=arguments.vjepa, out=arguments.out, flat=arguments.flat
        )
    print(json.dumps(plain_json(report), indent=2, allow_nan=False))
    return 0


def _convert_vjepa(arguments: argparse.Namespace) -> int:
    from gazeqwen.vjepa import convert_vjepa

    print(json.dumps(plain_json(convert_vjepa(arguments.checkpoint, arguments.out)), indent=2, allow_nan=False))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    with _quiet_libraries():
        from stream.demo import run_demo

        run_demo(arguments.out, seed=arguments.seed, say=lambda text: print(text, flush=True), progress=_progress)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    with _quiet_libraries():
        from benchmarks.streamgaze.training import open_source
        from gazeqwen.train.command import command

        return command(arguments, open_source)


def _app(_arguments: argparse.Namespace) -> int:
    print(APP_NOTICE, file=sys.stderr)
    return 2


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ask": _ask,
    "gaze check": _gaze_check,
    "gaze-target": _gaze_target,
    "info": _info,
    "convert official": _convert_official,
    "convert vjepa": _convert_vjepa,
    "demo": _demo,
    "train": _train,
    "app": _app,
}
# Commands of the benchmark room, each a module's `command(arguments)`; imported when one is given.
BENCHMARKS = {
    "eval streamgaze": "benchmarks.streamgaze.run",
    "report": "benchmarks.streamgaze.report",
    "compare": "benchmarks.streamgaze.compare",
    "export streamgaze": "benchmarks.streamgaze.export",
    "data validate": "benchmarks.streamgaze.validate",
    "data mini": "benchmarks.streamgaze.mini",
    "data build": "benchmarks.streamgaze.pipeline.build",
    "data split": "benchmarks.streamgaze.split",
    "forget": "benchmarks.streamgaze.feature_cache",
    "evidence": "benchmarks.evidence.command",
}


def _benchmark(arguments: argparse.Namespace) -> int:
    return import_module(BENCHMARKS[arguments.command]).command(arguments)


COMMANDS.update(dict.fromkeys(BENCHMARKS, _benchmark))


# -- helpers -----------------------------------------------------------------------------------------------------------


def _require_text(text: str) -> None:
    """Arguments that are no UTF-8 reach Python as lone surrogates, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("--question, --options", expected="UTF-8 text", found=repr(text)) from error


def _gaze_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given of those that say how gaze is to be read, by the names of `open_recording`."""
    given = {name: getattr(arguments, name) for name in GAZE_FLAGS}
    if given["columns"] and given["format"] is None:
        given["format"] = "plain_csv"  # the only format whose columns the user names
    return {name: value for name, value in given.items() if value is not None}


def _open(arguments: argparse.Namespace) -> Recording:
    from stream.recording import open_recording

    options = _gaze_options(arguments)
    if arguments.gaze is None and options:
        unused = GAZE_FLAGS[next(iter(options))]
        raise InputError(unused, expected="a gaze file to read", found="no --gaze", fix="add --gaze F")
    return open_recording(
        arguments.video,
        arguments.gaze,
        detector=getattr(arguments, "detector", None),
        detector_parameters=getattr(arguments, "detector_parameters", None),
        **options,
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _share(value: float) -> str:
    return "no samples" if math.isnan(value) else f"{100 * value:.0f} %"


def _table(rows: Sequence[tuple[str, str]], *, least: int = 0) -> str:
    """Names in one column, values wrapped in the other, `WIDTH` columns together."""
    column = max(least, *(len(name) + 2 for name, _ in rows))
    return "\n".join(
        textwrap.fill(
            value,
            WIDTH,
            initial_indent=f"{name:<{column}}",
            subsequent_indent=" " * column,
            break_on_hyphens=False,
            break_long_words=False,
        )
        or name
        for name, value in rows
    )


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _progress(title: str, *, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr for what takes over two seconds; nothing when stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(
        total=total, desc=title, unit=unit, delay=2.0, leave=False, dynamic_ncols=True, disable=not _on_terminal()
    ) as bar:
        yield bar.update


@contextmanager
def _seconds_bar(title: str, end_s: float) -> Iterator[Callable[[float], None]]:
    """`_progress` over the seconds of a recording up to `end_s`; takes the time that is reached."""
    done = 0
    with _progress(title, total=math.ceil(end_s), unit="s") as advance:

        def reached(time_s: float) -> None:
            nonlocal done
            if int(time_s) > done:
                advance(int(time_s) - done)
                done = int(time_s)

        yield reached


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """What transformers and bitsandbytes tell about themselves is not ours to show; a bar is, on a terminal."""
    from transformers.utils import logging as transformers_logging

    bitsandbytes = logging.getLogger("bitsandbytes")
    verbosity, level = transformers_logging.get_verbosity(), bitsandbytes.level
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    bitsandbytes.setLevel(logging.ERROR)
    if not _on_terminal():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        bitsandbytes.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
