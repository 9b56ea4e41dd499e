"""uint8 RGB frames to Qwen2.5-VL patches, without torchvision.

Source: the processors of `transformers` 5.23.0 (`Qwen2VLVideoProcessor`, `Qwen2VLImageProcessor`), which need
torchvision for video. Here the same arithmetic runs on plain torch; the results agree within 1e-6 (golden 05 to 05d).

The bicubic resize must run on the uint8 tensor: it rounds and clamps between its two passes, and a float resize is up
to 24 grey levels away on hard edges. Frames are never cropped or padded: a point keeps its normalised coordinates.

Where we differ: the number of frames is never capped or resampled here (times belong to `stream`), wrong input raises
InputError instead of being converted, and a single image takes the video's path unless the PIL backend is asked for.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gazeqwen.config import PreprocessConfig
from gazeqwen.errors import InputError

Grid = tuple[int, int, int]
MAX_ASPECT_RATIO = 200


def smart_resize(height: int, width: int, *, factor: int = 28, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size Qwen resizes a frame to: multiples of `factor`, about the same aspect ratio, pixels within the limits.

    Args:
        height, width: of the frame, pixels.
        factor: pixels of one merged token (patch_size * merge_size).
        min_pixels, max_pixels: limits of height * width of one frame.

    Returns:
        (height, width) in pixels. As in Qwen, halves round to even, and very flat frames may leave the limits.

    Raises:
        InputError: a side is not positive, or one side is more than 200 times the other.
    """
    if min(height, width) < 1:
        raise InputError("frame size", expected="positive height and width", found=f"{height} x {width}")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InputError(
            "frame size",
            expected=f"an aspect ratio of at most {MAX_ASPECT_RATIO}",
            found=f"{max(height, width) / min(height, width):g} ({height} x {width})",
            fix="crop the frames",
        )
    new_h, new_w = round(height / factor) * factor, round(width / factor) * factor
    if new_h * new_w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_h = max(factor, math.floor(height / shrink / factor) * factor)
        new_w = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_h * new_w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * grow / factor) * factor
        new_w = math.ceil(width * grow / factor) * factor
    return new_h, new_w


def resize_frames(frames: Tensor | np.ndarray, *, config: PreprocessConfig, factor: int = 28) -> Tensor:
    """The frames as Qwen sees them before normalisation; the published V-JEPA path starts from these too.

    Args:
        frames: (T, H, W, 3) uint8 RGB.

    Returns:
        (T, h, w, 3) uint8 on the CPU, (h, w) from `smart_resize`.

    Raises:
        InputError: not uint8, not of that shape, empty, or too flat.
    """
    video = as_frames(frames)
    size = smart_resize(
        video.shape[1], video.shape[2], factor=factor, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    if size == tuple(video.shape[1:3]):
        return video
    planes = video.permute(0, 3, 1, 2)  # a channels-last view: torch's fast uint8 path reads it without a copy
    return F.interpolate(planes, size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)


def video_patches(
    frames: Tensor | np.ndarray,
    *,
    config: PreprocessConfig,
    patch_size: int = 14,
    merge_size: int = 2,
    temporal: int = 2,
) -> tuple[Tensor, Grid]:
    """A video as the vision tower's input.

    Patching a video step by step (`temporal` frames at a time) gives the same rows as patching it at once.

    Args:
        frames: (T, H, W, 3) uint8 RGB. Where T is no multiple of `temporal`, the last frame is repeated.
        patch_size, merge_size, temporal: of the vision tower: pixels, patches along a merged token, frames of a patch.

    Returns:
        (t*gh*gw, 3*temporal*patch_size**2) float32 rows in merge-block order (step, block row, block column, then the
        merge_size**2 patches of a block), each row (channel, frame, y, x); and the grid (t, gh, gw) in patches.

    Raises:
        InputError: as `resize_frames`.
    """
    return _patchify(
        resize_frames(frames, config=config, factor=patch_size * merge_size), config, patch_size, merge_size, temporal
    )


def image_patches(
    image: Tensor | np.ndarray,
    *,
    config: PreprocessConfig,
    patch_size: int = 14,
    merge_size: int = 2,
    temporal: int = 2,
    backend: Literal["torch", "pil"] = "torch",
) -> tuple[Tensor, Grid]:
    """One image, repeated to `temporal` frames as Qwen does.

    Args:
        image: (H, W, 3) uint8 RGB.
        backend: which of the two official processors to equal. `torch` (default) is torchvision's resize and therefore
            a one-frame video; `pil` is Pillow's, usually within one grey level of it, up to 13 on noise.

    Returns:
        As `video_patches`, with grid (1, gh, gw).

    Raises:
        InputError: as `resize_frames`, or an unknown backend.
    """
    if not isinstance(image, (Tensor, np.ndarray)) or image.ndim != 3:
        found = str(tuple(image.shape)) if isinstance(image, (Tensor, np.ndarray)) else type(image).__name__
        raise InputError("image", expected="a uint8 array of shape (H, W, 3)", found=found)
    frame = image[None]
    if backend == "torch":
        resized = resize_frames(frame, config=config, factor=patch_size * merge_size)
    elif backend == "pil":
        resized = _resize_pil(as_frames(frame), config, patch_size * merge_size)
    else:
        raise InputError("image_patches", expected="backend torch or pil", found=repr(backend))
    return _patchify(resized, config, patch_size, merge_size, temporal)


def as_frames(frames: Tensor | np.ndarray, source: str = "frames") -> Tensor:
    """(T, H, W, 3) uint8 frames as a CPU tensor, without a copy where possible. Raises InputError for anything else."""
    if not isinstance(frames, (Tensor, np.ndarray)):
        raise InputError(source, expected="a uint8 array of shape (T, H, W, 3)", found=type(frames).__name__)
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(source, expected="shape (T, H, W, 3) with T, H, W >= 1", found=str(tuple(frames.shape)))
    if frames.dtype not in (torch.uint8, np.uint8):
        raise InputError(source, expected="uint8 RGB", found=str(frames.dtype), fix="pass 0..255 as uint8")
    if isinstance(frames, Tensor):
        return frames.detach().cpu()
    array = np.asarray(frames)
    usable = array.flags.writeable and all(step > 0 for step in array.strides)
    return torch.from_numpy(array if usable else array.copy())


def _resize_pil(video: Tensor, config: PreprocessConfig, factor: int) -> Tensor:
    from PIL import Image

    height, width = smart_resize(
        video.shape[1], video.shape[2], factor=factor, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    resized = [Image.fromarray(f.numpy()).resize((width, height), Image.Resampling.BICUBIC) for f in video]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in resized]))


def _patchify(video: Tensor, config: PreprocessConfig, patch: int, merge: int, temporal: int) -> tuple[Tensor, Grid]:
    missing = -video.shape[0] % temporal
    if missing:
        video = torch.cat([video, video[-1:].expand(missing, -1, -1, -1)])
    t, gh, gw = video.shape[0] // temporal, video.shape[1] // patch, video.shape[2] // patch
    blocks = video.reshape(t, temporal, gh // merge, merge, patch, gw // merge, merge, patch, 3)
    # to (t, block row, block column, row and column in the block, channel, frame, y, x), still one byte each
    rows = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * gh * gw, 3, -1).float()
    mean, std = (torch.tensor(values).mul_(255.0).view(3, 1) for values in (config.mean, config.std))
    return rows.sub_(mean).div_(std).flatten(1), (t, gh, gw)
