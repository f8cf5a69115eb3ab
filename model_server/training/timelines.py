"""Time lines of calls: who is heard when, and the words of both."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.scores import Read

OF_A_SKILL = 2


def draw(calls: Sequence[Read], path: Path) -> None:
    """The first calls of each skill, one below the other; nothing where matplotlib is not installed."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        return
    matplotlib.use("Agg")
    plt: Any = importlib.import_module("matplotlib.pyplot")
    shown: list[Read] = []
    for skill in dict.fromkeys(call.heard.case.skill for call in calls):
        shown += [call for call in calls if call.heard.case.skill == skill][:OF_A_SKILL]
    figure, axes = plt.subplots(len(shown), 1, figsize=(11, 1.5 * len(shown)), squeeze=False)
    for axis, call in zip(axes[:, 0], shown, strict=True):
        _one(axis, call)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _one(axis: Any, call: Read) -> None:
    case = call.heard.case
    for pcm, height, colour in ((case.caller, 1.0, "tab:blue"), (call.heard.pcm, -1.0, "tab:orange")):
        count = len(pcm) // 160
        level = np.abs(pcm[: count * 160].reshape(-1, 160).astype(np.float32)).max(1) / 16384
        axis.fill_between(np.arange(count) / 100, height * np.minimum(level, 1.0), color=colour, linewidth=0)
    for word in case.words:
        axis.text(word.start_s, 1.05, word.label, fontsize=6, color="tab:blue")
    for spoken in call.spoken:
        axis.text(spoken.start_s, -1.35, spoken.word, fontsize=6, color="tab:orange")
    if 0 < case.event_s < len(case.caller) / MODEL_HZ:
        axis.axvline(case.event_s, color="black", linewidth=0.6)
    axis.set(ylim=(-1.5, 1.5), xlim=(0, len(case.caller) / MODEL_HZ), yticks=[])
    axis.set_title(f"{case.skill}: {case.name}", fontsize=7, loc="left", pad=2)
    axis.tick_params(labelsize=6)
