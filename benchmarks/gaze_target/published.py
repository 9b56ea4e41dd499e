"""Published results on GazeFollow, VideoAttentionTarget and ChildPlay, with their source.

Read from the leaderboard in the README of PaGE (arXiv 2607.04860), an image, which gathers what the papers report; the
ViT-B row of Gaze-LLE (arXiv 2412.09586) likewise. None of them comes with an interval. Dashes: not reported there.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "the leaderboard in PaGE's README (arXiv 2607.04860)"
COLUMNS = {
    "gazefollow": ("auc", "avg_l2", "min_l2"),
    "vat": ("auc", "l2", "ap"),
    "childplay": ("auc", "l2", "ap"),
}


@dataclass(frozen=True)
class Published:
    """One method's numbers by data set, in the order of COLUMNS; None where it has none."""

    method: str
    gazefollow: tuple[float | None, ...]
    vat: tuple[float | None, ...] = ()
    childplay: tuple[float | None, ...] = ()

    def on(self, name: str) -> tuple[float | None, ...]:
        """The numbers on a data set of COLUMNS; empty where there is no row."""
        return {"gazefollow": self.gazefollow, "vat": self.vat, "childplay": self.childplay}[name]


PUBLISHED: tuple[Published, ...] = (
    Published("Recasens 2015", (0.878, 0.190, 0.113)),
    Published("Chong 2018", (0.896, 0.187, 0.112), (0.833, 0.171, 0.712)),
    Published("Lian 2019", (0.906, 0.145, 0.081)),
    Published("Chong 2020", (0.921, 0.137, 0.077), (0.860, 0.134, 0.853)),
    Published("Fang 2021", (0.922, 0.124, 0.067), (0.905, 0.108, 0.896)),
    Published("Bao 2022", (0.928, 0.122, None), (0.885, 0.120, 0.869)),
    Published("Jin 2022", (0.920, 0.118, 0.063), (0.900, 0.104, 0.895)),
    Published("Gupta 2022", (0.943, 0.114, 0.056), (0.914, 0.110, 0.879), (0.919, 0.113, 0.983)),
    Published("Miao 2023", (0.934, 0.123, 0.065), (0.917, 0.109, 0.908)),
    Published("Tafasca 2023", (0.939, 0.122, 0.062), (0.914, 0.109, 0.834), (0.935, 0.107, 0.986)),
    Published("Sharingan 2024", (0.944, 0.113, 0.057), (None, 0.107, 0.891), (None, 0.106, 0.990)),
    Published("ViTGaze 2024", (0.949, 0.105, 0.047), (0.938, 0.102, 0.905)),
    Published("Gaze-LLE ViT-B", (0.956, 0.104, 0.045), (0.933, 0.107, 0.897)),
    Published("Gaze-LLE ViT-L", (0.958, 0.099, 0.041), (0.937, 0.103, 0.903), (0.951, 0.101, 0.994)),
    Published("Gemini 3.5 Flash", (None, 0.128, 0.067), (None, 0.138, None), (None, 0.111, None)),
    Published("PaGE S", (0.964, 0.086, 0.033), (0.964, 0.074, 0.937), (0.970, 0.075, 0.997)),
    Published("PaGE S+", (0.965, 0.086, 0.033), (0.965, 0.074, 0.939), (0.970, 0.075, 0.997)),
    Published("PaGE B", (0.966, 0.081, 0.029), (0.969, 0.068, 0.945), (0.973, 0.070, 0.997)),
    Published("PaGE H+", (0.966, 0.080, 0.029), (0.972, 0.064, 0.951), (0.975, 0.069, 0.995)),
    Published("Human", (0.924, 0.096, 0.040), (0.921, 0.051, 0.925), (0.911, 0.048, 0.993)),
)
