"""GazeQwen: the one place where backbone, V-JEPA, gaze encoding, resampler, injection and prompts meet.

    frames ─► Qwen's vision tower ─► video tokens ──────────────┐
    frames ─► V-JEPA 2.1 (rolling window) ─► features ─┐         ├─► decoder with hooks ─► answer
    gaze ──► events ─► gaze encoding ──────────────────┴► resampler ─► residuals ┘

Streams (`start`, `append`, `fork`, `evict`, `score`, `generate`) and training (`forward`) share one preprocessing path,
one encoding, one position rule and one injection path; a test holds their results within 1e-5 of each other.

Shapes: S steps, P merged video tokens of a step, L tokens, D hidden size, B examples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazeqwen import prompts
from gazeqwen.arms import ARMS, Arm, get_arm, require_weights
from gazeqwen.backbone import Backbone, new_cache
from gazeqwen.batch import Content, Example, Output, Sequenced, forward, sequence
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import EncodedSteps, Frozen
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.injection import ResidualPlan, TokenMap, VideoTokens, inject
from gazeqwen.positions import MRope
from gazeqwen.preprocess import resize_frames, video_patches
from gazeqwen.resampler import Resampler, Residuals, build_resampler
from gazeqwen.state import Span, StepRecord, StreamState
from gazeqwen.types import Fixations, Step
from gazeqwen.vjepa import RollingWindow, official_features, official_inputs, step_features

__all__ = ["Content", "EncodedSteps", "Example", "Frozen", "GazeQwen", "Output"]


class _LayerRows(Mapping[int, Tensor]):
    """Layer -> (N, D) rows, made when a layer asks: 27 gated layers of a 7B hold one tensor, not 27 copies of it."""

    def __init__(self, residuals: Sequence[Residuals]) -> None:
        self._residuals = residuals

    def __getitem__(self, layer: int) -> Tensor:
        return torch.cat([part.for_layer(layer).flatten(0, 1) for part in self._residuals])

    def __iter__(self) -> Iterator[int]:
        return iter(self._residuals[0].layers)

    def __len__(self) -> int:
        return len(self._residuals[0].layers)


class GazeQwen(nn.Module):
    """A Qwen2.5-VL that is told where its wearer looks.

    Args:
        config: what config.json says.
        vlm: the backbone, frozen here; a PeftModel when the model has LoRA.
        tokenizer: Qwen's, or the tiny one.
        extractor: video features (`gazeqwen.vjepa.FeatureExtractor`), or None: then arms that inject are refused.
    """

    def __init__(self, config: GazeQwenConfig, *, vlm: nn.Module, tokenizer: Any, extractor: Any | None) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.vlm = vlm.requires_grad_(False)
        self.backbone = Backbone(vlm)
        self.extractor = extractor.requires_grad_(False) if isinstance(extractor, nn.Module) else extractor
        feature_dim: Any = extractor.dim if extractor is not None else config.features.vjepa.dim
        self._feature_dim = int(feature_dim)
        self.resampler: Resampler = build_resampler(
            config,
            feature_dim=feature_dim,
            hidden_dim=self.backbone.hidden_size,
            n_layers=self.backbone.n_layers,
        ).to(self.backbone.device)
        self.notes: tuple[str, ...] = ()
        self.arm_weights = ""  # the arm whose own weights these are (`checkpoint.load_arm`)
        self.arms_folder: Path | None = None  # where those of other arms lie; `save` copies it
        self.eval()

    # -- saving and loading, and the stream, live elsewhere ------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> GazeQwen:
        """Loads `"tiny"`, a saved folder, a hub id, or a plain Qwen2.5-VL; see `gazeqwen.checkpoint.load`."""
        from gazeqwen.checkpoint import load

        return load(name_or_path, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes config.json, model.safetensors and what the model owns beside; see `gazeqwen.checkpoint.save`."""
        from gazeqwen.checkpoint import save

        return save(self, folder)

    def stream(self, **options: Any) -> Any:
        """A `stream.StreamSession` on this model."""
        from stream.session import StreamSession

        return StreamSession(self, **options)

    @property
    def official(self) -> bool:
        return self.config.compat == "official"

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the resampler, and LoRA where there is one. The only such list."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("resampler.") or ".lora_" in name
        }

    # -- encoding ------------------------------------------------------------------------------------------------------

    def encode(
        self,
        steps: Sequence[Step],
        *,
        arm: Arm | str = "inject",
        window: RollingWindow | None = None,
        fixations: Fixations | None = None,
        latency_ms: dict[str, float] | None = None,
        frozen: Frozen | None = None,
    ) -> EncodedSteps:
        """Video tokens and residuals of steps that follow each other.

        Args:
            steps: of one frame size, in order.
            arm: how gaze reaches the model.
            window: V-JEPA's state before these steps, moved on by them; a fresh one when None.
            fixations: the clip's scanpath (compat="official" only).
            latency_ms: has the time of vit, vjepa and resampler added.
            frozen: what `frozen` made of these very steps: neither the vision tower nor V-JEPA runs, and `window` is
                left alone.

        Raises:
            InputError: no steps, frames of several sizes, or `frozen` of other steps.
            ConfigError: the arm injects and the model has no video feature extractor.
        """
        arm = get_arm(arm)
        clock = latency_ms if latency_ms is not None else {}
        if frozen is None:
            frozen = self.frozen(steps, arm=arm, window=window, latency_ms=clock)
        self._require_frozen(frozen, steps, arm)
        residuals = None
        if arm.inject:
            with _timed(clock, "resampler"):
                # Features that another arm left in `frozen` are not this one's.
                features = self._zero_features(len(steps), frozen) if arm.features_zeroed else frozen.features
                assert features is not None  # `_require_frozen`
                if self.official:
                    scanpath = arm.scanpath(fixations if fixations is not None else Fixations.empty())
                    residuals = self._official_residuals(steps, features, scanpath)
                else:
                    gaze = GazeBatch.from_events([arm.prepare(step).gaze for step in steps], self.backbone.device)
                    residuals = self.resampler(features, gaze)
        return EncodedSteps(frozen.visual, frozen.h, frozen.w, residuals)

    @torch.no_grad()
    def frozen(
        self,
        steps: Sequence[Step],
        *,
        arm: Arm | str = "inject",
        window: RollingWindow | None = None,
        latency_ms: dict[str, float] | None = None,
    ) -> Frozen:
        """What the vision tower and V-JEPA make of steps that follow each other: all of `encode` that never changes.

        `encode(steps, frozen=frozen(steps))` equals `encode(steps)` bit for bit. Arms that neither change frames nor
        leave features out share it.

        Args:
            steps, arm, window, latency_ms: as `encode`. Under compat="official" the steps of the whole clip: its
                features depend on all of it.

        Raises:
            InputError: no steps, frames of several sizes, or placeholders.
            ConfigError: as `encode`.
        """
        arm = get_arm(arm)
        if not steps:
            raise InputError("steps", expected="at least one step", found="none")
        sizes = {step.frames.shape[1:3] for step in steps}
        if len(sizes) > 1:
            raise InputError("steps", expected="frames of one size in a segment", found=f"{sorted(sizes)}")
        if any(step.placeholder for step in steps):
            raise InputError(
                "steps", expected="decoded frames", found="placeholders", fix="pass frozen=, or decode the video"
            )
        self.require_features(arm)
        steps = [arm.prepare(step) for step in steps]
        clock = latency_ms if latency_ms is not None else {}
        with _timed(clock, "vit"):
            frames = np.concatenate([step.frames for step in steps])
            merge = self.backbone.merge_size
            patches, grid = video_patches(
                frames,
                config=self.config.preprocess,
                patch_size=self.backbone.patch_size,
                merge_size=merge,
                temporal=self.backbone.temporal_patch_size,
            )
            visual = self.backbone.encode_visual(patches, grid)
        h, w = grid[1] // merge, grid[2] // merge
        features = None
        if arm.uses_features:
            with _timed(clock, "vjepa"):
                features = (
                    self._official_features(steps, h, w) if self.official else self._features(steps, h, w, window)
                )
        return Frozen(visual, features, h, w)

    def require_features(self, arm: Arm) -> None:
        """Raises ConfigError where the arm needs V-JEPA features and the model can't make them."""
        if arm.uses_features and self.extractor is None:
            raise ConfigError(
                f"arm {arm.name!r} needs V-JEPA features, but this model has no V-JEPA weights: "
                "pass vjepa=FILE to from_pretrained (docs/models.md says where to get it), or use --arm none"
            )

    def _require_frozen(self, frozen: Frozen, steps: Sequence[Step], arm: Arm) -> None:
        if len(frozen) != len(steps):
            raise InputError("frozen", expected=f"{len(steps)} steps", found=str(len(frozen)))
        if arm.uses_features and frozen.features is None:
            raise InputError(
                "frozen", expected=f"V-JEPA features for arm {arm.name!r}", found="none", fix="make it with this arm"
            )

    def _zero_features(self, steps: int, frozen: Frozen) -> Tensor:
        """What an arm without features gets in their place."""
        tubelets = 1 if self.official else self.config.features.tubelets_per_step
        weight = next(self.resampler.parameters())
        return weight.new_zeros(steps, tubelets, frozen.h, frozen.w, self._feature_dim)

    def new_window(self) -> RollingWindow:
        """V-JEPA's state at the start of a stream."""
        return RollingWindow(self.config.features)

    def start_window(self, arm: Arm) -> RollingWindow | None:
        """`new_window` for an arm; None where no rolling features are used."""
        return self.new_window() if arm.uses_features and not self.official else None

    def _features(self, steps: Sequence[Step], h: int, w: int, window: RollingWindow | None) -> Tensor:
        """(S, K, h, w, Dv) features on the video-token grid; never later than each step's own last frame."""
        window = window if window is not None else self.new_window()
        features = step_features(self.extractor, steps, window).to(self.backbone.device)  # type: ignore[arg-type]
        s, k, gh, gw, d = features.shape
        if (gh, gw) != (h, w):
            planes = features.reshape(s * k, gh, gw, d).permute(0, 3, 1, 2).float()
            planes = F.interpolate(planes, size=(h, w), mode="bilinear", align_corners=False)
            features = planes.permute(0, 2, 3, 1).reshape(s, k, h, w, d).to(features.dtype)
        return features

    def _official_features(self, steps: Sequence[Step], h: int, w: int) -> Tensor:
        """(S, 1, h, w, Dv) the published way: 16 frames of the whole clip, resampled to its steps."""
        factor = self.backbone.patch_size * self.backbone.merge_size
        resized = resize_frames(
            np.concatenate([step.frames for step in steps]), config=self.config.preprocess, factor=factor
        )
        encoder: nn.Module = self.extractor.encoder  # type: ignore[union-attr, assignment]
        clip = official_inputs(resized.permute(0, 3, 1, 2).float(), self.config.features.size_px)
        features = official_features(encoder(clip.to(self.backbone.device)), len(steps), llm_h=h, llm_w=w)
        return torch.stack(features).unflatten(1, (h, w)).unsqueeze(1)

    def _official_residuals(self, steps: Sequence[Step], features: Tensor, fixations: Fixations) -> Residuals:
        """The published way: step times from the nominal rate, one encoding per frame."""
        from gazeqwen.official import official_frame_times, pick_fps, scanpath_tensor

        start_s, end_s = float(steps[0].frame_times_s[0]), float(steps[-1].span_s[1])
        times_s = official_frame_times(start_s, len(steps), pick_fps(end_s - start_s))
        scanpath = scanpath_tensor(fixations, start_s, end_s)
        of_steps = list(features.flatten(1, 3))
        return self.resampler(of_steps, scanpath.to(self.backbone.device), times_s)  # type: ignore[call-arg, arg-type]

    def plan(self, encoded: Sequence[tuple[EncodedSteps, int, int]], *, batch_size: int = 1) -> ResidualPlan | None:
        """The residual plan of runs of steps: (encoded, batch row, first position). None when nothing injects."""
        blocks, bases = [], []
        for part, row, start in encoded:
            if part.residuals is not None:
                size = part.h * part.w
                blocks += [VideoTokens(row, start + s * size, s, part.h, part.w) for s in range(len(part.visual))]
                bases.append(part.residuals)
        if not bases:
            return None
        return ResidualPlan(TokenMap.from_blocks(blocks), _LayerRows(bases), batch_size)

    def _injecting(self, plan: ResidualPlan | None) -> Any:
        if plan is None:
            return nullcontext()
        return inject(self.backbone.layers, plan, allow_last_layer=self.config.resampler.allow_last_layer)

    # -- the stream: start, append, evict (state.fork, state.evict) ----------------------------------------------------

    @torch.no_grad()
    def start(self, *, arm: Arm | str = "inject", fixations: Fixations | None = None) -> StreamState:
        """A fresh stream: the conversation's prefix is in the cache, no video yet.

        Raises:
            ConfigError: the arm is a solver, or answers with other weights than these.
        """
        arm = require_weights(arm, self.arm_weights)
        state = StreamState(
            arm=arm,
            cache=new_cache(self.backbone),
            rope=MRope(tokens_per_second=self.backbone.tokens_per_second),
            window=self.start_window(arm),
            fixations=fixations,
        )
        self._append_text(state, prompts.PREFIX)
        return state

    @torch.no_grad()
    def append(
        self,
        state: StreamState,
        steps: Sequence[Step],
        *,
        frozen: Frozen | None = None,
        window: RollingWindow | None = None,
    ) -> list[StepRecord]:
        """Puts steps into the stream's cache; many at once equal one at a time. An error leaves it as it was.

        Args:
            frozen: as `encode`.
            window: V-JEPA's state after these steps, where `frozen` was made with a copy of the stream's. Without it
                the stream's window counts their frames as passed over, and refuses to encode until it is full again.

        Raises:
            InputError: no steps, a step does not come after the ones before it, or the context would become too long.
            ConfigError: under compat="official", a second call for the same segment, or with an arm that injects: its
                features and times are those of the whole clip.
        """
        grown = state.fork()  # a forward that fails halfway leaves layers of unequal length: not in the state itself
        records = self.grow(grown, steps, frozen=frozen, window=window)
        state.become(grown)
        return records

    @torch.no_grad()
    def grow(
        self,
        state: StreamState,
        steps: Sequence[Step],
        *,
        frozen: Frozen | None = None,
        window: RollingWindow | None = None,
    ) -> list[StepRecord]:
        """`append` without a copy of the cache to go back to: after an error the state is to be thrown away."""
        newest_s = state.newest_s
        for step in steps:
            if step.frame_times_s[0] < newest_s - 1e-6 or step.span_s[1] <= newest_s:
                raise InputError(
                    "step",
                    expected=f"a step after {newest_s:.3f} s",
                    found=f"one from {step.frame_times_s[0]:.3f} s",
                )
            newest_s = step.span_s[1]
        if self.official and state.steps_appended and (state.arm.inject or state.segment_start_s is not None):
            raise ConfigError("compat='official' sees a clip as a whole: append all its steps in one call")
        if window is None and state.window is not None:
            window = state.window.copy()
            for step in steps if frozen is not None else ():
                window.pass_over(step.vjepa_times_s)
        encoded = self.encode(
            steps,
            arm=state.arm,
            window=window,
            fixations=state.fixations,
            latency_ms=state.latency_ms,
            frozen=frozen,
        )
        rope, opening, start_s = state.rope.copy(), state.segment_start_s is None, state.segment_start_s
        if start_s is None:
            rope.text(len(self._ids(prompts.VISION_START)))
            rope.begin_video()
            start_s = float(steps[0].frame_times_s[0])
        positions = self._positions(rope, steps, encoded, start_s)
        self._require_room(rope)
        if opening:
            self._append_text(state, prompts.VISION_START)
            state.bind_marks()
        with _timed(state.latency_ms, "prefill"):
            self._append(state, encoded.visual.flatten(0, 1), positions, plan=self.plan([(encoded, 0, 0)]))
        records = [
            StepRecord.of(step, id=state.steps_appended + s, h=encoded.h, w=encoded.w) for s, step in enumerate(steps)
        ]
        state.rope, state.window, state.segment_start_s, state.newest_s = rope, window, start_s, newest_s
        state.spans += [Span(encoded.h * encoded.w, record) for record in records]
        state.steps_appended += len(steps)
        return records

    @torch.no_grad()
    def append_text(self, state: StreamState, text: str) -> None:
        """Puts text between video segments (a turn that stays); video appended after it starts a new segment. An error
        leaves the stream as it was."""
        grown = state.fork()
        self.grow_text(grown, text)
        state.become(grown)

    @torch.no_grad()
    def grow_text(self, state: StreamState, text: str) -> None:
        """`append_text` as `grow` is `append`."""
        closing = self._after_video(state)
        if closing + text:
            self._append_text(state, closing + text)
            mark, both = len(self._ids(closing)), state.spans.pop().tokens
            state.spans += [Span(n, turn=turn) for n, turn in ((mark, None), (both - mark, state.turns)) if n]
            state.turns += 1
        state.segment_start_s = None

    def _after_video(self, state: StreamState) -> str:
        """What has to be said before text: the end of the open video segment, if there is one."""
        return prompts.VISION_END if state.segment_start_s is not None else ""

    def _positions(self, rope: MRope, steps: Sequence[Step], encoded: EncodedSteps, start_s: float) -> Tensor:
        """(3, S * P) positions of the steps: true times, or one second a step as the published model was fed."""
        seconds = [
            float(s) if self.official else float(step.frame_times_s[0]) - start_s for s, step in enumerate(steps)
        ]
        return torch.cat([rope.step(second, encoded.h, encoded.w) for second in seconds], dim=1)

    def _append_text(self, state: StreamState, text: str) -> Tensor:
        """Text into the cache; returns the last hidden states (1, L, D). As `grow`."""
        ids = self._ids(text)
        positions = state.rope.text(len(ids))
        self._require_room(state.rope)
        hidden = self._append(state, self.backbone.embed_ids(ids), positions)
        state.spans.append(Span(len(ids)))
        return hidden

    def _require_room(self, rope: MRope) -> None:
        limit = self.backbone.text_config.max_position_embeddings
        if rope.next > limit:
            raise InputError(
                "stream", expected=f"at most {limit} positions", found=str(rope.next), fix="start a new stream"
            )

    def _append(
        self, state: StreamState, embeds: Tensor, positions: Tensor, *, plan: ResidualPlan | None = None
    ) -> Tensor:
        with self._injecting(plan):
            hidden = self.backbone.decode(embeds[None], positions[:, None], cache=state.cache)
        state.positions = torch.cat([state.positions, positions], dim=1)
        return hidden

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), dtype=torch.int64)

    # -- questions, always on a fork -----------------------------------------------------------------------------------

    def question_text(
        self, state: StreamState, question: str, options: Sequence[str], scoring: str, prompt: str | None = None
    ) -> str:
        """The user turn's words for this way of scoring, or `prompt` in their place; where the arm says so, with the
        gaze of the steps held."""
        if state.arm.gaze_in_prompt:
            points = [
                (float(t), float(x), float(y))
                for record in state.steps
                for t, (x, y), ok in zip(record.gaze.t_s, record.gaze.xy_norm, record.gaze.valid, strict=True)
                if ok
            ]
            told = prompts.gaze_text(points)
            if prompt is not None:
                return f"{told}\n{prompt}"
            question = f"{told} {question}"
        if prompt is not None:
            return prompt
        if scoring == "yes_no":
            return prompts.yes_no_prompt(question)
        if options and scoring == "letters":
            return prompts.choice_prompt(question, options)
        return prompts.open_prompt(question)

    @torch.no_grad()
    def score(
        self,
        state: StreamState,
        question: str,
        options: Sequence[str],
        *,
        scoring: prompts.Scoring = "letters",
        prompt: str | None = None,
    ) -> Tensor:
        """(n,) float32 log-probabilities of the options, normalised over them. The state is not changed.

        Args:
            options: 2 to 26 texts; `prompts.YES_NO` for "yes_no".
            scoring: "letters" lists the options and reads the letters' logits; "likelihood" does not list them and
                compares how likely the model is to say each; "yes_no" does so after asking for a yes or a no.
            prompt: the complete user text instead of ours (the arm `text` still puts the gaze before it); `question` is
                then not used.

        Raises:
            ConfigError: no such scoring.
            InputError: the options are no 2 to 26, one is empty, or "yes_no" is asked with others than `YES_NO`; the
                model's logits are no numbers.
        """
        known = get_args(prompts.Scoring)
        if scoring not in known:
            raise ConfigError(f"scoring: one of {', '.join(known)}, got {scoring!r}")
        if not 2 <= len(options) <= 26 or not all(option.strip() for option in options):
            raise InputError("options", expected="2 to 26 options with text", found=str(list(options))[:80])
        if scoring == "yes_no" and tuple(options) != prompts.YES_NO:
            raise InputError("options", expected=f"{prompts.YES_NO} with scoring='yes_no'", found=str(tuple(options)))
        fork = state.fork()
        text = self.question_text(fork, question, options, scoring, prompt)
        with _timed(state.latency_ms, "answer"):
            hidden = self._append_text(fork, self._after_video(fork) + text + prompts.ASSISTANT)
            logits = self._logits(hidden[0, -1])
            if scoring == "letters":
                return prompts.option_logprobs_from_letters(logits, prompts.letter_ids(self.tokenizer, len(options)))
            said = prompts.strip_letters(options)
            return prompts.option_logprobs_from_likelihood(self._option_likelihoods(fork, logits, said))

    def _logits(self, hidden: Tensor) -> Tensor:
        """The backbone's logits. NaN would pass for an answer, the first option: raises InputError instead."""
        logits = self.backbone.logits(hidden)
        if not logits.isfinite().all():
            raise InputError(
                self.config.name,
                expected="finite logits",
                found="NaN or infinity",
                fix="check the weights, or take a dtype of larger range (bfloat16, float32)",
            )
        return logits

    def _option_likelihoods(self, fork: StreamState, logits: Tensor, options: Sequence[str]) -> list[Tensor]:
        """Token log-probabilities of each option: all options in one forward, each seeing the past and itself only."""
        # With the turn's end, as in training: without it "plate" could never score below "plate rack".
        ids = [self._ids(option + prompts.TURN_END) for option in options]
        positions = [fork.rope.copy().text(len(tokens)) for tokens in ids]
        owner = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(tokens) for tokens in ids]))
        past, length = fork.tokens, len(owner)
        own = (owner[:, None] == owner[None, :]) & torch.ones(length, length).tril().bool()
        mask = torch.cat([torch.ones(length, past, dtype=torch.bool), own], dim=1)
        hidden = self.backbone.decode(
            self.backbone.embed_ids(torch.cat(ids))[None],
            torch.cat(positions, dim=1)[:, None],
            cache=fork.cache,
            attention_mask=mask[None, None],
        )
        following = self._logits(hidden[0])
        found, start = [], 0
        for tokens in ids:
            before = torch.cat([logits[None], following[start : start + len(tokens) - 1]])
            logprobs = torch.log_softmax(before, dim=-1)
            found.append(logprobs.gather(1, tokens[:, None].to(logprobs.device))[:, 0])
            start += len(tokens)
        return found

    def generate(
        self, state: StreamState, question: str, *, max_new_tokens: int = 64, prompt: str | None = None
    ) -> Iterator[str]:
        """Pieces of a greedy free-text answer as they come. It is about the state at the call, however late it is read,
        and the state is not changed. `prompt` as in `score`. Raises InputError for `max_new_tokens` below 1, and where
        `score` does for logits."""
        if max_new_tokens < 1:
            raise InputError("max_new_tokens", expected="at least 1", found=str(max_new_tokens))
        fork = state.fork()
        text = self._after_video(fork) + self.question_text(fork, question, (), "letters", prompt) + prompts.ASSISTANT
        return self._pieces(fork, text, max_new_tokens, state.latency_ms)

    @torch.no_grad()
    def _pieces(self, fork: StreamState, text: str, max_new_tokens: int, latency_ms: dict[str, float]) -> Iterator[str]:
        stops = {self.tokenizer.convert_tokens_to_ids(token) for token in (prompts.TURN_END, "<|endoftext|>")}
        with _timed(latency_ms, "answer"):
            hidden = self._append_text(fork, text)
        said: list[int] = []
        shown = ""
        for _ in range(max_new_tokens):
            with _timed(latency_ms, "answer"):
                token = int(self._logits(hidden[0, -1]).argmax())
                if token in stops:
                    break
                said.append(token)
                whole = self.tokenizer.decode(said, skip_special_tokens=True)
                positions = fork.rope.text(1)
                self._require_room(fork.rope)
                hidden = self._append(fork, self.backbone.embed_ids(torch.tensor([token])), positions)
            if not whole.endswith("\ufffd"):  # a character of several tokens is not finished yet
                if whole[len(shown) :]:
                    yield whole[len(shown) :]
                shown = whole
        rest = self.tokenizer.decode(said, skip_special_tokens=True)[len(shown) :]
        if rest:
            yield rest

    # -- training and batched scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Sequence[Example], *, arm: Arm | str = "inject") -> Output:
        """Logits at each example's answer position, and the loss over targets, in one padded forward.

        Gradients reach the resampler (and LoRA); the vision tower and V-JEPA run without them.

        Args:
            batch: examples of any lengths, frame sizes and numbers of segments.
            arm: of all of them.

        Raises:
            InputError: an empty batch, or targets for some examples only.
        """
        return forward(self, batch, arm=arm)

    def _sequence(self, example: Example, arm: Arm, row: int) -> Sequenced:
        return sequence(self, example, arm, row)

    def describe(self) -> Mapping[str, Any]:
        """Name, arms, sizes and state of training, for `info` and JSON output."""
        count = {
            "backbone": sum(p.numel() for p in self.vlm.parameters()),
            "vjepa": sum(p.numel() for p in self.extractor.parameters())
            if isinstance(self.extractor, nn.Module)
            else 0,
            "resampler": sum(p.numel() for p in self.resampler.parameters()),
        }
        return {
            "model": self.config.name,
            "trained": self.config.trained,
            "compat": self.config.compat,
            "parameters": count,
            "layers": list(self.resampler.layers),
            "arms": list(ARMS),
        }


@contextmanager
def _timed(clock: dict[str, float], part: str) -> Iterator[None]:
    """Adds the wall time of the block to `clock[part]`, milliseconds; waits for the GPU so that it is real time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock[part] = clock.get(part, 0.0) + (time.perf_counter() - began) * 1000
