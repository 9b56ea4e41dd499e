"""Vision-language models of a local folder, loaded by transformers: images and a request in, text out, greedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.streamgaze.pipeline.captioner import MAX_NEW_TOKENS, Speaker
from gazeqwen.backbone import Backbone, new_cache
from gazeqwen.config import PreprocessConfig
from gazeqwen.errors import InputError
from gazeqwen.positions import MRope
from gazeqwen.preprocess import image_patches
from gazeqwen.prompts import ASSISTANT, PREFIX, TURN_END, VISION_END, VISION_START

QWEN = "qwen2_5_vl"


def load_speaker(folder: Path, *, device: str | None = None) -> Speaker:
    """The model of a folder, on `device` (default: a GPU where there is one).

    Raises:
        InputError: transformers can't load it from this folder; says why in one line.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    expected = "an image-text-to-text model of transformers, with its tokenizer and processor"
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype="auto")
        if kind == QWEN:
            return QwenSpeaker(model.to(device).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True))
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        fix = "pip install torchvision" if "torchvision" in str(error).lower() else ""
        raise InputError(folder, expected=expected, found=reason.strip()[:160], fix=fix) from error
    return ProcessorSpeaker(model.to(device).eval(), processor)


class ProcessorSpeaker:
    """Any model, through its own processor and chat template."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @torch.inference_mode()
    def say(self, images: Sequence[np.ndarray], text: str) -> str:
        """The model's answer to a request about (H, W, 3) uint8 RGB images."""
        from PIL import Image

        content: list[dict[str, Any]] = [{"type": "image", "image": Image.fromarray(image)} for image in images]
        content.append({"type": "text", "text": text})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        said = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return self.processor.batch_decode(said[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]


class QwenSpeaker:
    """Qwen2.5-VL through this project's own parts: its processor does not load without torchvision, and positions of
    images differ between transformers' generations (gazeqwen/positions.py)."""

    def __init__(self, model: Any, tokenizer: Any, *, preprocess: PreprocessConfig | None = None) -> None:
        self.backbone, self.tokenizer = Backbone(model), tokenizer
        self.preprocess = preprocess or PreprocessConfig()

    @torch.inference_mode()
    def say(self, images: Sequence[np.ndarray], text: str) -> str:
        """The model's answer to a request about (H, W, 3) uint8 RGB images."""
        backbone = self.backbone
        rope, cache = MRope(tokens_per_second=backbone.tokens_per_second), new_cache(backbone)
        stops = {self.tokenizer.convert_tokens_to_ids(token) for token in (TURN_END, "<|endoftext|>")}
        embeds, positions = [], []

        def add_text(part: str) -> None:
            ids = self.tokenizer.encode(part, add_special_tokens=False)
            embeds.append(backbone.embed_ids(torch.tensor(ids)))
            positions.append(rope.text(len(ids)))

        add_text(PREFIX)
        for image in images:
            add_text(VISION_START)
            patches, grid = image_patches(
                image,
                config=self.preprocess,
                patch_size=backbone.patch_size,
                merge_size=backbone.merge_size,
                temporal=backbone.temporal_patch_size,
            )
            embeds.append(backbone.encode_visual(patches, grid)[0].to(backbone.dtype))
            positions.append(rope.image(grid[1] // backbone.merge_size, grid[2] // backbone.merge_size))
            add_text(VISION_END)
        add_text(text + ASSISTANT)
        chunk, places = torch.cat(embeds), torch.cat(positions, dim=1)
        said: list[int] = []
        while len(said) < MAX_NEW_TOKENS:
            hidden = backbone.decode(chunk[None], places[:, None], cache=cache)
            token = int(backbone.logits(hidden[0, -1]).argmax())
            if token in stops:
                break
            said.append(token)
            chunk, places = backbone.embed_ids(torch.tensor([token])), rope.text(1)
        return self.tokenizer.decode(said, skip_special_tokens=True)
