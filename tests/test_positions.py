"""M-RoPE ids: the 4.49 rules by hand, a stream against a whole prompt, forks, padding, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import InputError
from gazeqwen.positions import MRope, position_ids

IMAGE, VIDEO, START, END = 90, 91, 92, 93


def ids_of(
    tokens: list[list[int]], mask: list[list[int]] | None = None, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    options = {"tokens_per_second": 2, **options}
    attention = None if mask is None else torch.tensor(mask)
    return position_ids(torch.tensor(tokens), attention, video_token_id=VIDEO, image_token_id=IMAGE, **options)


def prompt(before: int, t: int, h: int, w: int, after: int) -> list[int]:
    return [5] * before + [START] + [VIDEO] * (t * h * w) + [END] + [6] * after


def test_a_small_prompt_by_hand() -> None:
    ids, next_text, deltas = ids_of([prompt(1, 2, 1, 2, 1)], video_grid_thw=[[2, 2, 4]], second_per_grid_ts=[1.0])
    assert ids[:, 0].tolist() == [
        [0, 1, 2, 2, 4, 4, 5, 6],  # temporal: two ids a second
        [0, 1, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 3, 2, 3, 5, 6],
    ]
    assert next_text.tolist() == [7] and deltas.tolist() == [[-1]]


def test_a_wide_grid_outruns_the_time_axis() -> None:
    """Text goes on after the largest id of all three axes, here the column's."""
    ids, next_text, _ = ids_of([prompt(0, 1, 1, 5, 1)], video_grid_thw=[[1, 2, 10]])
    assert ids[:, 0, -2].tolist() == [6, 6, 6] and next_text.tolist() == [8]


def test_fractions_are_cut_after_the_multiplication() -> None:
    ids, _, _ = ids_of([prompt(0, 4, 1, 1, 0)], video_grid_thw=[[4, 2, 2]], second_per_grid_ts=[0.3])
    assert ids[0, 0, 1:5].tolist() == [1, 1, 2, 2]  # 1 + trunc(0, 0.6, 1.2, 1.8)


def test_seconds_default_to_one_and_tokens_per_second_counts() -> None:
    one = ids_of([prompt(0, 3, 1, 1, 0)], video_grid_thw=[[3, 2, 2]])[0]
    assert one[0, 0, 1:4].tolist() == [1, 3, 5]
    four = ids_of([prompt(0, 3, 1, 1, 0)], video_grid_thw=[[3, 2, 2]], tokens_per_second=4)[0]
    assert four[0, 0, 1:4].tolist() == [1, 5, 9]


def test_an_image_stands_still_in_time() -> None:
    tokens = [5, START] + [IMAGE] * 6 + [END]
    ids, next_text, _ = ids_of([tokens], image_grid_thw=[[1, 4, 6]])
    assert ids[0, 0, 2:8].tolist() == [2] * 6 and ids[2, 0, 2:8].tolist() == [2, 3, 4, 2, 3, 4]
    rope = MRope(tokens_per_second=2)
    streamed = torch.cat([rope.text(2), rope.image(2, 3), rope.text(1)], dim=1)
    assert torch.equal(streamed, ids[:, 0]) and rope.next == next_text.item()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 12),
    h=st.integers(1, 4),
    w=st.integers(1, 5),
    before=st.integers(0, 5),
    after=st.integers(1, 5),
    rate=st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 8.0]),
    tokens_per_second=st.sampled_from([1, 2, 4]),
)
def test_a_stream_gives_the_ids_of_the_whole_prompt(
    steps: int, h: int, w: int, before: int, after: int, rate: float, tokens_per_second: int
) -> None:
    whole, next_text, _ = ids_of(
        [prompt(before, steps, h, w, after)],
        video_grid_thw=[[steps, 2 * h, 2 * w]],
        second_per_grid_ts=[1 / rate],
        tokens_per_second=tokens_per_second,
    )
    rope = MRope(tokens_per_second=tokens_per_second)
    parts = [rope.text(before + 1)]
    rope.begin_video()
    parts += [rope.step(i / rate, h, w) for i in range(steps)]
    parts.append(rope.text(1 + after))
    assert torch.equal(torch.cat(parts, dim=1), whole[:, 0])
    assert rope.next == next_text.item()


def test_uneven_timestamps_of_real_video_count_as_the_second_they_mean() -> None:
    rope = MRope(tokens_per_second=2)
    rope.begin_video()
    assert [rope.step(t, 1, 1)[0].item() for t in (0.0, 0.499967, 0.999967, 1.500033)] == [0, 1, 2, 3]


def test_neighbours_may_share_an_id_but_never_go_back() -> None:
    rope = MRope(tokens_per_second=2)
    rope.begin_video()
    assert [rope.step(t, 1, 1)[0].item() for t in (0.0, 0.25, 0.5, 0.75)] == [0, 0, 1, 1]
    with pytest.raises(InputError, match=r"0\.75"):
        rope.step(0.5, 1, 1)


def test_a_fork_goes_its_own_way() -> None:
    rope = MRope(tokens_per_second=2)
    rope.text(3)
    rope.begin_video()
    rope.step(0.0, 2, 2)
    fork = rope.copy()
    fork.text(10)
    expected = MRope(tokens_per_second=2, next=3)
    expected.begin_video()
    expected.step(0.0, 2, 2)
    assert torch.equal(rope.step(1.0, 2, 2), expected.step(1.0, 2, 2))
    assert fork.next == 5 + 10 and rope.next == expected.next == 6


def test_a_second_segment_starts_after_the_text_between() -> None:
    tokens = prompt(1, 2, 1, 1, 1) + prompt(0, 1, 1, 2, 1)
    ids, next_text, _ = ids_of([tokens], video_grid_thw=[[2, 2, 2], [1, 2, 4]], second_per_grid_ts=[0.5, 1.0])
    rope = MRope(tokens_per_second=2)
    parts = [rope.text(2)]
    rope.begin_video()
    parts += [rope.step(0.0, 1, 1), rope.step(0.5, 1, 1), rope.text(3)]
    rope.begin_video()
    parts += [rope.step(0.0, 1, 2), rope.text(2)]
    assert torch.equal(torch.cat(parts, dim=1), ids[:, 0]) and next_text.item() == rope.next


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_id_and_holds_one(side: str) -> None:
    long, short = prompt(2, 2, 1, 2, 3), prompt(1, 1, 1, 2, 1)
    gap = len(long) - len(short)
    pad, real = [0] * gap, [1] * len(short)
    row, mask = (pad + short, pad + real) if side == "left" else (short + pad, real + pad)
    grids = [[2, 2, 4], [1, 2, 4]]
    ids, next_text, deltas = ids_of([long, row], [[1] * len(long), mask], video_grid_thw=grids)
    for index, tokens in enumerate((long, short)):
        alone, alone_next, _ = ids_of([tokens], video_grid_thw=[grids[index]])
        kept = torch.tensor([1] * len(long) if index == 0 else mask).bool()
        assert torch.equal(ids[:, index, kept], alone[:, 0])
        assert (ids[:, index, ~kept] == 1).all()
        assert next_text[index] == alone_next[0] and deltas[index, 0] == alone_next[0] - len(long)


def test_text_alone_counts_up() -> None:
    ids, next_text, deltas = ids_of([[5, 6, 7, 8]])
    assert ids[:, 0].tolist() == [[0, 1, 2, 3]] * 3 and next_text.tolist() == [4] and deltas.tolist() == [[0]]


@pytest.mark.parametrize(
    ("tokens", "options", "named"),
    [
        (prompt(0, 2, 1, 1, 0), {}, "more placeholders"),
        (prompt(0, 2, 1, 1, 0), {"video_grid_thw": [[3, 2, 2]]}, "2 in a row"),
        (prompt(0, 3, 1, 1, 0), {"video_grid_thw": [[2, 2, 2]]}, "more placeholders"),
        ([5, 6], {"video_grid_thw": [[2, 2, 2]]}, "none for 1 grids"),
        (prompt(0, 2, 1, 1, 0), {"video_grid_thw": [[2, 2, 2]], "second_per_grid_ts": [1.0, 1.0]}, "one per video"),
        (prompt(0, 2, 1, 1, 0), {"video_grid_thw": [[2, 2, 2]], "second_per_grid_ts": [float("nan")]}, "nan"),
        (prompt(0, 2, 1, 1, 0), {"video_grid_thw": [[2, 2]]}, "three positive"),
        (prompt(0, 2, 1, 1, 0), {"video_grid_thw": [[2, 1, 2]]}, "at least one token"),
    ],
)
def test_placeholders_and_grids_that_disagree_are_refused(
    tokens: list[int], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        ids_of([tokens], **options)


def test_misuse_of_the_state_is_refused() -> None:
    rope = MRope(tokens_per_second=2)
    with pytest.raises(InputError, match="begin_video"):
        rope.step(0.0, 1, 1)
    rope.begin_video()
    rope.text(1)
    with pytest.raises(InputError, match="begin_video"):  # text has ended the segment
        rope.step(0.0, 1, 1)
    rope.begin_video()
    for seconds in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="seconds"):
            rope.step(seconds, 1, 1)
    with pytest.raises(InputError, match="grid"):
        rope.step(0.0, 0, 3)
    with pytest.raises(InputError, match="tokens_per_second"):
        MRope(tokens_per_second=0)
    with pytest.raises(InputError, match="k >= 0"):
        rope.text(-1)
    with pytest.raises(InputError, match="input_ids"):
        position_ids(torch.zeros(3), video_token_id=1, image_token_id=2, tokens_per_second=2)
