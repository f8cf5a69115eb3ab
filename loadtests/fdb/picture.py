"""Time lines: of each subset one sample, the user above, the model below, and what its annotation is of."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.caller.command import read_audio
from loadtests.fdb.layout import Sample


def draw(samples: Sequence[Sample], path: Path, title: str) -> bool:
    """As a PNG. False where matplotlib is not installed or nothing was answered."""
    shown: dict[str, Sample] = {}
    for sample in samples:
        if (sample.folder / sample.sounds[0][1]).is_file():
            shown.setdefault(sample.subset, sample)
    if not shown or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(shown), 1, figsize=(11, 1.4 * len(shown) + 0.4), squeeze=False)
    for axis, sample in zip(axes[:, 0], shown.values(), strict=True):
        _one(axis, sample)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _one(axis: Any, sample: Sample) -> None:
    last_s = 0.0
    for name, height, colour in (
        (sample.sounds[0][0], 1.0, "tab:blue"),
        (sample.sounds[0][1], -1.0, "tab:orange"),
    ):
        pcm, rate_hz = read_audio(sample.folder / name)
        size = rate_hz // 100
        count = len(pcm) // size
        level = np.abs(pcm[: count * size].reshape(-1, size).astype(np.float32)).max(1) / 16384
        axis.fill_between(np.arange(count) / 100, height * np.minimum(level, 1.0), color=colour, linewidth=0)
        last_s = max(last_s, count / 100)
    for word in sample.words() or ():
        axis.text(word.start_s, -1.35, word.text, fontsize=6, color="tab:orange")
    with contextlib.suppress(ValueError):  # of some tasks nothing has a time
        axis.axvspan(*sample.event, color="black", alpha=0.12, linewidth=0)
    axis.set(ylim=(-1.5, 1.5), xlim=(0, last_s), yticks=[])
    axis.set_title(f"{sample.subset}/{sample.name}", fontsize=7, loc="left", pad=2)
    axis.tick_params(labelsize=6)
