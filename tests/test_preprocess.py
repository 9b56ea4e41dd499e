"""Frames to Qwen patches: sizes, the order of the patches, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.config import PreprocessConfig
from gazeqwen.errors import InputError
from gazeqwen.preprocess import image_patches, resize_frames, smart_resize, video_patches

SMALL = PreprocessConfig(min_pixels=56 * 56, max_pixels=84 * 84)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def grey_levels(patches: torch.Tensor, config: PreprocessConfig = SMALL) -> torch.Tensor:
    """Normalised patches back to 0..255, (rows, 3, temporal * patch**2)."""
    mean, std = (torch.tensor(v).view(1, 3, 1) for v in (config.mean, config.std))
    return (patches.view(len(patches), 3, -1) * std + mean) * 255


@pytest.mark.parametrize(
    ("height", "width", "limits", "expected"),
    [
        (42, 42, (3136, 10**6), (56, 56)),  # 1.5 tokens round to 2
        (70, 70, (3136, 10**6), (56, 56)),  # 2.5 tokens round to 2 as well: halves go to even
        (98, 98, (3136, 10**6), (112, 112)),
        (1080, 1920, (100352, 602112), (560, 1008)),
        (10, 10, (3136, 10**6), (56, 56)),  # rounds to no token at all, then grows to the minimum
    ],
)
def test_smart_resize_known_sizes(height: int, width: int, limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert smart_resize(height, width, min_pixels=limits[0], max_pixels=limits[1]) == expected


@given(st.integers(20, 4000), st.integers(20, 4000))
def test_smart_resize_gives_whole_tokens_within_the_limits(height: int, width: int) -> None:
    low, high = 128 * 28 * 28, 768 * 28 * 28
    if max(height, width) / min(height, width) > 10:
        return
    new_h, new_w = smart_resize(height, width, min_pixels=low, max_pixels=high)
    assert new_h % 28 == 0 and new_w % 28 == 0
    assert low <= new_h * new_w <= high
    assert (new_h >= new_w) == (height >= width) or abs(new_h - new_w) <= 28


def test_smart_resize_equals_the_transformers_function() -> None:
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    rng = np.random.default_rng(1)
    for height, width in rng.integers(8, 3000, (300, 2)).tolist():
        if max(height, width) / min(height, width) <= 200:
            ours = smart_resize(height, width, min_pixels=3136, max_pixels=602112)
            assert ours == reference(height, width, factor=28, min_pixels=3136, max_pixels=602112)


@pytest.mark.parametrize(("height", "width"), [(10, 2010), (2010, 10), (0, 50), (50, -1)])
def test_smart_resize_refuses_sizes_it_has_no_answer_for(height: int, width: int) -> None:
    with pytest.raises(InputError, match=str(width)):
        smart_resize(height, width, min_pixels=3136, max_pixels=10**6)


def test_patches_lie_in_merge_block_order() -> None:
    """A 4 x 4 grid of patches, each of its own grey: rows go block by block, and inside a block row by row."""
    greys = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    frame = np.repeat(np.kron(greys, np.ones((14, 14), np.uint8))[..., None], 3, axis=2)
    patches, grid = video_patches(np.stack([frame, frame]), config=SMALL)
    assert grid == (1, 4, 4) and patches.shape == (16, 1176) and patches.dtype == torch.float32
    rows = grey_levels(patches)
    assert torch.allclose(rows, rows[:, :1, :1].expand_as(rows), atol=1e-3)
    blocks = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert rows[:, 0, 0].round().tolist() == [10.0 * i for i in blocks]


def test_a_row_is_channel_then_frame_then_pixels() -> None:
    frames = np.zeros((2, 56, 56, 3), np.uint8)
    frames[0, ..., 0], frames[1, ..., 0], frames[..., 2] = 10, 20, 30
    frames[1, 3, 5, 1] = 99  # frame 1, y 3, x 5, green
    patches, _ = video_patches(frames, config=SMALL)
    first = grey_levels(patches)[0].view(3, 2, 14, 14)
    assert torch.allclose(first[0, 0], torch.tensor(10.0), atol=1e-3)
    assert torch.allclose(first[0, 1], torch.tensor(20.0), atol=1e-3)
    assert torch.allclose(first[2], torch.tensor(30.0), atol=1e-3)
    assert first[1].round().nonzero().tolist() == [[1, 3, 5]]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(30, 90), st.integers(30, 90))
def test_step_by_step_equals_the_whole_video(frames: int, height: int, width: int) -> None:
    video = noise(frames, height, width, 3)
    whole, grid = video_patches(video, config=SMALL)
    parts = [video_patches(video[i : i + 2], config=SMALL) for i in range(0, frames, 2)]
    assert torch.equal(whole, torch.cat([patches for patches, _ in parts]))
    assert grid == (len(parts), *parts[0][1][1:]) and len(whole) == grid[0] * grid[1] * grid[2]


def test_an_odd_last_frame_is_repeated() -> None:
    video = noise(3, 56, 56, 3)
    odd, grid = video_patches(video, config=SMALL)
    even, _ = video_patches(np.concatenate([video, video[-1:]]), config=SMALL)
    assert grid[0] == 2 and torch.equal(odd, even)


def test_resizing_happens_on_whole_grey_levels() -> None:
    """After the resize every value is one of 256 levels; a float resize would leave values in between."""
    patches, _ = video_patches(noise(2, 61, 75, 3), config=SMALL)
    levels = grey_levels(patches)
    assert (levels - levels.round()).abs().max() < 1e-3
    assert levels.min() > -1e-3 and levels.max() < 255 + 1e-3


def test_resized_frames_are_what_the_patches_hold() -> None:
    video = noise(2, 61, 75, 3)
    resized = resize_frames(video, config=SMALL)
    assert resized.dtype == torch.uint8
    again, _ = video_patches(resized, config=SMALL)
    assert torch.equal(again, video_patches(video, config=SMALL)[0])


def test_an_image_is_a_one_frame_video_and_pillow_is_close() -> None:
    image = noise(150, 170, 3)  # on noise every other filter is tens of grey levels away
    patches, grid = image_patches(image, config=SMALL)
    assert torch.equal(patches, video_patches(image[None], config=SMALL)[0])
    by_pillow, pillow_grid = image_patches(image, config=SMALL, backend="pil")
    assert grid == pillow_grid
    apart = (grey_levels(patches) - grey_levels(by_pillow)).abs().max()
    assert apart < 14


def test_pillow_backend_equals_the_transformers_processor() -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    size = {"shortest_edge": SMALL.min_pixels, "longest_edge": SMALL.max_pixels}
    image = noise(70, 91, 3)
    theirs = module.Qwen2VLImageProcessorPil(size=size)(images=[image], return_tensors="pt")
    ours, grid = image_patches(image, config=SMALL, backend="pil")
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    assert (ours - theirs["pixel_values"]).abs().max() < 1e-6


def test_other_geometry_of_the_vision_tower() -> None:
    patches, grid = video_patches(noise(4, 64, 64, 3), config=SMALL, patch_size=16, merge_size=2, temporal=4)
    assert grid == (1, 4, 4) and patches.shape == (16, 3 * 4 * 16 * 16)


def test_tensors_read_only_and_flipped_arrays_are_accepted_and_left_alone() -> None:
    video = noise(2, 60, 60, 3)
    expected, _ = video_patches(video, config=SMALL)
    locked = video.copy()
    locked.flags.writeable = False
    for same in (torch.from_numpy(video), locked, np.ascontiguousarray(video[:, ::-1])[:, ::-1]):
        assert torch.equal(video_patches(same, config=SMALL)[0], expected)
    assert np.array_equal(video, noise(2, 60, 60, 3))


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        (np.zeros((2, 56, 56, 3), np.float32), "float32"),
        (torch.zeros(2, 56, 56, 3), "float32"),
        (np.zeros((2, 3, 56, 56), np.uint8), "(2, 3, 56, 56)"),
        (np.zeros((0, 56, 56, 3), np.uint8), "(0, 56, 56, 3)"),
        (np.zeros((56, 56, 3), np.uint8), "(56, 56, 3)"),
        (np.zeros((2, 5, 2000, 3), np.uint8), "400"),
        ([[0]], "list"),
    ],
)
def test_unusable_frames_are_refused_in_one_line(frames: object, named: str) -> None:
    with pytest.raises(InputError) as caught:
        video_patches(frames, config=SMALL)  # type: ignore[arg-type]
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_unusable_images_are_refused() -> None:
    with pytest.raises(InputError, match="\\(H, W, 3\\)"):
        image_patches(noise(1, 56, 56, 3), config=SMALL)
    with pytest.raises(InputError, match="torch or pil"):
        image_patches(noise(56, 56, 3), config=SMALL, backend="cv2")  # type: ignore[arg-type]
