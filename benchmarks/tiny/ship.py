"""The embedded model as it ships: `python -m benchmarks.tiny.ship --inject DIR --null DIR --out gazeqwen/tiny/weights`.

Everything is rounded to float16 and stored so: what is evaluated is what is stored.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.commands import run_command
from benchmarks.tiny.files import round_weights
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen
from gazeqwen.weight_files import ARMS, BACKBONE, WEIGHTS, read_weights

TRAINED = "small synthetic world"
LARGEST_BYTES = 15_000_000


def ship(inject: Path, null: Path, out: Path) -> Path:
    """Writes the folder that `from_pretrained("tiny")` loads.

    Args:
        inject: a model's folder, of stage one. null: the adapter's folder of the arm `null` on the same backbone.

    Raises:
        InputError: a part is absent or damaged; `out` holds something else than a saved model; more than 15 MB.
    """
    model, own = GazeQwen.from_pretrained(inject), read_weights(null / WEIGHTS)
    model.config = replace(model.config, name="tiny", trained=TRAINED)
    model.arms_folder = None
    vlm: Any = model.vlm
    vlm.half()
    model.save_pretrained(out)  # refuses a folder that holds anything else
    kept = out / ARMS / "null"
    kept.mkdir(parents=True)
    save_file(own, kept / WEIGHTS)
    for path in (out / WEIGHTS, kept / WEIGHTS):
        round_weights(path)
    # Written for training runs; the embedded model's card is docs/embedded_model.md.
    (out / BACKBONE / "generation_config.json").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > LARGEST_BYTES:
        raise InputError(out, expected=f"{LARGEST_BYTES} bytes at most", found=str(size))
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny.ship", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inject", type=Path, required=True, metavar="DIR", help="a model's folder, of stage one")
    parser.add_argument("--null", type=Path, required=True, metavar="DIR", help="arms/null of the null arm's run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="replaced")
    options = parser.parse_args(arguments)
    return run_command(lambda: ship(options.inject, options.null, options.out))


if __name__ == "__main__":
    sys.exit(main())
