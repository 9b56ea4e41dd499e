"""GazeQwen on the tiny backbone: one result by every route (DESIGN 6), with residuals that matter, in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import ARMS
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import EncodedSteps, Frozen
from gazeqwen.injection import inject
from gazeqwen.model import Example
from gazeqwen.official import LORA_TARGETS
from gazeqwen.types import Fixations, Question
from tests.made_steps import (
    OPTIONS,
    QUESTION,
    SQUARE,
    answer_logits,
    example,
    held,
    made_steps,
    moved_tiny,
    official_tiny,
    same_bits,
    with_residuals,
)

CHOICE = prompts.choice_prompt(QUESTION, OPTIONS)


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0.0)


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def logits_of(model: GazeQwen, item: Example, arm: str = "inject") -> Tensor:
    with torch.no_grad():
        return model([item], arm=arm).logits[0]


# -- one result by every route -----------------------------------------------------------------------------------------


def test_appended_one_by_one_at_once_and_forward_agree_and_gaze_matters(model: GazeQwen) -> None:
    steps = made_steps(4)
    one_by_one, at_once = model.start(), model.start()
    for step in steps:
        model.append(one_by_one, [step])
    model.append(at_once, steps)
    whole = logits_of(model, example(steps))
    assert_near(answer_logits(model, one_by_one, CHOICE), whole)
    assert_near(answer_logits(model, at_once, CHOICE), whole)
    assert (whole - logits_of(model, example(steps), "none")).abs().max() > 1e-2
    moved = [replace(s, gaze=replace(s.gaze, xy_norm=1 - s.gaze.xy_norm)) for s in steps]
    assert (whole - logits_of(model, example(moved))).abs().max() > 1e-3


def test_appended_text_and_segments_equal_forward(model: GazeQwen) -> None:
    first, second = made_steps(2), made_steps(2, start_s=5.0, seed=3, size_px=SQUARE)
    turn = "Which?<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n"
    state = model.start()
    model.append_text(state, "before ")
    model.append(state, first)
    model.append_text(state, turn)
    for step in second:
        model.append(state, [step])
    item = Example(("before ", first, turn, second), Question(QUESTION, 7.0, OPTIONS))
    assert_near(answer_logits(model, state, CHOICE), logits_of(model, item))


def test_runs_without_text_between_are_segments_as_after_an_empty_text(model: GazeQwen) -> None:
    first, second = made_steps(1), made_steps(1, start_s=1.0)
    state = model.start()
    model.append_text(state, "")
    model.append(state, first)
    model.append_text(state, "")
    model.append(state, second)
    item = Example((first, second), Question(QUESTION, 2.0, OPTIONS))
    assert_near(answer_logits(model, state, CHOICE), logits_of(model, item))


def test_a_batch_equals_its_examples_one_at_a_time(model: GazeQwen) -> None:
    two = Example(
        (made_steps(2, seed=5), "and", made_steps(1, start_s=4.0, seed=6, size_px=SQUARE)),
        Question("What is next?", 5.0, ("a jar", "a box")),
        target="A",
    )
    text_only = Example(("Hello. ",), Question("What is red?", 0.0, OPTIONS), target="C")
    batch = [example(made_steps(3), target="B"), two, text_only]
    with torch.no_grad():
        together = model(batch)
        alone = [model([item]) for item in batch]
    for row, single in enumerate(alone):
        assert_near(together.logits[row], single.logits[0])
    # every target is a letter and the turn's end: two tokens each
    assert together.loss is not None
    mean = torch.stack([single.loss for single in alone if single.loss is not None]).mean()
    assert_near(together.loss, mean)


@pytest.mark.parametrize("gone", [(0,), (1, 2), (0, 1, 2), (3,)])
def test_evicted_equals_masked(model: GazeQwen, gone: tuple[int, ...]) -> None:
    steps = made_steps(4)
    state = model.start()
    model.append(state, steps)
    fork = state.fork()
    fork.evict(gone)
    assert fork.evicted == list(gone)
    assert [record.id for record in fork.steps] == [k for k in range(4) if k not in gone]
    assert fork.tokens == state.tokens - 18 * len(gone)
    masked = masked_logits(model, example(steps), gone)
    assert_near(answer_logits(model, fork, CHOICE), masked)
    assert (masked - answer_logits(model, state, CHOICE)).abs().max() > 1e-3


def masked_logits(model: GazeQwen, item: Example, gone: tuple[int, ...]) -> Tensor:
    """The whole prompt in one forward; the words after the video can't attend to the steps that are gone."""
    with torch.no_grad():
        row = model._sequence(item, ARMS["inject"], 0)
        (part, _, start), length = row.encoded[0], len(row.embeds)
        size = part.h * part.w
        allowed = torch.ones(length, length).tril().bool()
        for step in gone:
            allowed[start + len(part.visual) * size :, start + step * size : start + (step + 1) * size] = False
        plan = model.plan(row.encoded)
        assert plan is not None
        with inject(model.backbone.layers, plan):
            hidden = model.backbone.decode(row.embeds[None], row.positions[:, None], attention_mask=allowed[None, None])
        return model.backbone.logits(hidden[0, row.answer])


def test_steps_appended_after_an_eviction_do_not_see_what_is_gone(model: GazeQwen) -> None:
    steps = made_steps(3)
    state = model.start()
    model.append(state, steps[:2])
    state.evict([0])
    model.append(state, steps[2:])
    with torch.no_grad():
        row = model._sequence(example(steps), ARMS["inject"], 0)
        start, length = row.encoded[0][2], len(row.embeds)
        allowed = torch.ones(length, length).tril().bool()
        allowed[start + 36 :, start : start + 18] = False
        plan = model.plan(row.encoded)
        assert plan is not None
        with inject(model.backbone.layers, plan):
            hidden = model.backbone.decode(row.embeds[None], row.positions[:, None], attention_mask=allowed[None, None])
        expected = model.backbone.logits(hidden[0, row.answer])
    assert_near(answer_logits(model, state, CHOICE), expected)


def test_whatever_is_asked_the_parent_stays_bit_identical(model: GazeQwen) -> None:
    steps = made_steps(3)
    state, untouched = model.start(), model.start()
    for one in (state, untouched):
        model.append(one, steps[:2])
    before = held(state)
    for scoring, options in (("letters", OPTIONS), ("likelihood", OPTIONS), ("yes_no", prompts.YES_NO)):
        model.score(state, QUESTION, options, scoring=scoring)  # type: ignore[arg-type]
    "".join(model.generate(state, QUESTION, max_new_tokens=4))
    next(model.generate(state, QUESTION, max_new_tokens=4), None)  # dropped half-way
    fork = state.fork()
    model.append(fork, made_steps(1, start_s=2.0, seed=9))
    model.append_text(fork, "more")
    fork.evict([0])
    assert same_bits(before, held(state))
    for one in (state, untouched):
        model.append(one, steps[2:])
    assert same_bits(held(state), held(untouched))


def test_without_a_trained_resampler_the_model_is_the_backbone_bit_for_bit() -> None:
    fresh, item = GazeQwen.from_pretrained("tiny"), example(made_steps(2))
    assert torch.equal(logits_of(fresh, item), logits_of(fresh, item, "none"))
    assert not torch.equal(logits_of(with_residuals(fresh), item), logits_of(fresh, item, "none"))


def test_a_steps_residuals_rest_on_nothing_later(model: GazeQwen) -> None:
    steps = made_steps(3)
    other = [*steps[:2], replace(steps[2], vjepa_frames=255 - steps[2].vjepa_frames).without_gaze()]
    a, b = model.encode(steps), model.encode(other)
    assert a.residuals is not None and b.residuals is not None
    assert_near(a.residuals.base[:, :2], b.residuals.base[:, :2])
    assert (a.residuals.base[:, 2] - b.residuals.base[:, 2]).abs().max() > 1e-3


def test_positions_follow_true_times_and_text_starts_after_the_largest(model: GazeQwen) -> None:
    steps = made_steps(2)  # 0 and 1 s: temporal 0 and 2; the grid is 3 x 6
    late = made_steps(1, start_s=9.0, size_px=SQUARE)
    item = Example((steps, "hm", late), Question(QUESTION, 10.0, OPTIONS))
    row = model._sequence(item, ARMS["none"], 0)
    tokens = {text: len(model._ids(text)) for text in (prompts.PREFIX, prompts.VISION_START, prompts.VISION_END + "hm")}
    expected: list[tuple[int, int, int]] = [(i, i, i) for i in range(tokens[prompts.PREFIX] + 1)]
    base = len(expected)
    expected += [(base + t, base + y, base + x) for t in (0, 2) for y in range(3) for x in range(6)]
    following = base + 6  # the widest axis is x: 0..5
    words = tokens[prompts.VISION_END + "hm"] + tokens[prompts.VISION_START]
    expected += [(i, i, i) for i in range(following, following + words)]
    base = following + words  # a new segment counts its own time: 9 s is its zero
    expected += [(base, base + y, base + x) for y in range(4) for x in range(4)]
    expected += [(base + 4, base + 4, base + 4)]
    assert [tuple(p) for p in row.positions.T[: len(expected)].tolist()] == expected


# -- questions ---------------------------------------------------------------------------------------------------------


def test_letters_are_scored_as_forward_would(model: GazeQwen) -> None:
    steps = made_steps(2)
    state = model.start()
    model.append(state, steps)
    scores = model.score(state, QUESTION, OPTIONS)
    ids = prompts.letter_ids(model.tokenizer, 3)
    expected = torch.log_softmax(logits_of(model, example(steps))[ids], dim=0)
    assert_near(scores, expected)
    assert abs(float(scores.exp().sum()) - 1) < 1e-5


@pytest.mark.parametrize("scoring", ["likelihood", "yes_no"])
def test_likelihood_equals_each_option_said_on_its_own_fork(model: GazeQwen, scoring: prompts.Scoring) -> None:
    options = prompts.YES_NO if scoring == "yes_no" else ("knife", "a large green jar", "box of spices")
    ask = prompts.yes_no_prompt if scoring == "yes_no" else prompts.open_prompt
    state = model.start()
    model.append(state, made_steps(2))
    totals = []
    for option in options:
        fork, total = state.fork(), torch.tensor(0.0)
        with torch.no_grad():
            hidden = model._append_text(fork, prompts.VISION_END + ask(QUESTION) + prompts.ASSISTANT)
            for token in model.tokenizer.encode(option + prompts.TURN_END, add_special_tokens=False):
                total = total + torch.log_softmax(model.backbone.logits(hidden[0, -1]), dim=0)[token]
                hidden = model._append_text(fork, model.tokenizer.decode([token]))
        totals.append(total)
    expected = torch.log_softmax(torch.stack(totals), dim=0)
    assert_near(model.score(state, QUESTION, options, scoring=scoring), expected)


def test_a_forward_that_fails_halfway_leaves_the_stream_as_it_was(model: GazeQwen) -> None:
    steps = made_steps(3)
    state = model.start()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    for part in (steps[:2], steps[2:]):  # the first append opens the video segment too
        handle = model.backbone.layers[2].register_forward_pre_hook(fail)
        before = [tuple(layer.keys.shape) for layer in state.cache.layers]
        with pytest.raises(RuntimeError, match="out of memory"):
            model.append(state, part)
        handle.remove()
        assert [tuple(layer.keys.shape) for layer in state.cache.layers] == before
        model.append(state, part)
    whole = model.start()
    model.append(whole, steps)
    assert_near(model.score(state, QUESTION, OPTIONS), model.score(whole, QUESTION, OPTIONS))


def test_options_with_letters_of_their_own_score_as_without(model: GazeQwen) -> None:
    state = model.start()
    model.append(state, made_steps(1))
    lettered = [f"{letter}. {option}" for letter, option in zip("ABC", OPTIONS, strict=True)]
    for scoring in ("letters", "likelihood"):
        assert torch.equal(
            model.score(state, QUESTION, lettered, scoring=scoring),
            model.score(state, QUESTION, OPTIONS, scoring=scoring),
        )


def test_generation_equals_greedy_prefilling_anew(model: GazeQwen) -> None:
    steps = made_steps(2)
    state = model.start()
    model.append(state, steps)
    pieces = model.generate(state, QUESTION, max_new_tokens=6)
    model.append(state, made_steps(1, start_s=2.0))  # asked before: must not be seen
    said = ""
    item = Example((steps,), Question(QUESTION, 2.0))
    row = model._sequence(item, ARMS["inject"], 0)
    embeds, positions = row.embeds, row.positions
    plan, ids = model.plan(row.encoded), []
    assert plan is not None
    with torch.no_grad():
        for _ in range(6):
            with inject(model.backbone.layers, plan):
                hidden = model.backbone.decode(embeds[None], positions[:, None])
            token = int(model.backbone.logits(hidden[0, -1]).argmax())
            if model.tokenizer.convert_ids_to_tokens(token) in ("<|im_end|>", "<|endoftext|>"):
                break
            ids.append(token)
            embeds = torch.cat([embeds, model.backbone.embed_ids(torch.tensor([token]))])
            positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    said = model.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces) == said
    assert ids


def test_an_answer_ends_at_the_turns_end_and_arrives_in_whole_characters(
    model: GazeQwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = model.start(arm="none")
    script = [*model.tokenizer.encode("é 日 ok", add_special_tokens=False), model.tokenizer.encode("<|im_end|>")[0], 40]
    said = iter(script)

    def next_logits(hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(said)), len(model.tokenizer)).float()

    monkeypatch.setattr(model.backbone, "logits", next_logits)
    pieces = list(model.generate(state, QUESTION))
    assert "".join(pieces) == "é 日 ok"
    assert len(pieces) > 1 and not any("\ufffd" in piece for piece in pieces)
    assert next(said) == 40  # what comes after the turn's end was not asked for


@pytest.mark.parametrize(
    ("options", "scoring", "error"),
    [
        (("one",), "letters", InputError),
        (tuple(map(str, range(27))), "letters", InputError),
        (("a", " "), "likelihood", InputError),
        (("a", "b"), "yes_no", InputError),
        (("a", "b"), "coin", ConfigError),
    ],
)
def test_bad_options_and_scorings_are_refused(
    model: GazeQwen, options: tuple[str, ...], scoring: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        model.score(model.start(arm="none"), QUESTION, options, scoring=scoring)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(model.start(arm="none"), QUESTION, max_new_tokens=0)


def test_the_text_arm_says_where_gaze_was_and_injects_nothing(model: GazeQwen) -> None:
    steps = made_steps(1)
    text, none = model.start(arm="text"), model.start(arm="none")
    model.append(text, steps)
    model.append(none, steps)
    assert same_bits(held(text), held(none))
    x, y = steps[0].gaze.xy_norm[0]
    assert f"({x:.2f}, {y:.2f})" in model.question_text(text, QUESTION, OPTIONS, "letters")
    assert model.question_text(none, QUESTION, OPTIONS, "letters") == CHOICE
    assert not torch.equal(model.score(text, QUESTION, OPTIONS), model.score(none, QUESTION, OPTIONS))


def test_null_and_no_gaze_agree_and_differ_from_center(model: GazeQwen) -> None:
    steps = made_steps(2)
    blind = [step.without_gaze() for step in steps]
    null = logits_of(model, example(steps), "null")
    assert torch.equal(null, logits_of(model, example(blind), "inject"))
    center = logits_of(model, example(steps), "center")
    assert torch.equal(center, logits_of(model, example(blind), "center"))
    assert (null - center).abs().max() > 1e-3


# -- training ----------------------------------------------------------------------------------------------------------


def test_gradients_reach_the_whole_resampler_and_nothing_else_and_the_loss_falls() -> None:
    model = with_residuals(GazeQwen.from_pretrained("tiny"))
    blind = [step.without_gaze() for step in made_steps(1, seed=8)]
    batch = [example(made_steps(2), target="B"), example(blind, target="C")]
    trained = model.trainable_parameters()
    assert set(trained) == {f"resampler.{name}" for name, _ in model.resampler.named_parameters()}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = model(batch).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            still = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().max() > 0]
            assert still == []
            assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05


def test_lora_trains_beside_the_resampler() -> None:
    from peft import LoraConfig, get_peft_model

    plain = GazeQwen.from_pretrained("tiny")
    adapter = LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False)
    wrapped = get_peft_model(plain.vlm, adapter)  # type: ignore[arg-type]
    model = GazeQwen(plain.config, vlm=wrapped, tokenizer=plain.tokenizer, extractor=plain.extractor)
    with_residuals(model)
    trained = model.trainable_parameters()
    lora = [name for name in trained if ".lora_" in name]
    assert len(lora) == 5 * 2 * 2  # layers, projections, matrices
    for parameter in trained.values():
        parameter.requires_grad_(True)
    loss = model([example(made_steps(1), target="A")]).loss
    assert loss is not None
    loss.backward()
    grads = [trained[name].grad for name in lora]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)
    state = model.start()
    model.append(state, made_steps(2))
    assert_near(answer_logits(model, state, CHOICE), logits_of(model, example(made_steps(2))))


def test_the_loss_is_the_cross_entropy_of_the_targets_tokens(model: GazeQwen) -> None:
    steps = made_steps(1)
    with torch.no_grad():
        loss = model([example(steps, target="green jar")]).loss
    state = model.start()
    model.append(state, steps)
    fork, total = state.fork(), 0.0
    tokens = model.tokenizer.encode("green jar<|im_end|>", add_special_tokens=False)
    with torch.no_grad():
        hidden = model._append_text(fork, prompts.VISION_END + CHOICE + prompts.ASSISTANT)
        for token in tokens:
            total -= float(torch.log_softmax(model.backbone.logits(hidden[0, -1]), dim=0)[token])
            hidden = model._append(fork, model.backbone.embed_ids(torch.tensor([token])), fork.rope.text(1))
    assert loss is not None and abs(float(loss) - total / len(tokens)) < 1e-5


def test_mixed_targets_and_empty_batches_are_refused(model: GazeQwen) -> None:
    steps = made_steps(1)
    with pytest.raises(InputError, match="targets for all"):
        model([example(steps, target="A"), example(steps)])
    with pytest.raises(InputError, match="at least one example"):
        model([])
    with pytest.raises(InputError, match="at least one step"):
        model([Example(((),), Question(QUESTION, 0.0))])


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_refused_steps_leave_the_stream_as_it_was(model: GazeQwen, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = made_steps(3)
    for appended in (0, 1):
        state = model.start()
        if appended:
            model.append(state, steps[:1])
        before = held(state)
        back = made_steps(2)[::-1]
        for bad in ([], [steps[1], *made_steps(1, start_s=2.0, size_px=SQUARE)], back, [steps[1], steps[1]]):
            with pytest.raises(InputError):
                model.append(state, bad)
        with monkeypatch.context() as patch:
            patch.setattr(model.backbone.text_config, "max_position_embeddings", state.rope.next - 1)
            with pytest.raises(InputError, match="positions"):
                model.append(state, steps[1:])
            with pytest.raises(InputError, match="positions"):
                model.append_text(state, "one two three four five")
        assert same_bits(before, held(state))
        model.append(state, steps[appended:])
        assert_near(answer_logits(model, state, CHOICE), logits_of(model, example(steps)))


def test_evicting_what_is_not_held_is_an_error(model: GazeQwen) -> None:
    state = model.start(arm="none")
    model.append(state, made_steps(2))
    state.evict([0])
    for ids in ([0], [7]):
        with pytest.raises(InputError, match="steps held"):
            state.evict(ids)
    tokens = state.tokens
    state.evict([])
    assert state.tokens == tokens and state.evicted == [0]


def test_without_an_extractor_only_plain_arms_answer(model: GazeQwen) -> None:
    bare = GazeQwen(model.config, vlm=model.vlm, tokenizer=model.tokenizer, extractor=None)
    item = example(made_steps(1))
    with pytest.raises(ConfigError, match="V-JEPA"):
        bare([item])
    assert torch.equal(logits_of(bare, item, "none"), logits_of(model, item, "none"))


def test_frames_of_other_sizes_in_one_run_and_unknown_arms_are_refused(model: GazeQwen) -> None:
    with pytest.raises(InputError, match="one size"):
        model.encode([*made_steps(1), *made_steps(1, start_s=1.0, size_px=SQUARE)])
    with pytest.raises(ConfigError, match="unknown arm"):
        model.start(arm="telepathy")


def test_bfloat16_stays_close_to_float32(model: GazeQwen) -> None:
    half = GazeQwen.from_pretrained("tiny", dtype="bfloat16")
    half.resampler.load_state_dict(model.resampler.state_dict())
    assert half.backbone.dtype == torch.bfloat16
    steps = made_steps(2)
    logits = logits_of(half, example(steps))
    assert logits.dtype == torch.float32
    full = logits_of(model, example(steps))
    assert (logits - full).abs().max() < 0.1 * full.abs().max()


def test_describe_counts_the_parts(model: GazeQwen) -> None:
    found = model.describe()
    assert found["parameters"]["resampler"] == sum(p.numel() for p in model.resampler.parameters())
    assert found["arms"] == list(ARMS)
    assert found["layers"] == [0, 1]


def test_fixations_are_for_the_official_rules_only(model: GazeQwen) -> None:
    steps = made_steps(1)
    fixations = Fixations.build([0.1], [0.6], [[0.9, 0.9]])
    item = example(steps)
    assert torch.equal(logits_of(model, replace(item, fixations=fixations)), logits_of(model, item))
    assert np.isfinite(logits_of(model, item).numpy()).all()


# -- what never changes ------------------------------------------------------------------------------------------------


def residuals_of(model: GazeQwen, encoded: EncodedSteps) -> list[Tensor]:
    assert encoded.residuals is not None
    return [encoded.residuals.for_layer(layer) for layer in encoded.residuals.layers]


def test_encoding_from_frozen_features_is_encoding(model: GazeQwen) -> None:
    steps, later = made_steps(3), made_steps(2, start_s=3.0, seed=4)
    windows = model.new_window(), model.new_window()
    for run in (steps, later):
        plain = model.encode(run, window=windows[0])
        frozen = model.frozen(run, window=windows[1])
        clock: dict[str, float] = {}
        again = model.encode(run, frozen=frozen, latency_ms=clock)
        assert torch.equal(again.visual, plain.visual) and (again.h, again.w) == (plain.h, plain.w)
        for a, b in zip(residuals_of(model, again), residuals_of(model, plain), strict=True):
            assert torch.equal(a, b)
        assert set(clock) == {"resampler"}
    assert windows[0].times_s.tolist() == windows[1].times_s.tolist() and windows[0].times_s[-1] == 4.75
    blank = [step.without_frames() for step in later]
    placed = model.encode(blank, frozen=frozen)
    assert all(torch.equal(a, b) for a, b in zip(residuals_of(model, placed), residuals_of(model, plain), strict=True))
    assert model.frozen(steps, arm="none").features is None
    assert torch.equal(model.frozen(steps, arm="none").visual, model.frozen(steps).visual)
    assert not torch.equal(model.frozen(steps, arm="marker").visual, model.frozen(steps).visual)
    assert not model.frozen(steps).visual.requires_grad
    # An arm without features leaves out those that another arm's cache brings.
    without, brought = (model.encode(steps, arm="no-features", frozen=made) for made in (None, model.frozen(steps)))
    assert without.residuals is not None and brought.residuals is not None
    assert torch.equal(without.residuals.base, brought.residuals.base) and without.residuals.base.any()


def test_frozen_features_in_runs_are_those_of_the_stream(model: GazeQwen) -> None:
    steps = made_steps(4)
    plain, ours = model.start(), model.start()
    window = model.new_window()
    for run in (steps[:3], steps[3:]):
        model.append(plain, run)
        frozen = model.frozen(run, window=window)
        model.append(ours, run, frozen=frozen, window=window.copy())
    assert same_bits(held(plain), held(ours))
    whole = model.frozen(steps)
    parts = Frozen.cat([whole[:1], whole[1:4]])
    assert torch.equal(parts.visual, whole.visual) and len(parts) == 4
    with pytest.raises(InputError, match="one grid"):
        Frozen.cat([whole, model.frozen(made_steps(1, size_px=SQUARE))])


def test_frozen_features_of_other_steps_are_refused(model: GazeQwen) -> None:
    steps = made_steps(2)
    frozen = model.frozen(steps)
    with pytest.raises(InputError, match="expected 1 steps, found 2"):
        model.encode(steps[:1], frozen=frozen)
    with pytest.raises(InputError, match="V-JEPA features for arm 'inject'"):
        model.encode(steps, frozen=model.frozen(steps, arm="none"))
    blank = [step.without_frames() for step in steps]
    assert blank[0].frames.nbytes > 1000 and not any(blank[0].frames.strides)  # all of one byte
    for call in (model.frozen, model.encode):
        with pytest.raises(InputError, match="found placeholders"):
            call(blank)


def test_frames_passed_over_are_missed_when_they_are_needed(model: GazeQwen) -> None:
    steps = made_steps(5)
    state = model.start()
    model.append(state, steps[:2], frozen=model.frozen(steps[:2]))
    before = held(state)
    with pytest.raises(InputError, match="passed over"):
        model.append(state, steps[2:3])
    assert same_bits(before, held(state))
    assert state.window is not None and len(state.window) == 0
    for step in steps[2:4]:  # two spans of four frames fill a window of eight
        state.window.take(step.vjepa_frames, step.vjepa_times_s)
    whole = model.frozen(steps)
    assert whole.features is not None
    alone = model.frozen(steps[4:], window=state.window).features
    assert alone is not None
    torch.testing.assert_close(alone, whole.features[4:], atol=1e-5, rtol=0.0)


def test_the_published_clip_is_frozen_as_a_whole() -> None:
    official = official_tiny()
    steps, fixations = made_steps(3), Fixations.build([0.2, 1.4], [0.8, 2.2], [[0.2, 0.3], [0.7, 0.6]])
    plain = official.encode(steps, fixations=fixations)
    again = official.encode(steps, fixations=fixations, frozen=official.frozen(steps))
    for a, b in zip(residuals_of(official, again), residuals_of(official, plain), strict=True):
        assert torch.equal(a, b) and a.abs().max() > 0
