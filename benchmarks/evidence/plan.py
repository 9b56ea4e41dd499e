"""What the evidence consists of: settings, arms and their training, comparisons; and the names of all cells.

    training cell   what is trained, with a learning rate and a seed      -> OUT/arms/NAME/seed-K
    answers cell    weights of a training cell (or none) under a setting  -> OUT/answers/NAME/seed-K/SETTING.jsonl.gz

`docs/evidence/preregistration.md` says why these, and what would count as failure. It was committed before any result
on test worlds; the numbers it names are those of `FULL` here (a test).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.tiny.other_tracker import OtherTracker
from gazeqwen.tiny.world import TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS
from gazeqwen.tiny.world_parameters import WorldParameters

ALL_LORA = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@dataclass(frozen=True)
class Setting:
    """Worlds and the tracker that watches them.

    Attributes:
        first_seed: of its worlds.
        duration_s: of every world; None draws 20 to 120 s.
        parameters: of the worlds, where they are not the usual ones.
        from_share: of a world's time must have been seen before it is asked about.
    """

    name: str
    tracker: OtherTracker = field(default_factory=OtherTracker)
    first_seed: int = TEST_SEEDS
    duration_s: float | None = None
    parameters: WorldParameters = field(default_factory=WorldParameters)
    from_share: float = 0.0


PRIMARY = "primary"
SCORING = "letters"  # how questions with options count
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(PRIMARY),  # the world's own tracker
        Setting("clean", OtherTracker(error=0.0)),
        Setting("half-error", OtherTracker(error=0.5)),
        Setting("double-error", OtherTracker(error=2.0)),
        Setting("delayed", OtherTracker(delay_s=0.3)),
        Setting("sparse", OtherTracker(looks_from_s=2.0)),
        Setting(  # brief events lie between Qwen's frames only, and glances are twice as many
            "between",
            first_seed=TEST_SEEDS + 100_000,
            parameters=WorldParameters(between_share=1.0, glance_share=0.4),
        ),
    )
}
LENGTHS_S = (4, 15, 30, 60, 120)  # a step is a second


def length_setting(seconds: int) -> Setting:
    """Worlds of one length, 5 s at least, asked in their last quarter."""
    return Setting(
        f"{seconds}-steps",
        first_seed=TEST_SEEDS + 200_000 + 1000 * seconds,
        duration_s=max(5.0, float(seconds) + 0.5),
        from_share=0.75,
    )


@dataclass(frozen=True)
class Training:
    """One thing that is trained.

    Attributes:
        arm: of `gazeqwen.arms`.
        rates: learning rates to choose from on validation worlds.
        overrides: of config.json.
        of: a comparison with this training, under its learning rate, and not an arm by itself; "" for arms.
    """

    name: str
    arm: str
    rates: tuple[float, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""


_RESAMPLER_RATES, _LORA_RATES = (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
TRAININGS: dict[str, Training] = {
    one.name: one
    for one in (
        Training("inject", "inject", _RESAMPLER_RATES),
        Training("null", "null", _RESAMPLER_RATES),
        Training("no-features", "no-features", _RESAMPLER_RATES),
        Training("skip-only", "skip-only", _RESAMPLER_RATES),
        Training("marker-trained", "marker-trained", _LORA_RATES),
        Training("blind", "blind", _LORA_RATES),
        Training("broadcast-encoding", "inject", (), {"gaze_encoding": {"name": "broadcast"}}, of="inject"),
        Training("no-skip", "inject", (), {"resampler": {"skip": False}}, of="inject"),
        Training("last-layer", "inject", (), {"resampler": {"layers": [4], "allow_last_layer": True}}, of="inject"),
        Training("first-layer", "inject", (), {"resampler": {"layers": [0]}}, of="inject"),
        Training("learned-layers", "inject", (), {"resampler": {"layers": "learned"}}, of="inject"),
        Training("latents-4", "inject", (), {"resampler": {"latents": 4}}, of="inject"),
        Training("latents-64", "inject", (), {"resampler": {"latents": 64}}, of="inject"),
    )
}
ARMS = tuple(name for name, one in TRAININGS.items() if not one.of)
COMPARISONS = tuple(name for name, one in TRAININGS.items() if one.of)
# Arms that answer with the weights of another one, or with none of their own.
WITH_INJECT = ("shuffled", "center", "lagged")
ZERO_SHOT = ("none", "text", "marker", "heatmap")
SOLVERS = ("oracle", "oracle-no-gaze")
IN_ALL_SETTINGS = ("inject", "null", "no-features", "skip-only")


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        seeds: of the trainings of arms; comparisons have the first one.
        steps: of each training. `training_worlds`, `validation_worlds`: how many.
        test_worlds: of the primary setting; `setting_worlds` of the others, `length_worlds` of the longest length, and
            up to 8 times as many of shorter ones.
        first_test_world: added to the seeds of test worlds. 0 opens those of the registration, which asks for all
            `rates` first.
        duration_s: of worlds whose setting names none; None draws 20 to 120 s.
        per_task: questions of a task and world, in training. `asked_per_task`: the same at test.
        trained: arms that are trained; inject and null, where they are not, come with the embedded model.
        comparisons: names of TRAININGS. `with_inject`, `zero_shot`: arms.
        settings: beside the primary one. `lengths`: in steps.
        rates: by training; the learning rates that were chosen on validation worlds, before a test world was opened.
            Those that are missing are chosen anew.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    batch_videos: int = 2
    questions_per_video: int = 12
    null_gaze: float = 0.15
    training_worlds: int = 300
    validation_worlds: int = 60
    test_worlds: int = 180
    setting_worlds: int = 80
    length_worlds: int = 40
    first_test_world: int = 0
    duration_s: float | None = None
    per_task: int = 6
    asked_per_task: int = 6
    trained: tuple[str, ...] = ARMS
    comparisons: tuple[str, ...] = COMPARISONS
    with_inject: tuple[str, ...] = WITH_INJECT
    zero_shot: tuple[str, ...] = ZERO_SHOT
    settings: tuple[str, ...] = tuple(name for name in SETTINGS if name != PRIMARY)
    lengths: tuple[int, ...] = LENGTHS_S
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def training_seeds(self) -> range:
        return range(TRAINING_SEEDS, TRAINING_SEEDS + self.training_worlds)

    @property
    def validation_seeds(self) -> range:
        return range(VALIDATION_SEEDS + 1000, VALIDATION_SEEDS + 1000 + self.validation_worlds)

    def at(self, setting: Setting) -> Setting:
        """The setting as this plan opens it."""
        first_seed = setting.first_seed + self.first_test_world
        return replace(setting, first_seed=first_seed, duration_s=setting.duration_s or self.duration_s)

    def asking(self, setting: Setting) -> tuple[int, int]:
        """How many worlds of a setting, and questions of a task in each."""
        if setting.name == PRIMARY:
            return self.test_worlds, self.asked_per_task
        if setting.name in SETTINGS:
            return self.setting_worlds, self.asked_per_task
        assert setting.duration_s is not None  # a length
        worlds = min(8, LENGTHS_S[-1] // int(setting.duration_s)) * self.length_worlds
        return worlds, 4 * self.asked_per_task  # of which the last quarter's are asked


FULL = Plan()
QUICK = Plan(
    seeds=(0,),
    trained=(),
    comparisons=(),
    with_inject=("shuffled",),
    zero_shot=("none",),
    settings=(),
    lengths=(),
    test_worlds=40,
    first_test_world=500_000,
)
