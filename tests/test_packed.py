"""Packed training forward: every question as it would be scored alone on a stream, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import ARMS as ALL_ARMS
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.model import Example
from gazeqwen.official import LORA_TARGETS
from gazeqwen.packed import use_packed_attention
from gazeqwen.state import StreamState
from gazeqwen.train.examples import Ask, Form, TrainingVideo
from gazeqwen.train.forward import PackedForward, Scored
from gazeqwen.types import Question, Step
from stream.session import StreamSession
from stream.steps import Cut
from tests.made_steps import OPTIONS, SQUARE, WIDE, made_steps, official_tiny, with_residuals

LETTERS: Form = "letters"


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return with_residuals(GazeQwen.from_pretrained("tiny"))


def with_lora(model: GazeQwen) -> GazeQwen:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False)
    wrapped = get_peft_model(model.vlm, adapter)  # type: ignore[arg-type]
    adapted = GazeQwen(model.config, vlm=wrapped.eval(), tokenizer=model.tokenizer, extractor=model.extractor)
    for parameter in with_residuals(adapted).trainable_parameters().values():
        parameter.requires_grad_(True)
    return adapted


def tail_after(steps: int, *, seed: int, size_px: tuple[int, int]) -> Step:
    """A partial step of 0.4 s with one frame for Qwen."""
    whole = made_steps(1, start_s=float(steps), seed=seed, size_px=size_px)[0]
    now_s = steps + 0.4
    kept = whole.gaze.t_s <= now_s
    gaze = replace(
        whole.gaze,
        **{name: getattr(whole.gaze, name)[kept] for name in ("t_s", "xy_norm", "duration_s", "valid", "is_fixation")},
        age_s=now_s - whole.gaze.t_s[kept],
        frame_t_s=whole.gaze.frame_t_s[kept],
    )
    return replace(
        whole,
        frames=whole.frames[[0, 0]],
        frame_times_s=whole.frame_times_s[[0, 0]],
        span_s=(float(steps), now_s),
        vjepa_frames=whole.vjepa_frames[:2],
        vjepa_times_s=whole.vjepa_times_s[:2],
        gaze=gaze,
        repeated=True,
        partial=True,
    )


def made_asks(
    asks: Sequence[tuple[int, int, bool]], *, seed: int, size_px: tuple[int, int], proactive: bool = False
) -> list[Ask]:
    """A question for each (stop, first, has a tail), with words and options of its own."""
    made = []
    for k, (stop, first, has_tail) in enumerate(asks):
        options = prompts.YES_NO if proactive else (f"A. knife {k}", "B. green jar on the left", "C. box")[: 2 + k % 2]
        tail = tail_after(stop, seed=seed + 7, size_px=size_px) if has_tail else None
        question = Question(f"Which object {k + seed} now?", stop + (0.4 if has_tail else 0.0), options)
        made.append(Ask(question, k % 2, f"the box {k}", stop, first=first, tail=tail, proactive=proactive))
    return made


def made_video(
    n: int,
    asks: Sequence[tuple[int, int, bool]],
    *,
    seed: int = 0,
    size_px: tuple[int, int] = WIDE,
    proactive: bool = False,
) -> TrainingVideo:
    made = made_asks(asks, seed=seed, size_px=size_px, proactive=proactive)
    return TrainingVideo(f"video {seed}", made_steps(n, seed=seed, size_px=size_px), None, made)


def with_frozen(model: GazeQwen, video: TrainingVideo, *, tails: bool = True) -> TrainingVideo:
    """The same with what frozen weights make of it, as a cache gives it: its steps are placeholders."""
    window = model.new_window()
    parts, asks = [], list(video.asks)
    for stop in range(len(video.steps) + 1):
        for row, ask in enumerate(video.asks):
            if ask.stop == stop and ask.tail is not None:
                made = model.frozen([ask.tail], window=window.copy()) if tails else None
                asks[row] = replace(ask, tail=ask.tail.without_frames(), tail_frozen=made)
        if stop < len(video.steps):
            parts.append(model.frozen([video.steps[stop]], window=window))
    steps = [step.without_frames() for step in video.steps]
    return TrainingVideo(video.id, steps, Frozen.cat(parts) if parts else None, asks)


@pytest.fixture(scope="module")
def cached(model: GazeQwen) -> list[TrainingVideo]:
    return [with_frozen(model, video) for video in VIDEOS]


@cache
def pool(size_px: tuple[int, int]) -> TrainingVideo:
    """Five steps with a partial one after each number of them, encoded."""
    tiny = GazeQwen.from_pretrained("tiny")
    return with_frozen(tiny, made_video(5, [(stop, 0, True) for stop in range(6)], seed=8, size_px=size_px))


def stream_of(model: GazeQwen, video: TrainingVideo, ask: Ask, arm: str) -> StreamState:
    """A stream that has come as far as the question, on its fork."""
    state = model.start(arm=arm)
    if arm == "blind":
        return state
    if ask.stop:
        model.append(state, video.steps[: ask.stop], frozen=video.frozen and video.frozen[: ask.stop])
    if ask.tail is not None:
        model.append(state, [ask.tail], frozen=ask.tail_frozen)
    state.evict(range(ask.first))
    return state


def nll_of(model: GazeQwen, state: StreamState, ask: Ask) -> Tensor:
    """Sum over the target's tokens, said one at a time on the stream's cache."""
    fork = state.fork()
    words = model._after_video(fork) + model.question_text(fork, ask.question.text, (), LETTERS) + prompts.ASSISTANT
    total = torch.zeros(())
    with torch.no_grad():
        hidden = model._append_text(fork, words)
        for token in model._ids(ask.target + prompts.TURN_END):
            total -= torch.log_softmax(model.backbone.logits(hidden[0, -1]), dim=-1)[token]
            hidden = model._append(fork, model.backbone.embed_ids(token[None]), fork.rope.text(1))
    return total


def alone(model: GazeQwen, video: TrainingVideo, ask: Ask, form: Form, arm: str) -> Tensor:
    state = stream_of(model, video, ask, arm)
    if form == "text":
        return nll_of(model, state, ask)[None]
    return model.score(state, ask.question.text, ask.question.options, scoring=form)


def values(found: Sequence[Scored]) -> list[Tensor]:
    return [item.nll[None] if item.nll is not None else item.logprobs for item in found]  # type: ignore[misc]


def total(found: Sequence[Scored]) -> Tensor:
    """One number that depends on every output, with a weight of its own for each."""
    return sum(((k + 1) * row[0] for k, row in enumerate(values(found))), torch.zeros(()))


def assert_near(ours: Sequence[Tensor], theirs: Sequence[Tensor], atol: float = 1e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.to(one), atol=atol, rtol=0.0)


@contextmanager
def held_as(model: GazeQwen, arm: str) -> Iterator[None]:
    """As if these were the arm's own weights (what `checkpoint.load_arm` says of them)."""
    model.arm_weights = arm
    try:
        yield
    finally:
        model.arm_weights = ""


VIDEOS = (
    made_video(4, [(2, 0, False), (3, 1, True), (4, 2, False), (4, 4, False)]),
    made_video(2, [(0, 0, True), (2, 0, False), (0, 0, False)], seed=3, size_px=SQUARE),
    made_video(3, [(1, 1, True), (3, 2, True)], seed=5, proactive=True),
    made_video(0, [(0, 0, False)], seed=6),
)
FORMS: tuple[tuple[Form, ...], ...] = (
    ("letters", "likelihood", "text", "letters"),
    ("text", "letters", "likelihood"),
    ("yes_no", "yes_no"),
    ("letters",),
)
ARMS = ("inject", "none", "text", "blind", "marker-trained", "no-features")


@pytest.mark.parametrize("arm", ARMS)
def test_packed_equals_each_question_alone_on_a_stream(model: GazeQwen, cached: list[TrainingVideo], arm: str) -> None:
    videos = VIDEOS if ALL_ARMS[arm].changes_frames or ALL_ARMS[arm].features_zeroed else cached
    with held_as(model, arm if arm in ("marker-trained", "no-features") else ""):
        theirs = [
            alone(model, video, ask, form, arm)
            for video, forms in zip(videos, FORMS, strict=True)
            for ask, form in zip(video.asks, forms, strict=True)
        ]
    with torch.no_grad():
        found = PackedForward(model, arm)(videos, FORMS)
    assert_near(values(found), theirs)
    assert [item.form for item in found] == [form for forms in FORMS for form in forms]
    targets = [len(model._ids(ask.target + prompts.TURN_END)) for video in VIDEOS for ask in video.asks]
    assert [item.n_tokens for item in found] == [
        n if item.form == "text" else 0 for item, n in zip(found, targets, strict=True)
    ]


def test_arms_windows_and_tails_matter(model: GazeQwen) -> None:
    """Else the equalities above would hold of a forward that ignores them."""
    video = made_video(4, [(4, 0, False), (4, 2, False), (4, 0, True)])
    video = replace(video, asks=[replace(ask, question=video.asks[0].question) for ask in video.asks])
    first, window, tail = (row.detach() for row in values(PackedForward(model, "inject")([video], [[LETTERS] * 3])))
    assert (first - window).abs().max() > 1e-3 and (first - tail).abs().max() > 1e-3
    for arm in ("none", "null", "blind"):
        assert (values(PackedForward(model, arm)([video], [[LETTERS] * 3]))[0] - first).abs().max() > 1e-3


@pytest.mark.parametrize("window_s", [None, 2.0])
def test_packed_equals_a_session_with_a_window_and_a_cut(model: GazeQwen, window_s: float | None) -> None:
    stop = 4
    first = 0 if window_s is None else 3  # the third step ended at 3 s, which is not after 4.4 - 2
    video = made_video(stop, [(stop, first if window_s is None else 2, True)])
    ask = video.asks[0]
    session = StreamSession(model, window_s=window_s)
    session.extend(video.steps)
    session.at(Cut(ask.question.t_s, ask.tail))
    chosen = session.choose(ask.question.text, ask.question.options, scoring="likelihood")
    (ours,) = PackedForward(model, "inject")([video], [["likelihood"]])
    assert_near([ours.logprobs.detach()], [torch.tensor(list(chosen.option_logprobs.values()))])  # type: ignore[union-attr]
    assert chosen.evicted_steps == ask.first


def test_text_equals_the_loss_of_the_models_own_forward(model: GazeQwen) -> None:
    video = made_video(3, [(3, 0, True)])
    ask = replace(video.asks[0], question=Question("What is it?", 3.4))
    assert ask.tail is not None
    with torch.no_grad():
        loss = model([Example(((*video.steps, ask.tail),), ask.question, target=ask.target)]).loss
        (ours,) = PackedForward(model, "inject")([replace(video, asks=[ask])], [["text"]])
    assert loss is not None and ours.nll is not None and ours.logprobs is None
    assert_near([ours.nll / ours.n_tokens], [loss])


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_mix_of_videos_equals_its_questions_one_by_one(model: GazeQwen, data: st.DataObject) -> None:
    videos, forms = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        n = data.draw(st.integers(0, 5))
        asks = []
        for _ in range(data.draw(st.integers(1, 5))):
            stop = data.draw(st.integers(0, n))
            asks.append((stop, data.draw(st.integers(0, stop)), data.draw(st.booleans())))
        size_px = data.draw(st.sampled_from([WIDE, SQUARE]))
        known = pool(size_px)
        made = [
            replace(ask, tail=ask.tail and known.asks[ask.stop].tail, tail_frozen=known.asks[ask.stop].tail_frozen)
            for ask in made_asks(asks, seed=seed, size_px=size_px)
        ]
        video = TrainingVideo(str(seed), known.steps[:n], known.frozen and known.frozen[:n], made)
        videos.append(video)
        forms.append([data.draw(st.sampled_from(ask.forms())) for ask in video.asks])
    packed = PackedForward(model, data.draw(st.sampled_from(["inject", "none"])))
    with torch.no_grad():
        together = values(packed(videos, forms))
        one_by_one = [
            value
            for video, of_video in zip(videos, forms, strict=True)
            for row, form in enumerate(of_video)
            for value in values(packed([video.only([row])], [[form]]))
        ]
    assert_near(together, one_by_one)


# -- what frozen weights make of a video may come with it --------------------------------------------------------------


def test_frozen_features_from_a_cache_give_the_same(model: GazeQwen) -> None:
    video = made_video(4, [(1, 0, True), (3, 1, False), (3, 1, True)])
    packed, forms = PackedForward(model, "inject"), [["letters", "text", "likelihood"]]
    with torch.no_grad():
        assert_near(values(packed([with_frozen(model, video)], forms)), values(packed([video], forms)), atol=2e-6)


def test_a_partial_step_without_the_features_of_its_past_is_refused(model: GazeQwen) -> None:
    video = with_frozen(model, made_video(2, [(2, 0, True)]), tails=False)
    with pytest.raises(InputError, match="placeholders"):
        PackedForward(model, "inject")([video], [[LETTERS]])
    ask = replace(video.asks[0], tail=made_video(2, [(2, 0, True)]).asks[0].tail)
    with pytest.raises(InputError, match="passed over"):
        PackedForward(model, "inject")([replace(video, asks=[ask])], [[LETTERS]])
    PackedForward(model, "none")([replace(video, asks=[ask])], [[LETTERS]])  # needs no V-JEPA


def test_an_arm_without_features_takes_none_from_a_cache_either(model: GazeQwen, cached: list[TrainingVideo]) -> None:
    packed = PackedForward(model, "no-features")
    with torch.no_grad():
        ours = values(packed(cached[:1], FORMS[:1]))
        assert_near(ours, values(packed(VIDEOS[:1], FORMS[:1])), atol=2e-6)
        assert (ours[0] - values(PackedForward(model, "inject")(cached[:1], FORMS[:1]))[0]).abs().max() > 1e-3


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradients(model: GazeQwen, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    run().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        scale = theirs[name].abs().max().clamp(min=1e-8)
        assert (grad - theirs[name]).abs().max() <= rtol * scale, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_the_sum_are_the_sum_of_separate_gradients_with_lora(
    cached: list[TrainingVideo], dtype: torch.dtype
) -> None:
    model = with_lora(GazeQwen.from_pretrained("tiny")).to(dtype)
    packed = PackedForward(model, "inject")
    trained = {name for name, parameter in model.trainable_parameters().items() if parameter.requires_grad}

    def separate() -> Tensor:
        parts, place = [], 0
        for video, forms in zip(cached[:3], FORMS[:3], strict=True):
            for row, form in enumerate(forms):
                place += 1
                parts.append(place * values(packed([video.only([row])], [[form]]))[0][0])
        return sum(parts, torch.zeros(()))

    ours = gradients(model, lambda: total(packed(cached[:3], FORMS[:3])))
    assert ours.keys() == trained and all(grad.abs().max() > 0 for grad in ours.values())
    assert_same_gradients(ours, gradients(model, separate), 2e-4 if dtype is torch.float32 else 1e-6)
    if dtype is torch.float64:  # logits are taken in float32 for every dtype
        with torch.no_grad():
            theirs = [alone(model, cached[0], *pair, "inject") for pair in zip(cached[0].asks, FORMS[0], strict=True)]
            assert_near(values(packed(cached[:1], FORMS[:1])), theirs)


def test_gradient_checkpointing_changes_nothing(cached: list[TrainingVideo]) -> None:
    model = with_lora(GazeQwen.from_pretrained("tiny"))
    packed = PackedForward(model, "inject")
    plain = gradients(model, lambda: total(packed(cached[:2], FORMS[:2])))
    packed.train()
    model.backbone.bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.backbone.decoder.layers[0].gradient_checkpointing
    with packed.held():
        assert_same_gradients(gradients(model, lambda: total(packed(cached[:2], FORMS[:2]))), plain, 1e-5)


def test_hooks_stay_for_one_forward_while_held_and_no_longer(model: GazeQwen, cached: list[TrainingVideo]) -> None:
    packed = PackedForward(model, "inject")
    hooks = [len(layer._forward_hooks) for layer in model.backbone.layers]
    with torch.no_grad():
        packed(cached[1:2], FORMS[1:2])
        assert [len(layer._forward_hooks) for layer in model.backbone.layers] == hooks
        for _ in range(2):
            with packed.held():
                packed(cached[1:2], FORMS[1:2])
                assert [len(layer._forward_hooks) for layer in model.backbone.layers] != hooks
                with pytest.raises(ConfigError, match="one forward"):
                    packed(cached[1:2], FORMS[1:2])
            assert [len(layer._forward_hooks) for layer in model.backbone.layers] == hooks


# -- the latents' attention, cost, and what is left alone --------------------------------------------------------------


def test_the_latents_attention_comes_once_a_video_with_the_gaze_that_reached_it(
    model: GazeQwen, cached: list[TrainingVideo]
) -> None:
    found = PackedForward(model, "inject", attention=True)(cached, FORMS)
    assert_near(values(found), values(PackedForward(model, "inject")(cached, FORMS)))
    of_first = [item.attended for item in found[:4]]
    assert of_first[0] is not None and all(other is of_first[0] for other in of_first)
    assert found[6].attended is None and found[9].attended is None  # they see no video
    attended = of_first[0]
    steps = [*cached[0].steps, cached[0].asks[1].tail]
    assert [gaze is step.gaze for gaze, step in zip(attended.gaze, steps, strict=True)] == [True] * 5  # type: ignore[union-attr]
    assert attended.weights.shape == (5, 16, attended.h * attended.w) and attended.weights.requires_grad
    torch.testing.assert_close(attended.weights.sum(dim=-1), torch.ones(5, 16))
    features = cached[0].frozen.features  # type: ignore[union-attr]
    _, alone_weights = model.resampler(features, GazeBatch.from_events(attended.gaze[:4]), return_attention=True)
    assert_near([attended.weights[:4]], [alone_weights])


def test_logits_are_computed_where_something_is_said_only(
    model: GazeQwen, cached: list[TrainingVideo], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    logits = model.backbone.logits
    monkeypatch.setattr(model.backbone, "logits", lambda hidden: asked.append(len(hidden)) or logits(hidden))
    PackedForward(model, "none")(cached[:1], [["letters", "letters", "text", "letters"]])
    assert asked == [3 + len(model._ids(cached[0].asks[2].target + prompts.TURN_END))]


def test_packed_attention_leaves_streams_as_they_are(cached: list[TrainingVideo]) -> None:
    video, fresh = cached[0], with_residuals(GazeQwen.from_pretrained("tiny"))
    before = [alone(fresh, video, ask, "likelihood", "inject") for ask in video.asks]
    use_packed_attention(fresh.backbone)
    after = [alone(fresh, video, ask, "likelihood", "inject") for ask in video.asks]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


# -- refused -----------------------------------------------------------------------------------------------------------


def test_what_can_not_be_packed_is_refused_in_one_line(model: GazeQwen) -> None:
    with pytest.raises(ConfigError, match="official"):
        PackedForward(official_tiny(), "none")
    for arm in ("heatmap", "oracle"):
        with pytest.raises(ConfigError, match=f"arm '{arm}' can't be trained"):
            PackedForward(model, arm)
    with pytest.raises(ConfigError, match="latents; arm 'none'"):
        PackedForward(model, "none", attention=True)
    eager = GazeQwen.from_pretrained("tiny")
    eager.backbone.decoder.config._attn_implementation = "eager"
    with pytest.raises(ConfigError, match="sdpa"):
        PackedForward(eager, "inject")


def test_forms_that_do_not_fit_are_refused(model: GazeQwen, cached: list[TrainingVideo]) -> None:
    packed = PackedForward(model, "inject")
    for videos, forms in (([], []), (cached[:1], [["letters"]]), (cached[:2], FORMS[:1]), ([cached[0].only([])], [[]])):
        with pytest.raises(InputError, match="a form for each"):
            packed(videos, forms)
    with pytest.raises(InputError, match="letters, likelihood, text, found yes_no"):
        packed(cached[:1], [["letters", "yes_no", "text", "text"]])
    with pytest.raises(InputError, match=r"video 5.*found letters"):
        packed(cached[2:3], [["letters", "yes_no"]])


def test_a_context_longer_than_the_models_is_refused(model: GazeQwen) -> None:
    video = made_video(1, [(1, 0, False)])
    steps = [*video.steps, *made_steps(1, start_s=20000.0)]
    late = replace(video.asks[0], stop=2, question=Question("Which?", 20001.0, OPTIONS))
    with pytest.raises(InputError, match="positions"):
        PackedForward(model, "none")([replace(video, steps=steps, asks=[late])], [[LETTERS]])


def test_numbers_from_a_half_precision_cache_are_taken(model: GazeQwen) -> None:
    video = with_frozen(model, made_video(2, [(2, 0, False)]))
    assert video.frozen is not None and video.frozen.features is not None
    half = Frozen(video.frozen.visual.half(), video.frozen.features.half(), video.frozen.h, video.frozen.w)
    packed = PackedForward(model, "inject")
    with torch.no_grad():
        ours = values(packed([replace(video, frozen=half)], [[LETTERS]]))
        assert_near(ours, values(packed([video], [[LETTERS]])), atol=5e-2)
    assert ours[0].dtype is torch.float32 and np.isclose(float(ours[0].exp().sum()), 1.0, atol=1e-5)
