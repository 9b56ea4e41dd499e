"""Golden section 06: M-RoPE position ids in the convention of transformers 4.49. Exact."""

from __future__ import annotations

from pathlib import Path

import torch

from gazeqwen.positions import position_ids
from tests.golden.io import field, load, max_error

SECTION = "06"
FUNCTION = "gazeqwen.positions.position_ids"
# Qwen2.5-VL's own, and what the files are made with unless they say otherwise.
TOKENS_PER_SECOND, SPATIAL_MERGE_SIZE = 2, 2


def check(folder: Path) -> tuple[float, float]:
    """Position ids, the next text position and rope_deltas of every case."""
    worst = 0.0
    for golden in load(folder, SECTION):
        names = golden["token_ids"]
        for case in golden.cases("cases"):
            mask = case.get("attention_mask")
            ids, next_text, deltas = position_ids(
                torch.tensor(field(case, "input_ids", golden.path)),
                None if mask is None else torch.tensor(mask),
                video_grid_thw=case.get("video_grid_thw"),
                image_grid_thw=case.get("image_grid_thw"),
                second_per_grid_ts=case.get("second_per_grid_ts"),
                video_token_id=names["video"],
                image_token_id=names["image"],
                tokens_per_second=golden.record.get("tokens_per_second", TOKENS_PER_SECOND),
                spatial_merge_size=golden.record.get("spatial_merge_size", SPATIAL_MERGE_SIZE),
            )
            worst = max(
                worst,
                max_error(ids, field(case, "position_ids", golden.path)),
                max_error(next_text.flatten(), torch.tensor(case["next_text_position"]).flatten()),
                max_error(deltas.flatten(), torch.tensor(case["rope_deltas"]).flatten()),
            )
    return worst, 0.0
