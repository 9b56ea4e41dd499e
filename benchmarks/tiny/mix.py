"""What the embedded backbone was taught before any gaze, in words and numbers: to be printed beside every table."""

from __future__ import annotations

from typing import Any

from benchmarks.tiny.language import TUNING
from benchmarks.tiny.pretraining import CHOSEN_SHARES, PROBE_SHARES, TASK_SHARES, Mix, PretrainingSettings

SELECTION = (
    "One concept stands for gaze: selection, two symbols (how long and how recently a look of the world's log rested "
    "on the object within the step) added to the object's visual tokens after the first decoder layer, where residuals "
    "come in, and named by the tasks' own words (gazing at). It favours injected residuals over marks drawn on frames. "
    "No gaze sample, mark, heatmap or coordinate was shown."
)
SET_BY_HAND = (
    "In each layer two heads start as, and in pre-training stay, matchers: of tokens of one noun, and of those among "
    "them that are selected."
)


def pretraining_mix() -> dict[str, Any]:
    """Shares of the optimiser's steps by kind of lesson, in order, and of what lessons ask."""
    reading = PretrainingSettings()

    def shares(mix: Mix) -> dict[str, float]:
        return {"until": mix.until} | {kind: share for kind, share in mix.shares.items() if share}

    return {
        "selection": SELECTION,
        "set_by_hand": SET_BY_HAND,
        "reading": {"steps": reading.steps, "mixes": [shares(mix) for mix in reading.mixes]},
        "tuning": {"steps": TUNING.steps, "mixes": [shares(mix) for mix in TUNING.mixes]},
        "tasks": TASK_SHARES,
        "probes": PROBE_SHARES,
        "probes_with_options": CHOSEN_SHARES,
        "early": {"weight": reading.early, "from": reading.letters_from},
    }
