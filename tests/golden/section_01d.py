"""Golden section 01d: the published checkpoint on a small Qwen2.5-VL, end to end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen import GazeQwen
from gazeqwen.config import VJEPAConfig
from gazeqwen.errors import InputError
from gazeqwen.injection import ResidualPlan, TokenMap, inject
from gazeqwen.official import convert_official
from gazeqwen.tiny import tiny_tokenizer
from tests.golden.io import Golden, load, load_pair, max_error

SECTION = "01d"
FUNCTION = "gazeqwen.GazeQwen.from_pretrained"
TOLERANCE = 1e-5
CHECKPOINT = "01c_best_model.pt"  # section 01c's file; this section's JSON names it in words only


def check(folder: Path) -> tuple[float, float]:
    """Largest error of the video tokens and of the logits without LoRA and gaze, with LoRA, and with both."""
    cases = [golden for golden in load(folder, SECTION) if not golden.path.stem.endswith("_weights")]
    if not cases:
        raise InputError(folder, expected=f"a file {SECTION}_* beside its weights", found="none")
    return max(_case_error(golden) for golden in cases), TOLERANCE


def _case_error(golden: Golden) -> float:
    checkpoint = golden.path.with_name(CHECKPOINT)
    weights = load_pair(golden.path.with_name(golden.path.stem + "_weights.json")).state_dict()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        base, out = Path(scratch) / "base", Path(scratch) / "converted"
        _write_base(base, golden, weights)
        sizes = torch.load(checkpoint, map_location="cpu", weights_only=True)["config"]
        # The features are given, so the model is loaded without a V-JEPA; only the width of its features is recorded.
        features = VJEPAConfig(dim=sizes["d_vjepa"], heads=1, mlp_dim=sizes["d_vjepa"])
        convert_official(checkpoint, base=str(base), vjepa="", out=out, vjepa_config=features)
        model = GazeQwen.from_pretrained(out, device="cpu", dtype="float32", local_files_only=True)
        with model.vlm.disable_adapter():  # type: ignore[operator]
            visual, base_logits = _visual(model, golden), _logits(model, golden)
        lora_logits = _logits(model, golden)
        gaze_logits = _logits(model, golden, plan=_plan(model, golden))
    return max(
        max_error(visual, golden.tensor("visual_tokens")),
        max_error(base_logits, golden.tensor("logits_base")),
        max_error(lora_logits, golden.tensor("logits_lora")),
        max_error(gaze_logits, golden.tensor("logits_lora_gaze")),
    )


def _write_base(folder: Path, golden: Golden, weights: dict[str, Tensor]) -> None:
    """A Qwen2.5-VL folder as transformers writes it, from the sizes in the JSON and tensors under their 4.49 names."""
    text, vision = dict(golden["model_config"]["text"]), golden["model_config"]["vision"]
    top = {name: text.pop(name) for name in list(text) if name.endswith("_token_id")}
    tied = text["tie_word_embeddings"]
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **top)
    vlm = Qwen2_5_VLForConditionalGeneration(config)
    renamed = {_today(name): tensor for name, tensor in weights.items()}
    vlm.load_state_dict(renamed, strict=True)
    vlm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)  # a folder has one; these prompts are given as ids


def _today(name: str) -> str:
    """The module path of a 4.49 (on-disk) tensor name in transformers 4.57 and 5.x."""
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _visual(model: GazeQwen, golden: Golden) -> Tensor:
    """(video tokens, D), raster order."""
    grid = golden.tensor("video_grid_thw")
    if len(grid) != 1:
        raise InputError(golden.path, expected="one video", found=f"{len(grid)} rows of video_grid_thw")
    t, gh, gw = (int(n) for n in grid[0])
    return model.backbone.encode_visual(golden.tensor("pixel_values_videos"), (t, gh, gw)).flatten(0, 1)


def _tokens(model: GazeQwen, golden: Golden) -> TokenMap:
    merge = model.backbone.merge_size
    grids = [[(int(t), int(gh) // merge, int(gw) // merge) for t, gh, gw in golden.tensor("video_grid_thw")]]
    video_token = golden["model_config"]["text"]["video_token_id"]
    return TokenMap.from_input_ids(golden.tensor("input_ids"), video_token, grids)


def _plan(model: GazeQwen, golden: Golden) -> ResidualPlan:
    times_s = golden.tensor("frame_times")
    features = [golden.tensor(f"vjepa_features.{step}") for step in range(len(times_s))]
    residuals = model.resampler(features, golden.tensor("scanpath"), times_s)
    rows = {layer: residuals.for_layer(layer).flatten(0, 1) for layer in residuals.layers}
    return ResidualPlan(_tokens(model, golden), rows)


def _logits(model: GazeQwen, golden: Golden, *, plan: ResidualPlan | None = None) -> Tensor:
    """(1, L, V) at every token."""
    ids, tokens = golden.tensor("input_ids"), _tokens(model, golden)
    embeds = model.backbone.embed_ids(ids)
    embeds[tokens.batch, tokens.position] = _visual(model, golden).to(embeds.dtype)
    positions = golden.tensor("position_ids")
    if plan is None:
        return model.backbone.logits(model.backbone.decode(embeds, positions))
    with inject(model.backbone.layers, plan, allow_last_layer=model.config.resampler.allow_last_layer):
        return model.backbone.logits(model.backbone.decode(embeds, positions))
