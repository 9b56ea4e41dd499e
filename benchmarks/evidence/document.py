"""evidence.md and evidence.svg from what evidence.json holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.streamgaze.tasks import TASKS
from benchmarks.tiny.files import write_bytes
from gazeqwen.arms import ARMS

EXTRA_TITLES = {
    "inject-words": "inject, and its answers in words",
    "inject-gaze-off": "inject's weights, gaze switched off",
    "broadcast-encoding": "inject with one cosine vector a step for all tokens (not the published module)",
    "no-skip": "inject without the skip path",
    "last-layer": "inject into the last layer",
    "first-layer": "inject into the first layer only",
    "learned-layers": "inject with a learned gate per layer",
    "latents-4": "inject with 4 latents",
    "latents-64": "inject with 64 latents",
}
VERDICT = {True: "holds", False: "does not hold", None: "reported"}


def write_documents(out: Path, told: Mapping[str, Any]) -> None:
    """Raises InputError where a file can't be written."""
    write_bytes(out / "evidence.md", markdown(told).encode())
    write_bytes(out / "evidence.svg", _svg(told))


def by_macro(arms: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, figures) of arms, the best first."""
    return sorted(arms.items(), key=lambda item: -(item[1]["macro"]["value"] or 0))


def markdown(told: Mapping[str, Any]) -> str:
    """The whole document."""
    primary = told["arms"]
    tasks = [task for task in TASKS if any(task in arm["tasks"] for arm in primary.values())]
    lines = [
        "# Evidence on the small synthetic world",
        "",
        f"Model: {told['model']['name']} ({told['model']['trained']}).",
        "",
        f"`gazeqwen evidence`, seeds {', '.join(map(str, told['seeds']))}; options read by {told['scoring']}. Percent "
        "right, mean over the tasks, with a 95 % interval over worlds. It says nothing about real video or a 7B model.",
        "",
        f"> {told['mix']['selection']} {told['mix']['set_by_hand']}",
        "",
        "## Claims, as registered before a test world was opened",
        "",
        "| claim | found | interval | |",
        "|---|---|---|---|",
    ]
    for claim in told["claims"]:
        lines.append(
            f"| {claim['claim']} | {_number(claim['value'])} | {_interval(claim['ci'])} | {VERDICT[claim['holds']]} |"
        )
    lines += [
        "",
        "## All arms, the world's own tracker",
        "",
        "| arm | macro | interval | past | " + " | ".join(tasks) + " |",
    ]
    lines.append("|" + "---|" * (4 + len(tasks)))
    for name, arm in by_macro(primary):
        row = [_number(arm["tasks"].get(task, {}).get("value")) for task in tasks]
        macro = arm["macro"]
        lines.append(
            f"| `{name}` {_title(name)} | **{_number(macro['value'])}** | {_interval(macro['ci'])} | "
            f"{_number(arm['past']['value'])} | " + " | ".join(row) + " |"
        )
    counts = next(iter(primary.values()))["tasks"]
    lines += ["", "Questions: " + ", ".join(f"{task} {counts[task]['n']}" for task in tasks) + "."]
    silent = {name: arm["no_answer"] for name, arm in primary.items() if arm["no_answer"]}
    if silent:
        lines += ["", "Without an answer, counted as wrong: " + ", ".join(f"{n} {c}" for n, c in silent.items()) + "."]
    if told["comparisons"]:
        lines += [
            "",
            "## Variants minus `inject`, both of the first seed: macro",
            "",
            "| variant | | found | |",
        ]
        lines.append("|---|---|---|---|")
        for name, figure in told["comparisons"].items():
            lines.append(f"| `{name}` | {_title(name)} | {_number(figure['value'])} | {_interval(figure['ci'])} |")
    if told["paired"]:
        lines += [
            "",
            "## `inject` against each, question by question, the first seed",
            "",
            "McNemar's exact test takes questions as independent, which those of one world are not; the intervals "
            "above are over worlds.",
            "",
            "| | only `inject` right | only it | p | p by Holm |",
            "|---|---|---|---|---|",
        ]
        for name, row in told["paired"].items():
            lines.append(f"| `{name}` | {row['b']} | {row['c']} | {row['p']:.2g} | {row['p_holm']:.2g} |")
    if told["settings"]:
        names = list(dict.fromkeys(name for by in told["settings"].values() for name in by))
        lines += [
            "",
            "## Other trackers, other lengths: macro",
            "",
            "| setting | " + " | ".join(f"`{n}`" for n in names) + " |",
        ]
        lines.append("|" + "---|" * (1 + len(names)))
        shown = {"primary": primary, **told["settings"]}
        for setting, by in shown.items():
            cells = [
                f"{_number(by[n]['macro']['value'])} {_interval(by[n]['macro']['ci'])}" if n in by else ""
                for n in names
            ]
            lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    if told["trainings"]:
        lines += [
            "",
            "## Trainings",
            "",
            "| name | seed | rate | trained numbers | validation macro | minutes |",
            "|---|---|---|---|---|---|",
        ]
        for name, seeds in told["trainings"].items():
            for seed, row in seeds.items():
                lines.append(
                    f"| {name} | {seed} | {row['rate']:g} | {row['trainable']:,} | "
                    f"{100 * row['validation_macro']:.1f} | {row['seconds'] / 60:.1f} |"
                )
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    return EXTRA_TITLES.get(name) or (ARMS[name].title if name in ARMS else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(ci: Any) -> str:
    return "" if ci is None else f"[{ci[0]:.1f}, {ci[1]:.1f}]"


def _svg(told: Mapping[str, Any]) -> bytes:
    arms = by_macro(told["arms"])[::-1]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gazeqwen", "font.size": 9}):
        figure = Figure(figsize=(6.4, 0.26 * len(arms) + 1.0), layout="constrained")
        axes = figure.add_subplot()
        for height, (name, arm) in enumerate(arms):
            colour = "#7f7f7f" if name.startswith("oracle") else "#c7762e" if name.startswith("inject") else "#3a7ebf"
            macro = arm["macro"]
            if macro["ci"] is not None:
                axes.plot(macro["ci"], [height, height], color=colour, linewidth=2)
            axes.plot(macro["value"], height, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(arms)), [name for name, _ in arms])
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent right, mean over tasks, with 95 % interval over worlds")
        axes.set_title("Arms on held-out small worlds (synthetic)", fontsize=10)
        axes.grid(axis="x", alpha=0.2)
        packed = io.BytesIO()
        figure.savefig(packed, format="svg", metadata={"Date": None})
    return packed.getvalue()
