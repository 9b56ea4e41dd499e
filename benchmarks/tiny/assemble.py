"""Puts the embedded model's parts together: `python -m benchmarks.tiny.assemble --help`.

The folder is one that `GazeQwen.from_pretrained` loads, with a resampler that has not been trained; stage one
(`benchmarks.tiny.stage_one`) goes on from it. Weights are rounded to float16 here, once, so that everything after is
trained and measured on what can be shipped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.commands import run_command
from benchmarks.tiny.language import put_language, put_tower
from gazeqwen.model import GazeQwen
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm, tiny_tokenizer
from gazeqwen.vjepa import build_extractor

TRAINED = "small synthetic world; resampler untrained"


def assemble(language: Path, visual: Path, vjepa: Path, out: Path) -> Path:
    """Writes the model to `out` and returns it.

    Args:
        language: of `benchmarks.tiny.language`. visual, vjepa: of the two trainings beside it.

    Raises:
        InputError: a part is absent, damaged or of another shape.
    """
    vlm = build_tiny_vlm()
    put_language(vlm, language)
    put_tower(vlm, visual)
    config = replace(TINY_CONFIG, trained=TRAINED)
    extractor = build_extractor(config.features, vjepa)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GazeQwen(config, vlm=vlm, tokenizer=tiny_tokenizer(), extractor=extractor)
    with torch.no_grad():
        for tensor in (*model.vlm.state_dict().values(), *extractor.encoder.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return model.save_pretrained(out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny.assemble", description=(__doc__ or "").split("\n")[0])
    for name, what in (("language", "language.safetensors"), ("visual", "visual.pt"), ("vjepa", "vjepa.safetensors")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=what)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the model")
    options = parser.parse_args(arguments)
    return run_command(lambda: assemble(options.language, options.visual, options.vjepa, options.out))


if __name__ == "__main__":
    sys.exit(main())
