"""Golden section 07: the Gaze-LLE decoder, official weight names, several heads and a head without a box."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from gazeqwen.gaze_target import head_masks, load_gaze_decoder
from gazeqwen.types import plain_json
from tests.golden.io import Golden, load, max_error

SECTION = "07"
FUNCTION = "gazeqwen.gaze_target.load_gaze_decoder"
TOLERANCE = 5e-6


def check(folder: Path) -> tuple[float, float]:
    """Heatmaps and in/out probabilities of every head; infinite when a mask, a count or the in/out head differs."""
    return max(decoder_error(golden) for golden in load(folder, SECTION)), TOLERANCE


def decoder_error(golden: Golden) -> float:
    """Largest error over one file's heads, through a file that is written and loaded as a released one would be."""
    state, boxes = golden.state_dict(), golden["bboxes"]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.safetensors"
        save_file(state, path)
        decoder = load_gaze_decoder(path, heads=golden["num_heads"], ln_eps=golden["layernorm_eps"])
    counts = (len(decoder.state_dict()), sum(parameter.numel() for parameter in decoder.parameters()))
    same = counts == (golden["n_state_keys"], golden["trainable_params"])
    config = plain_json({"layers": decoder.config.layers, "grid": decoder.config.grid_hw})
    if not same or config != {"layers": golden["num_layers"], "grid": golden["featmap_hw"]}:
        return math.inf
    masks = head_masks([box for own in boxes for box in own], decoder.config.grid_hw, small_head_fix=False)
    rows = torch.tensor([row for row, own in enumerate(boxes) for _ in own])
    if [total for own in golden["headmask_sums"] for total in own] != masks.sum(dim=(1, 2)).tolist():
        return math.inf
    with torch.no_grad():
        heatmap, inout = decoder(golden.tensor("features"), masks, rows)
    if (inout is not None) != golden["inout"]:
        return math.inf
    worst = 0.0
    for row in range(len(boxes)):
        own = rows == row
        worst = max(worst, max_error(masks[own], golden.tensor(f"headmask.{row}")))
        worst = max(worst, max_error(heatmap[own], golden.tensor(f"heatmap.{row}")))
        if inout is not None:
            worst = max(worst, max_error(inout[own], golden.tensor(f"inout.{row}")))
    return worst
