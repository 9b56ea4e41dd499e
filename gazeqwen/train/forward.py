"""Training's forward: many questions of many videos in one row of tokens, each scored as it would be alone.

    videos, forms ─► frozen parts ─► one resampler call a grid ─┐
                  └► blocks of words and what may be said ──────┴─► packed row ─► decoder with hooks ─► Scored

Layout, positions, wordings and residuals are those of `GazeQwen.append` and `GazeQwen.score` on a stream at the same
time (tests hold log-probabilities and gradients within 1e-5); `gazeqwen.packed` has the structure of the row. Logits
are computed at the tokens that answer, never for the whole row.

Shapes: S whole steps of a video, T its partial ones, P = h * w video tokens of a step, L tokens of the row, D hidden
size, n options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gazeqwen import prompts
from gazeqwen.arms import Arm, get_arm
from gazeqwen.backbone import new_cache
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.injection import ResidualPlan, TokenMap, VideoTokens
from gazeqwen.model import GazeQwen, _LayerRows
from gazeqwen.packed import Block, Row, decode_packed, use_packed_attention
from gazeqwen.positions import MRope
from gazeqwen.resampler import GazeResampler, Residuals
from gazeqwen.state import Span, StepRecord, StreamState
from gazeqwen.train.examples import Ask, Form, TrainingVideo
from gazeqwen.types import GazeEvents, Step

IDS_KEPT = 16384  # texts whose token ids are kept, about a kilobyte each


@dataclass(frozen=True, eq=False)
class Attended:
    """Where the resampler's latents looked in one video: its whole steps in order, then its partial ones.

    Attributes:
        weights: (S + T, latents, h * w) differentiable, see `GazeResampler.forward`.
        gaze: (S + T) what reached the resampler.
        h, w: rows and columns of the video tokens.
    """

    weights: Tensor
    gaze: tuple[GazeEvents, ...]
    h: int
    w: int


@dataclass(frozen=True, eq=False)
class Scored:
    """What the model makes of one question.

    Attributes:
        form: how it was put.
        logprobs: (n,) float32 log-probabilities of the options, normalised over them; None for "text".
        nll: () float32 negative log-likelihood of the target with the turn's end, summed over its tokens; None for the
            other forms.
        n_tokens: tokens of that target; 0 for the other forms.
        attended: of its video where asked for: one object for all of a video's questions. None for a question that
            sees no video.
    """

    form: Form
    logprobs: Tensor | None
    nll: Tensor | None
    n_tokens: int
    attended: Attended | None = None


@dataclass(eq=False)
class _Asked:
    """A question of the forward, laid out as a block of q tokens: `tail` (P, D) where there is one, then `ids`.

    `reads`: for each text that may be said, the rows of the block whose logits give its tokens. `start`: the block's
    row in the packed one.
    """

    ask: Ask
    form: Form
    tail: Tensor | None
    ids: Tensor
    positions: Tensor
    parent: Tensor
    seen: tuple[int, int]
    said: list[Tensor]
    reads: list[Tensor]
    start: int = 0
    attended: Attended | None = None

    def block(self, embeds: Tensor) -> Block:
        if self.tail is None:
            return Block(embeds, self.positions, self.parent, self.seen)
        return Block(torch.cat([self.tail, embeds]), self.positions, self.parent, self.seen, len(self.tail))


@dataclass(eq=False)
class _Shared:
    """What questions share: the opening's `ids`, then the whole steps of a video, or none.

    `steps` (S + T): its whole steps up to the last one that is seen, then the partial ones of the questions in their
    order; `frozen` and `visual` (S + T, P, D) are of them. `after`: by number of whole steps, the place after them.
    `start`: row of the opening.
    """

    ids: Tensor
    positions: list[Tensor]
    after: dict[int, MRope]
    whole: int = 0
    steps: list[Step] = field(default_factory=list)
    frozen: Frozen | None = None
    visual: Tensor | None = None
    asked: list[_Asked] = field(default_factory=list)
    start: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a step's video tokens; none without a video."""
        return (0, 0) if self.frozen is None else (self.frozen.h, self.frozen.w)


class PackedForward(nn.Module):
    """The module that a trainer wraps (DDP, FSDP): scores questions of videos for one arm, differentiably.

    Args:
        model: its decoder is set to the packed attention, which is sdpa for everything else.
        arm: how gaze reaches the model; what it needs from outside (another recording's gaze, late gaze) has been done
            to the videos.
        attention: also give the latents' attention, for losses that need it.

    Raises:
        ConfigError: the decoder runs another attention than sdpa; compat="official", whose features are those of a
            whole clip, so that questions can't share a prefix; an arm that is no model or shows a picture of the gaze;
            attention asked of an arm or a resampler without latents.
    """

    def __init__(self, model: GazeQwen, arm: Arm | str, *, attention: bool = False) -> None:
        super().__init__()
        arm = get_arm(arm)
        if model.official:
            raise ConfigError("compat='official' encodes each clip as a whole: its questions can't be packed")
        if arm.solver or arm.salience:
            raise ConfigError(f"arm {arm.name!r} can't be trained or scored in packed rows")
        if attention and not (arm.inject and isinstance(model.resampler, GazeResampler)):
            raise ConfigError(f"a loss on attention needs a resampler with latents; arm {arm.name!r} here has none")
        use_packed_attention(model.backbone)
        self.model, self.arm, self.attention = model, arm, attention
        self._nothing_seen = StreamState(self.arm, new_cache(model.backbone), MRope(tokens_per_second=1), None)
        self._ids = lru_cache(maxsize=IDS_KEPT)(model._ids)  # questions and options come again every epoch
        self._letter_ids = lru_cache(maxsize=None)(lambda n: prompts.letter_ids(model.tokenizer, n))
        self._holding: ExitStack | None = None
        self._is_used = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the hooks of one forward open until its backward is done.

        Needed under gradient checkpointing, where transformers 4.57 runs the layers again, hooks and all, in backward.
        Outside of it a forward closes its own hooks, which is right for everything else.
        """
        with ExitStack() as stack:
            self._holding, self._is_used = stack, False
            try:
                yield
            finally:
                self._holding = None

    def forward(self, videos: Sequence[TrainingVideo], forms: Sequence[Sequence[Form]]) -> list[Scored]:
        """Scores every question of every video.

        Args:
            videos: of any lengths and frame sizes.
            forms: for each video, how each of its questions is put.

        Returns:
            One Scored per question, video after video.

        Raises:
            InputError: no question; forms that don't fit the questions; a partial step without frozen features in a
                video whose whole steps bring theirs; a context longer than the model's.
            ConfigError: as `GazeQwen.frozen`; a second forward inside one `held`.
        """
        _require_forms(videos, forms)
        unseen = self._opening(video=False)  # one for the questions of all videos that see none
        shared, asked = [unseen], []
        for video, of_video in zip(videos, forms, strict=True):
            sees = [self.arm.video and (ask.stop > 0 or ask.tail is not None) for ask in video.asks]
            if any(sees):
                shared.append(self._show(video, [ask for ask, seen in zip(video.asks, sees, strict=True) if seen]))
            for ask, form, seen in zip(video.asks, of_video, sees, strict=True):
                of_ask = shared[-1] if seen else unseen
                asked.append(self._ask(ask, form, video, of_ask))
                of_ask.asked.append(asked[-1])
        shared = [part for part in shared if part.asked]
        row = self._row(shared)
        with self._injecting(self._plan([part for part in shared if part.frozen is not None])):
            hidden = decode_packed(self.model.backbone, row)
        return self._scored(hidden, asked)

    @contextmanager
    def _injecting(self, plan: ResidualPlan | None) -> Iterator[None]:
        if self._holding is None:
            with self.model._injecting(plan):
                yield
            return
        if self._is_used:  # the hooks of both would add to both
            raise ConfigError("PackedForward.held: one forward and its backward each time")
        self._is_used = True
        self._holding.enter_context(self.model._injecting(plan))
        yield

    # -- videos: frozen parts and residuals ----------------------------------------------------------------------------

    def _show(self, video: TrainingVideo, asks: Sequence[Ask]) -> _Shared:
        """The video as far as these questions see it."""
        made = self._opening(video=True)
        made.whole = max(ask.stop for ask in asks)
        made.steps = [*video.steps[: made.whole], *(ask.tail for ask in asks if ask.tail is not None)]
        made.frozen = self._frozen(video, asks)
        self.model._require_frozen(made.frozen, made.steps, self.arm)
        made.visual = made.frozen.visual.to(self.model.backbone.device, self.model.backbone.dtype)
        rope = made.after[0].copy()
        for s, step in enumerate(made.steps[: made.whole]):
            made.positions.append(rope.step(_seconds(made.steps[0], step), *made.grid))
            made.after[s + 1] = rope.copy()
        return made

    def _frozen(self, video: TrainingVideo, asks: Sequence[Ask]) -> Frozen:
        """Of the whole steps, then of the partial ones; encoded here where the video does not bring it."""
        window = self.model.start_window(self.arm)
        whole: list[Frozen] = []
        tails: dict[int, Frozen] = {}
        done = 0
        for place in sorted(range(len(asks)), key=lambda k: asks[k].stop):
            ask = asks[place]
            steps = video.steps[done : ask.stop]
            if steps and video.frozen is None:
                whole.append(self.model.frozen(steps, arm=self.arm, window=window))
            elif steps and window is not None:
                window.pass_over(np.concatenate([step.vjepa_times_s for step in steps]))
            done = max(done, ask.stop)
            if ask.tail is not None:
                ahead = None if window is None else window.copy()
                tails[place] = ask.tail_frozen or self.model.frozen([ask.tail], arm=self.arm, window=ahead)
        if done and video.frozen is not None:
            whole = [video.frozen[:done]]
        return Frozen.cat([*whole, *(tails[place] for place in sorted(tails))])

    def _plan(self, shown: Sequence[_Shared]) -> ResidualPlan | None:
        """Where every residual goes; the resampler is called once for all videos of a grid."""
        if not self.arm.inject or not shown:
            return None
        by_grid: dict[tuple[int, int], list[_Shared]] = {}
        for video in shown:
            by_grid.setdefault(video.grid, []).append(video)
        blocks: list[VideoTokens] = []
        for (h, w), videos in by_grid.items():
            for video in videos:
                starts = [video.start + len(video.ids) + s * h * w for s in range(video.whole)]
                starts += [item.start for item in video.asked if item.tail is not None]
                blocks += [VideoTokens(0, start, s, h, w) for s, start in enumerate(starts)]
        residuals = [self._residuals(videos) for videos in by_grid.values()]
        return ResidualPlan(TokenMap.from_blocks(blocks), _LayerRows(residuals))

    def _residuals(self, videos: Sequence[_Shared]) -> Residuals:
        """As `GazeQwen.encode`, of videos with one grid."""
        model, (h, w) = self.model, videos[0].grid
        gaze = [self.arm.prepare(step).gaze for video in videos for step in video.steps]
        weight = next(model.resampler.parameters())
        if self.arm.features_zeroed:
            features = torch.cat(
                [model._zero_features(len(video.steps), part) for video in videos if (part := video.frozen) is not None]
            )
        else:
            parts = [part.features for video in videos if (part := video.frozen) is not None]
            features = torch.cat([part for part in parts if part is not None]).to(weight.device)
        resampler: Any = model.resampler
        batch = GazeBatch.from_events(gaze, weight.device)
        if not self.attention:
            return resampler(features, batch)
        residuals, weights = resampler(features, batch, return_attention=True)
        first = 0
        for video in videos:
            stop = first + len(video.steps)
            attended = Attended(weights[first:stop], tuple(gaze[first:stop]), h, w)
            for item in video.asked:
                item.attended = attended
            first = stop
        return residuals

    # -- words: openings and blocks ------------------------------------------------------------------------------------

    def _opening(self, *, video: bool) -> _Shared:
        """What every question begins with; with a video, up to its first token."""
        rope = MRope(tokens_per_second=self.model.backbone.tokens_per_second)
        ids = self._ids(prompts.PREFIX)
        if video:
            ids = torch.cat([ids, self._ids(prompts.VISION_START)])
        positions = rope.text(len(ids))
        if video:
            rope.begin_video()
        return _Shared(ids, [positions], {0: rope})

    def _ask(self, ask: Ask, form: Form, video: TrainingVideo, shared: _Shared) -> _Asked:
        """A question's block: its partial step, its words, and what may be said, as `GazeQwen.score` would."""
        h, w = shared.grid
        rope = shared.after[ask.stop if shared.frozen is not None else 0].copy()
        positions: list[Tensor] = []
        tail = None
        if shared.visual is not None and ask.tail is not None:
            tail = shared.visual[shared.whole + sum(item.tail is not None for item in shared.asked)]
            seconds = _seconds(video.steps[0] if ask.stop else ask.tail, ask.tail)
            positions.append(rope.step(seconds, h, w))
        closing = "" if shared.frozen is None else prompts.VISION_END
        words = self._ids(closing + self._words(ask, form, video) + prompts.ASSISTANT)
        positions.append(rope.text(len(words)))
        self.model._require_room(rope)
        said = self._said(ask, form)
        fed = [len(tokens) - 1 for tokens in said]  # the last token is only read
        stem = sum(place.shape[1] for place in positions)
        starts = [stem + sum(fed[:branch]) for branch in range(len(fed))]
        return _Asked(
            ask,
            form,
            tail,
            ids=torch.cat([words, *(tokens[:-1] for tokens in said)]),
            positions=torch.cat([*positions, *(rope.copy().text(length) for length in fed)], dim=1),
            parent=torch.repeat_interleave(torch.arange(-1, len(fed)), torch.tensor([stem, *fed])),
            seen=(ask.first * h * w, ask.stop * h * w),
            said=said,
            reads=[
                torch.tensor([stem - 1, *range(start, start + length)])
                for start, length in zip(starts, fed, strict=True)
            ],
        )

    def _words(self, ask: Ask, form: Form, video: TrainingVideo) -> str:
        state = self._nothing_seen
        if self.arm.gaze_in_prompt:
            steps = [*video.steps[ask.first : ask.stop], *([] if ask.tail is None else [ask.tail])]
            state = replace(state, spans=[Span(0, StepRecord.of(step, id=0, h=0, w=0)) for step in steps])
        scoring = "likelihood" if form == "text" else form
        return self.model.question_text(state, ask.question.text, ask.question.options, scoring)

    def _said(self, ask: Ask, form: Form) -> list[Tensor]:
        """Token ids of everything that may be said after the question, and is weighed."""
        if form == "text":
            return [self._ids(ask.target + prompts.TURN_END)]
        options = ask.question.options
        if form == "letters":
            return [torch.tensor([token]) for token in self._letter_ids(len(options))]
        return [self._ids(option + prompts.TURN_END) for option in prompts.strip_letters(options)]

    def _row(self, shared: Sequence[_Shared]) -> Row:
        """The packed row: what is shared, each followed by its questions. All words are embedded in one call."""
        words = [ids for part in shared for ids in (part.ids, *(item.ids for item in part.asked))]
        embeds = iter(self.model.backbone.embed_ids(torch.cat(words)).split([len(ids) for ids in words]))
        row = Row()
        for part in shared:
            opening = next(embeds)
            visual = [] if part.visual is None else [part.visual[: part.whole].flatten(0, 1)]
            blocks = [item.block(next(embeds)) for item in part.asked]
            positions = torch.cat(part.positions, dim=1)
            part.start, starts = row.add(torch.cat([opening, *visual]), positions, head=len(opening), blocks=blocks)
            for item, start in zip(part.asked, starts, strict=True):
                item.start = start
        return row

    # -- answers -------------------------------------------------------------------------------------------------------

    def _scored(self, hidden: Tensor, asked: Sequence[_Asked]) -> list[Scored]:
        """From hidden states (L, D). What a letter is weighed against cancels, so all forms share one normalisation."""
        rows = torch.cat([read + item.start for item in asked for read in item.reads])
        tokens = torch.cat([text for item in asked for text in item.said]).to(hidden.device)
        lengths = torch.tensor([len(text) for item in asked for text in item.said])
        unique, place = torch.unique(rows, return_inverse=True)
        logits = self.model.backbone.logits(hidden[unique.to(hidden.device)])
        place = place.to(hidden.device)
        logprobs = logits[place, tokens] - torch.logsumexp(logits, dim=-1)[place]
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(hidden.device)
        sums = logprobs.new_zeros(len(lengths)).index_add(0, owner, logprobs)
        found: list[Scored] = []
        for item, of_ask in zip(asked, sums.split([len(item.said) for item in asked]), strict=True):
            if item.form == "text":
                found.append(Scored(item.form, None, -of_ask[0], len(item.said[0]), item.attended))
            else:
                found.append(Scored(item.form, torch.log_softmax(of_ask, dim=0), None, 0, item.attended))
        return found


def _seconds(first: Step, step: Step) -> float:
    """Of a video segment that begins with `first`."""
    return float(step.frame_times_s[0]) - float(first.frame_times_s[0])


def _require_forms(videos: Sequence[TrainingVideo], forms: Sequence[Sequence[Form]]) -> None:
    counts, given = [len(video.asks) for video in videos], [len(of_video) for of_video in forms]
    if not sum(counts) or counts != given:
        raise InputError(
            "forms", expected=f"at least one question, and a form for each of {counts}", found=f"{given} forms"
        )
    for video, of_video in zip(videos, forms, strict=True):
        for ask, form in zip(video.asks, of_video, strict=True):
            if form not in ask.forms():
                known = ", ".join(ask.forms())
                raise InputError(f"{video.id}: {ask.question.text!r}", expected=f"a form of {known}", found=form)
