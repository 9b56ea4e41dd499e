"""What lies beside a trained model: its card (README.md), its settings, and its results."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gazeqwen._version import __version__
from gazeqwen.arms import get_arm
from gazeqwen.train.config import TrainConfig, dump_config
from gazeqwen.train.setup import CARD, RESULTS, SETTINGS
from gazeqwen.types import plain_json

_STAGES = {
    "resampler": "the resampler, the backbone frozen (stage one)",
    "lora": "a LoRA adapter and the resampler (stage two)",
    "joint": "the resampler and a LoRA adapter at once",
}
_LIMITS = (
    "The numbers above are of the validation videos that the checkpoint was chosen on: they flatter it. Evaluate on "
    "videos that took no part (`gazeqwen eval`).",
    "An interval is missing here on purpose: `gazeqwen report` gives intervals clustered by video.",
    "Trained on the gaze of the trackers and wearers in these videos; other trackers err in other ways.",
    "That gaze helps is shown by the difference to the arms without it, trained alike, and by nothing else.",
)


@dataclass(frozen=True)
class Facts:
    """What the card tells of a run.

    Attributes:
        steps, best_step: of the optimiser; the weights are those of `best_step`.
        questions, trainable: counts (parameters by module).
        training, validation: names of the videos. `earlier`: those that it had been trained on before.
        results: of the validation at `best_step`, by arm (`evaluate.Tally.result`).
        base: the backbone. `vjepa`: its weights, empty where they are the model's own.
        command: what was run.
    """

    steps: int
    best_step: int
    questions: int
    trainable: Mapping[str, int]
    training: Sequence[str]
    validation: Sequence[str]
    results: Mapping[str, Any]
    base: str
    vjepa: str
    command: Sequence[str] = ()
    earlier: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def write_card(folder: Path, config: TrainConfig, facts: Facts) -> None:
    """README.md, train_config.yaml and results.json into a model's folder."""
    (folder / CARD).write_text(card_text(config, facts), encoding="utf-8")
    (folder / SETTINGS).write_text(dump_config(config), encoding="utf-8")
    results = {
        "format": 1,
        "gazeqwen": __version__,
        "arm": config.arm,
        "train": config.train,
        "steps": facts.steps,
        "best_step": facts.best_step,
        "seed": config.seed,
        "trainable_parameters": dict(facts.trainable),
        "questions": facts.questions,
        "videos": {
            "train": sorted({*facts.training, *facts.earlier}),
            "validation": sorted(facts.validation),
        },
        "results": facts.results,
        "command": list(facts.command),
        "versions": dict(facts.versions),
    }
    (folder / RESULTS).write_text(json.dumps(plain_json(results), indent=2) + "\n", encoding="utf-8")


def card_text(config: TrainConfig, facts: Facts) -> str:
    """The model card: a YAML header that the hub reads, and Markdown."""
    name = Path(config.out).name
    arm = get_arm(config.arm)
    parts = [
        f"---\n{_header(config, facts, name)}\n---",
        f"# {name}",
        f"A GazeQwen {__version__} model: Qwen2.5-VL that is told where its wearer looks. This run trained "
        f"{_STAGES[config.train] if arm.inject else 'a LoRA adapter'}, for the arm `{arm.name}` ({arm.title}).",
        "## Use",
        "```python\n" + _use(config) + "\n```",
        "## Data",
        f"Trained on {facts.questions} questions of {len(facts.training)} videos, validated on "
        f"{len(facts.validation)} others; no video is in both. Names: `{RESULTS}`."
        + (f" Before, the weights had been trained on {len(facts.earlier)} videos." if facts.earlier else ""),
        "## Recipe",
        f"Backbone: `{facts.base}`. {_recipe(config, facts)}",
        "```sh\n" + shlex.join(facts.command or ("gazeqwen", "train", "--config", SETTINGS)) + "\n```",
        "## Results",
        _table(facts.results),
        "## Limits",
        "\n".join(f"- {line}" for line in _LIMITS),
        "## Privacy of gaze",
        "Gaze tells more than it seems to: identity, health, interest in persons. These weights hold no recording, and "
        "whether wearers or bystanders could be recognised through them has not been studied. Publish weights trained "
        "on others' gaze only with their consent.",
        "## Licences",
        _licences(facts),
    ]
    wrapped = [part if part.startswith(("```", "---", "|", "-")) else textwrap.fill(part, 100) for part in parts]
    return "\n\n".join(wrapped) + "\n"


def _header(config: TrainConfig, facts: Facts, name: str) -> str:
    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type="streamgaze",
            dataset_name=f"{task}, {facts.results[config.arm]['n'][task]} questions",
            dataset_config=task,
            dataset_split="validation",
            metric_type="accuracy",
            metric_value=round(100 * value, 2),
        )
        for task, value in facts.results.get(config.arm, {}).get("accuracy", {}).items()
    ]
    of_hub = facts.base.count("/") == 1 and not facts.base.startswith((".", "/"))
    data = ModelCardData(
        model_name=name,
        license="apache-2.0" if "7B" in facts.base or facts.base.startswith("tiny") else "other",
        library_name="gazeqwen",
        pipeline_tag="video-text-to-text",
        tags=["gaze", "egocentric", "video", "streaming", f"arm:{config.arm}"],
        base_model=facts.base if of_hub else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _use(config: TrainConfig) -> str:
    lines = [
        "from gazeqwen import GazeQwen",
        "from stream import open_recording",
        'model = GazeQwen.from_pretrained("THIS_FOLDER")',
        "session = model.stream(window_s=60)",
        'for step in open_recording("clip.mp4", gaze="gaze.csv").steps(model.config.fps): session.append(step)',
        'print(session.choose("Which object am I looking at?", ["knife", "jar", "box"]))',
    ]
    if config.arm != "inject":
        lines[0] += ", checkpoint"
        lines[2] = f'model = checkpoint.load_arm(GazeQwen.from_pretrained("THIS_FOLDER"), None, "{config.arm}")'
        lines[3] = f'session = model.stream(window_s=60, arm="{config.arm}")'
    return "\n".join(lines)


def _recipe(config: TrainConfig, facts: Facts) -> str:
    optimizer = config.optimizer
    counted = ", ".join(f"{n:,} in {module}" for module, n in facts.trainable.items())
    gaze = ["no gaze reaches this arm"]
    if get_arm(config.arm).gaze_reaches:
        gaze = [
            f"null gaze in {100 * config.null_gaze:g} % of videos",
            f"gaze augmented by {', '.join(item.name for item in config.augment) or 'nothing'}",
        ]
    said = [
        f"{facts.steps} steps of {config.batch_videos} videos, the weights of step {facts.best_step}",
        f"AdamW, lr {optimizer.lr:g}, {optimizer.schedule}, {optimizer.warmup_steps} steps of warm-up",
        f"losses {', '.join(loss.name for loss in config.losses)}",
        f"forms {', '.join(name for name, weight in config.forms.items() if weight)}",
        *gaze,
        f"seed {config.seed}",
        f"trained parameters: {counted}",
    ]
    return "; ".join(said) + f". All settings: `{SETTINGS}`."


def _table(results: Mapping[str, Any]) -> str:
    """Tasks by arm, in per cent, with the number of questions."""
    if not results:
        return "No validation set was given: nothing was measured."
    arms = list(results)
    tasks = sorted({task for result in results.values() for task in result["accuracy"]})
    lines = ["| task | n | " + " | ".join(arms) + " |", "|---" * (len(arms) + 2) + "|"]
    for task in tasks:
        n = next(result["n"][task] for result in results.values() if task in result["n"])
        shown = [_percent(result["accuracy"].get(task)) for result in results.values()]
        lines.append(f"| {task} | {n} | " + " | ".join(shown) + " |")
    lines.append("| macro | | " + " | ".join(_percent(result["macro"]) for result in results.values()) + " |")
    if any(result["text_nll"] is not None for result in results.values()):
        shown = ["" if result["text_nll"] is None else f"{result['text_nll']:.3f}" for result in results.values()]
        lines.append("| free text, nll a token | | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _licences(facts: Facts) -> str:
    backbone = (
        "The backbone is not part of this folder and has its own licence (the 3B: non-commercial)."
        if not facts.base.startswith("tiny")
        else "The tiny backbone is Apache-2.0 and part of GazeQwen."
    )
    vjepa = (
        f"Features were made with V-JEPA weights of Meta's (`{facts.vjepa}`), whose licence is theirs: the README of "
        "their repository puts it under MIT and Apache-2.0; the weights of 2.1 come without a statement of their own, "
        "so read what is published with them before commercial use."
        if facts.vjepa
        else "V-JEPA's weights, where the arm uses them, are those in this folder."
    )
    return f"{backbone} {vjepa}"
