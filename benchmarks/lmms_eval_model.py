"""The class that lmms-eval makes for `--model gazeqwen`. Imported by lmms-eval only, which this file needs."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from tqdm import tqdm

from benchmarks.lmms_eval_plugin import answer
from gazeqwen import GazeQwen
from gazeqwen.arms import get_arm


class GazeQwenChat(lmms):
    """A GazeQwen model for lmms-eval.

    Args:
        pretrained: "tiny", a model folder or a hub id.
        arm: how gaze reaches the model on StreamGaze's tasks; on tasks without gaze it is always "none".
        device, vjepa: as `GazeQwen.from_pretrained`.
        batch_size: 1; lmms-eval always passes it.

    Raises:
        ConfigError: no such arm; ValueError: another batch size.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        arm: str = "inject",
        device: str | None = None,
        vjepa: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(f"gazeqwen answers one question at a time: --batch_size 1, got {batch_size}")
        self.arm = get_arm(arm).name
        self.model = GazeQwen.from_pretrained(pretrained, device=device, vjepa=vjepa)

    def generate_until(self, requests: Any) -> list[Any]:
        """Greedy answers; generation settings other than the length are not used, stop strings are."""
        said = []
        for request in tqdm(requests, desc="gazeqwen", disable=self.rank != 0):
            _, doc_to_messages, settings, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            text = answer(
                self.model, doc, doc_to_messages(doc), arm=self.arm, tokens=settings.get("max_new_tokens") or 16
            )
            until = settings.get("until") or ()
            for stop in (until,) if isinstance(until, str) else until:
                text = text.split(stop)[0] if stop else text
            said.append(GenerationResult(text=text, token_counts=TokenCounts()))
        return said

    def loglikelihood(self, requests: Any) -> Any:
        """lmms-eval asks chat models for generated answers only."""
        raise NotImplementedError("gazeqwen is a chat model: use tasks with output_type generate_until")

    def generate_until_multi_round(self, requests: Any) -> Any:
        raise NotImplementedError("gazeqwen answers one round: use tasks with output_type generate_until")
