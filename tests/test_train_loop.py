"""The loop in one process: what is trained, going on after a stop, what stops it, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gazeqwen import GazeQwen
from gazeqwen.arms import get_arm
from gazeqwen.checkpoint import load_arm
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.evaluate import evaluate, form_of
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.loop import Outcome, Trainer, new_accelerator
from gazeqwen.train.overfit import overfit
from gazeqwen.train.result import write_result
from gazeqwen.train.setup import build, training_videos
from tests.made_training import MadeSource, losses, made_config, weights_of

AUGMENTED = {
    "augment": [{"name": "noise", "params": {"sd_norm": 0.05}}],
    "null_gaze": 0.3,
    "forms": {"letters": 1.0, "likelihood": 1.0, "text": 1.0},
    "train": "joint",
    "lora": {"dropout": 0.2},
}


class Stop(Exception):
    """What ends a run in the middle."""


def trainer_of(config: TrainConfig, *, n: int = 5, stop_at: int = 0, **options: Any) -> Trainer:
    def report(row: Any) -> None:
        if stop_at and row["event"] == "step" and row["step"] == stop_at:
            raise Stop

    return Trainer(
        config,
        build(config),
        MadeSource(n, n_steps=2, text=True, **options),
        MadeSource(2, name="other", n_steps=2),
        report=report,
    )


def run(config: TrainConfig, **options: Any) -> tuple[Trainer, Outcome]:
    trainer = trainer_of(config, **options)
    return trainer, trainer.run()


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Dropout, augmentation, forms and order go on as they would have; twice, from a checkpoint that is a step old."""
    config = made_config(tmp_path / "a", steps=4, save_every=2, eval_every=4, **AUGMENTED)
    whole, _ = run(config)
    other = made_config(tmp_path / "b", steps=4, save_every=2, eval_every=4, **AUGMENTED)
    for stop_at in (1, 3):
        with pytest.raises(Stop):
            trainer_of(other, stop_at=stop_at).run()
    resumed, outcome = run(other)
    assert outcome.progress.step == 4 and losses(tmp_path / "b") == losses(tmp_path / "a")
    one, two = weights_of(whole.parameters), weights_of(resumed.parameters)
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["event"] == "step"] == [1, 1, 2, 3, 3, 4]
    again, _ = run(other)  # a run that is done
    assert all(torch.equal(two[name], again.parameters[name]) for name in two)


def test_only_what_is_trained_changes(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a", steps=2, optimizer={"warmup_steps": 0}, trackers=["tensorboard"])
    trainer = trainer_of(config)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("resampler.") for name in changed)
    assert set(trainer.parameters) == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any((tmp_path / "a" / "logs").rglob("events.out.tfevents*"))


def test_accumulation_and_checkpointing_change_nothing_but_rounding(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"steps": 2, "batch_videos": 4, "model": {"dtype": "float64"}, "eval_every": 9}
    plain, _ = run(made_config(tmp_path / "a", **shared))
    parted, _ = run(made_config(tmp_path / "b", accumulation=4, gradient_checkpointing=True, **shared))
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-6)
    for name, weight in plain.parameters.items():
        torch.testing.assert_close(weight, parted.parameters[name], rtol=1e-4, atol=1e-6)


def test_bf16_autocast_runs(tmp_path: Path) -> None:
    run(made_config(tmp_path / "a", steps=1, precision="bf16"))
    (loss,) = losses(tmp_path / "a")
    run(made_config(tmp_path / "b", steps=1))
    assert loss != losses(tmp_path / "b")[0] and loss == pytest.approx(losses(tmp_path / "b")[0], rel=0.05)


def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = made_config(tmp_path / "a", steps=4, save_every=1)
    trainer = trainer_of(config)
    own = trainer.load
    bad = trainer.sampler.at(2)[0]

    def load(drawn: Any) -> Any:
        video, forms = own(drawn)
        if drawn == bad:
            video.frozen.visual.fill_(float("nan"))  # type: ignore[union-attr]
        return video, forms

    monkeypatch.setattr(trainer, "load", load)
    with pytest.raises(InputError) as error:
        trainer.run()
    message = str(error.value)
    assert "\n" not in message and "step 3 of" in message and "expected a finite loss, found nan" in message
    assert f"the last good checkpoint is {trainer.checkpoints.path(2)}" in message and f"video-{bad.index}" in message
    progress, tensors = trainer.checkpoints.load(2)
    assert progress.step == 2 and all(tensor.isfinite().all() for tensor in tensors.values())
    assert all(torch.equal(weight, tensors[f"weight.{name}"]) for name, weight in trainer.parameters.items())


def test_a_corrupt_cache_entry_stops_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a", steps=4, save_every=1)
    trainer = trainer_of(config)
    order = [one.index for step in range(4) for one in trainer.sampler.at(step)]
    late = next(index for index in order if index not in order[:2])
    with pytest.raises(InputError, match="expected frozen features, found a damaged file"):
        trainer_of(config, damaged=late).run()
    assert trainer_of(config).checkpoints.steps()
    _, outcome = run(config)
    assert outcome.progress.step == 4


def test_videos_in_both_sets_or_seen_before_are_refused(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a")
    with pytest.raises(InputError, match=r"validation videos: expected videos .* found 2 that it was, e\.g\. video-0"):
        Trainer(config, build(config), MadeSource(3), MadeSource(2))
    from dataclasses import replace

    prepared = replace(build(config), earlier=("other-1",))
    with pytest.raises(InputError, match=r"e\.g\. other-1"):
        Trainer(config, prepared, MadeSource(3), MadeSource(2, name="other"))


def test_a_folder_of_another_run_or_of_other_things(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a", steps=1)
    run(config)
    with pytest.raises(ConfigError, match=r"holds a run with optimizer\.lr=0\.001, and this one has 0\.5"):
        trainer_of(made_config(tmp_path / "a", steps=1, optimizer={"lr": 0.5})).run()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder, or a run, found other files"):
        trainer_of(made_config(tmp_path / "b")).run()
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"


def test_a_run_whose_data_have_changed_is_refused(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a", steps=2)
    with pytest.raises(Stop):
        run(config, stop_at=1)
    with pytest.raises(ConfigError, match="holds a run on other videos or questions"):
        run(config, n=4)
    swapped = Trainer(
        config, build(config), MadeSource(2, name="other", n_steps=2), MadeSource(5, n_steps=2, text=True)
    )
    with pytest.raises(ConfigError, match="holds a run on other videos or questions"):
        swapped.run()
    run(config)


def test_a_folder_that_a_kill_left_at_the_very_start_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.new").write_text("out: ")
    run(made_config(tmp_path / "a", steps=1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"losses": [{"name": "hinge"}]}, "unknown loss 'hinge'; known are choice"),
        ({"augment": [{"name": "blur"}]}, "unknown augmentation 'blur'; known are noise"),
        ({"batch_videos": 3, "accumulation": 2}, "can't be shared by 1 processes in accumulation=2"),
        ({"trackers": ["nothing"]}, r"trackers \['nothing'\]"),
    ],
)
def test_what_can_be_wrong_is_said_before_the_first_step(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trainer_of(made_config(tmp_path / "a", **settings))
    assert not (tmp_path / "a").exists()


def test_losses_that_count_no_question_are_said(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a", losses=[{"name": "answer"}], forms={"text": 1.0})

    class Points(MadeSource):  # a proactive point can't be asked for its text
        def load(self, index: int, model: GazeQwen, arm: Any) -> Any:
            video = super().load(index, model, arm)
            return video.only([row for row, ask in enumerate(video.asks) if ask.proactive])

    source = Points(2)
    source.counts = [1, 1]
    with pytest.raises(ConfigError, match="losses answer count none of the forms"):
        Trainer(config, build(config), source).run()


def test_validation_keeps_the_best_and_patience_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.6, 0.5, 0.4, 0.9])
    monkeypatch.setattr("gazeqwen.train.loop.score_of", lambda result: next(scores))
    config = made_config(tmp_path / "a", steps=9, eval_every=1, patience=2, max_keep=1, eval_arms=["inject", "null"])
    trainer, outcome = run(config)
    assert (outcome.progress.step, outcome.progress.best_step, outcome.progress.best) == (4, 2, 0.6)
    assert outcome.progress.stopped and trainer.checkpoints.steps() == [2, 4]
    assert set(outcome.validation) == {"inject", "null"}
    best = trainer.checkpoints.load(2)[1]
    assert all(torch.equal(weight, best[f"weight.{name}"]) for name, weight in trainer.parameters.items())


def test_validation_scores_every_question_as_the_model_does(tmp_path: Path) -> None:
    config = made_config(tmp_path / "a")
    model, source = GazeQwen.from_pretrained("tiny"), MadeSource(3, name="other", text=True)
    arm = get_arm("inject")
    found = evaluate(
        source,
        model,
        {"inject": PackedForward(model, arm)},
        scoring="letters",
        accelerator=new_accelerator(config),
        autocast=lambda: torch.enable_grad(),
    )["inject"]
    right = {"OTP": 0, "GTA": 0}
    for index in range(3):
        video = source.load(index, model, arm)
        for ask in video.asks:
            if not ask.question.options:
                continue
            state = model.start(arm=arm)
            model.append(state, video.steps[: ask.stop])
            how = form_of(ask, "letters")
            logprobs = model.score(state, ask.question.text, ask.question.options, scoring=how)  # type: ignore[arg-type]
            right[ask.task] += int(int(logprobs.argmax()) == ask.answer)
    assert found["n"] == {"GTA": 3, "OTP": 9}
    assert found["accuracy"] == {"GTA": right["GTA"] / 3, "OTP": right["OTP"] / 9}
    assert found["macro"] == pytest.approx((right["GTA"] / 3 + right["OTP"] / 9) / 2) and found["text_nll"] > 0


def test_the_result_is_a_model_that_loads_with_its_card(tmp_path: Path) -> None:
    config = made_config(tmp_path / "mine", train="joint", forms={"likelihood": 1.0})
    trainer, outcome = run(config)
    expected = weights_of(trainer.parameters)
    folder = write_result(trainer, outcome, command=("gazeqwen", "train"))
    model = GazeQwen.from_pretrained(folder)
    loaded = model.trainable_parameters()
    assert set(loaded) == set(expected) and all(torch.equal(loaded[name], expected[name]) for name in loaded)
    assert model.config.name == "mine" and model.config.scoring == "likelihood" and model.config.lora
    assert model.config.trained.startswith("both stages at once on 20 questions of 5 videos")
    assert training_videos(folder) == tuple(f"video-{k}" for k in range(5))
    told = json.loads((folder / "results.json").read_text())
    assert told["videos"]["validation"] == ["other-0", "other-1"] and told["results"] == outcome.validation
    prepared = build(made_config(tmp_path / "two", train="lora", init_from=str(folder)))
    began = weights_of(prepared.parameters())
    assert prepared.earlier == training_videos(folder)
    assert all(torch.equal(began[name], expected[name]) for name in expected)
    with pytest.raises(ConfigError, match=r"lora\.rank: the model has an adapter with 8"):
        build(made_config(tmp_path / "three", train="lora", init_from=str(folder), lora={"rank": 4}))
    assert model.save_pretrained(folder) == folder  # its own files beside the weights are no obstacle


def test_stage_two_goes_on_from_stage_one(tmp_path: Path) -> None:
    first, outcome = run(made_config(tmp_path / "one", steps=1))
    resampler = weights_of(first.parameters)
    folder = write_result(first, outcome)
    config = made_config(tmp_path / "two", train="lora", init_from=str(folder), steps=1)
    prepared = build(config)
    held = prepared.parameters()
    assert prepared.earlier == tuple(f"video-{k}" for k in range(5))
    assert all(torch.equal(held[name], weight) for name, weight in resampler.items())
    assert any(".lora_" in name for name in held)
    second = Trainer(config, prepared, MadeSource(2, name="new"), MadeSource(1, name="other"))
    written = write_result(second, second.run())
    assert training_videos(written) == ("new-0", "new-1", *(f"video-{k}" for k in range(5)))


@pytest.mark.parametrize("name", ["null", "skip-only"])
def test_stage_two_of_an_arm_goes_on_from_its_own_stage_one(tmp_path: Path, name: str) -> None:
    first, outcome = run(made_config(tmp_path / "one", arm=name, steps=1))
    resampler = weights_of(first.parameters)
    folder = str(write_result(first, outcome))
    held = build(made_config(tmp_path / "two", arm=name, train="lora", init_from=folder)).parameters()
    assert all(torch.equal(held[key], weight) for key, weight in resampler.items())
    with pytest.raises(ConfigError, match="arm 'no-features' has no stage one in"):
        build(made_config(tmp_path / "three", arm="no-features", train="lora", init_from=folder))


def test_stage_two_keeps_the_resampler_of_stage_one_or_says_so(tmp_path: Path) -> None:
    first, outcome = run(made_config(tmp_path / "one", steps=1))
    folder = str(write_result(first, outcome))
    other = {"overrides": {"resampler": {"latents": 4}}}
    with pytest.raises(ConfigError, match=r"set model\.fresh_resampler=true to start a new one"):
        build(made_config(tmp_path / "two", train="lora", init_from=folder, model=other))
    anew = {**other, "fresh_resampler": True}
    model = build(made_config(tmp_path / "three", train="lora", init_from=folder, model=anew)).model
    assert len(model.resampler.latents) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["null", "skip-only", "no-features", "marker-trained", "blind"])
def test_other_arms_are_written_beside_the_model_they_began_with(tmp_path: Path, name: str) -> None:
    inject = get_arm(name).inject
    config = made_config(tmp_path / "a", arm=name, train="resampler" if inject else "lora", steps=2, eval_every=9)
    trainer, outcome = run(config)
    expected = weights_of(trainer.parameters)
    folder = write_result(trainer, outcome)
    model, began = GazeQwen.from_pretrained(folder), GazeQwen.from_pretrained("tiny")
    assert model.config.name == "tiny" and not model.config.lora
    assert all(
        torch.equal(a, b) for a, b in zip(model.resampler.parameters(), began.resampler.parameters(), strict=True)
    )
    load_arm(model, None, name)
    held = dict(model.trainable_parameters())
    assert all(torch.equal(held[key], weight) for key, weight in expected.items())


def test_eight_questions_are_learned_by_heart_and_noise_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = made_config(tmp_path / "a", optimizer={"lr": 3e-3}, **AUGMENTED)
    source = MadeSource(8, n_steps=2)
    found = overfit(config, build(config), source, 8, accelerator=new_accelerator(config))
    assert found["learned"] and found["right"] == found["questions"] == 8 and not (tmp_path / "a").exists()
    monkeypatch.setattr("gazeqwen.train.overfit.MOST_STEPS", 3)
    monkeypatch.setattr("gazeqwen.train.overfit.LOOK_EVERY", 3)
    still = made_config(tmp_path / "b", optimizer={"lr": 1e-12})
    found = overfit(still, build(still), source, 8, accelerator=new_accelerator(still))
    assert not found["learned"] and found["text"].endswith("check the questions' answers, forms and optimizer.lr")
    with pytest.raises(InputError, match="expected 99 questions with options, found 24"):
        overfit(config, build(config), source, 99, accelerator=new_accelerator(config))
