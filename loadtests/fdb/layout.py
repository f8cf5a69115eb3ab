"""Full-Duplex-Bench's folders: which samples there are, what is known of each, and where answers belong.

| version | folder of a sample | what is in it |
|---|---|---|
| 1 | `{subset}/{ID}/` | `input.wav`; by task `pause.json`, `turn_taking.json` or `interrupt.json` |
| 1.5 | `{task}/{ID}/` | `input.wav`, `clean_input.wav`, `metadata.json` with the overlap's `timestamps` |
| 3 | `{example}_{24 hex digits}/` | `input.wav` (48 kHz), `metadata.json` with the scenario |

An annotation is a list of `{"text", "timestamp": [start, end]}`, in seconds of `input.wav`. Answers lie beside:
`output.wav` and `output.json`, of 1.5 also `clean_output.wav` and `clean_output.json`; of 3 `output_{provider}.wav`
and `result_{provider}.json`. As published in the repository DanielLin94144/Full-Duplex-Bench (`v1_v1.5/dataset`,
`v1_v1.5/evaluation`, `v3`); nothing of it is copied here.
"""

from __future__ import annotations

import enum
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROVIDER = "microturn"
EXAMPLE = re.compile(r"(.+)_([0-9a-f]{24})")
"""Folders of version 3: example and speaker."""


class Version(enum.StrEnum):
    V1 = "1"
    V15 = "1.5"
    V3 = "3"


class Task(enum.StrEnum):
    """Of version 1; those of 1.5 are named as their folders, version 3 has one."""

    PAUSE = "pause_handling"
    TURN = "smooth_turn_taking"
    INTERRUPTION = "user_interruption"
    BACKCHANNEL = "backchannel"


ANNOTATED = {
    "pause.json": Task.PAUSE,
    "turn_taking.json": Task.TURN,
    "interrupt.json": Task.INTERRUPTION,
}


@dataclass(frozen=True, slots=True)
class Word:
    """A word of `output.json`. A recogniser may not know where its last one ends."""

    text: str
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, and where it lies."""

    folder: Path
    subset: str
    """Its place beneath the root: samples of one subset are judged together."""
    version: Version
    task: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def sounds(self) -> tuple[tuple[str, str], ...]:
        """(what is played, where the answer is written)."""
        if self.version is Version.V3:
            return (("input.wav", f"output_{PROVIDER}.wav"),)
        clean = (("clean_input.wav", "clean_output.wav"),) if self.version is Version.V15 else ()
        return (("input.wav", "output.wav"), *clean)

    @property
    def event(self) -> tuple[float, float]:
        """What its annotation is of, in seconds: the pause, the gap at the end of a turn, the interruption, the
        overlap. ValueError, naming the file, where it has none or another shape."""
        if self.version is Version.V15:
            given: Any = self.read("metadata.json")
            times = given.get("timestamps") if isinstance(given, dict) else None
            path = self.folder / "metadata.json"
        else:
            name = next((name for name, task in ANNOTATED.items() if task == self.task), "")
            if not name:
                raise ValueError(f"{self.folder}: nothing of a sample of {self.task} has a time")
            path, given = self.folder / name, self.read(name)
            times = given[0].get("timestamp") if isinstance(given, list) and given else None
        if not isinstance(times, list) or len(times) != 2:
            raise ValueError(f"{path}: expected a time stamp [start, end] in seconds, not {times!r}")
        return float(times[0]), float(times[1])

    def check(self) -> None:
        """ValueError, naming the file, for an annotation that cannot be read."""
        if self.task != Task.BACKCHANNEL and self.version is not Version.V3:
            _ = self.event
        if self.version is Version.V3:
            self.read("metadata.json")

    def read(self, name: str) -> Any:
        """A JSON file of it. ValueError, naming the file, where there is none."""
        path = self.folder / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as wrong:
            raise ValueError(f"{path}: {wrong}") from None

    def words(self, output: str = "output.wav") -> tuple[Word, ...] | None:
        """What stands in the JSON beside one of the answers; None where there is no such file.

        Words of version 3 are those of its result.
        """
        name = f"result_{PROVIDER}.json" if self.version is Version.V3 else f"{Path(output).stem}.json"
        if not (self.folder / name).is_file():
            return None
        chunks = self.read(name)["asr_chunks" if self.version is Version.V3 else "chunks"]
        return tuple(Word(c["text"].strip(), *map(_seconds, c["timestamp"])) for c in chunks)  # type: ignore[arg-type]


def find(root: Path) -> list[Sample]:
    """Every sample beneath a folder, in the order of their paths. ValueError where there is none."""
    samples = []
    for sound in sorted(root.rglob("input.wav"), key=lambda path: _ordered(path, root)):
        folder = sound.parent
        subset = folder.parent.relative_to(root).as_posix()
        version = _version(folder)
        samples.append(Sample(folder, subset, version, _task(folder, version)))
    if not samples:
        raise ValueError(
            f"{root}: no input.wav in any folder of it; expected the layout of Full-Duplex-Bench"
        )
    return samples


def copied(samples: Iterable[Sample], root: Path, to: Path) -> list[Sample]:
    """The same samples with everything that was published with them, below another folder: a data set stays as it
    is. Answers that lie there already are not taken along."""
    out = []
    for sample in samples:
        folder = to / sample.folder.relative_to(root)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(sample.folder.iterdir()):
            if path.is_file() and not re.match(r"(clean_)?output|result_|rating\.json", path.name):
                shutil.copyfile(path, folder / path.name)
        out.append(Sample(folder, sample.subset, sample.version, sample.task))
    return out


def write_words(path: Path, words: Sequence[Word]) -> None:
    """As the benchmark's recognition step does (`get_transcript/asr.py`): text, and chunks with times."""
    path.write_text(json.dumps({"text": text_of(words), "chunks": chunks_of(words)}, indent=4))


def text_of(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def chunks_of(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words]


def judged(sample: Sample, words: Sequence[Word]) -> tuple[Word, ...]:
    """Those that its recognition step would see: of a user's interruption, what begins after its end."""
    if sample.task == Task.INTERRUPTION and sample.version is Version.V1:
        return tuple(word for word in words if word.start_s >= sample.event[1])
    return tuple(words)


def _version(folder: Path) -> Version:
    if EXAMPLE.fullmatch(folder.name) and (folder / "metadata.json").is_file():
        return Version.V3
    return Version.V15 if (folder / "clean_input.wav").is_file() else Version.V1


def _task(folder: Path, version: Version) -> str:
    if version is Version.V3:
        return "tool_use"
    if version is Version.V15:
        return folder.parent.name
    for name, task in ANNOTATED.items():
        if (folder / name).is_file():
            return task
    if "backchannel" in folder.parent.name:
        return Task.BACKCHANNEL
    raise ValueError(
        f"{folder}: no {', '.join(ANNOTATED)}, and not of a folder of backchannels: which task is it of?"
    )


def _ordered(path: Path, root: Path) -> list[tuple[int, str]]:
    """IDs are numbers, most of the time."""
    return [(int(part) if part.isdigit() else 0, part) for part in path.relative_to(root).parts]


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)
