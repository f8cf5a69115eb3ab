"""What evaluation says to the model: calls whose sound is fixed beforehand, and what ought to come of them.

A caller here does not react: like the recordings of Full-Duplex-Bench (Lin et al. 2025, arXiv 2503.04721) a case is
played from its first to its last sample, whatever the model does. All speech is of speakers that were never trained
on: `connected_digits`, and the test part of Speech Commands; questions and requests, which nobody recorded, are of
synthetic voices that were not trained on either. Times are seconds from the case's first sample.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.model.vocabulary import SPANISH
from model_server.training import corpus, frames, synthesise
from model_server.training.bank import SPEECH_RMS, WordBank
from model_server.training.callers import cough
from model_server.training.clip import PCM, Clip, breaks_off
from model_server.training.corpus import DATA, DIGITS, Part
from model_server.training.frames import Pictures

EXPECTED_NUMBER = "482913"
"""What the persona of `correct` holds."""
LEAD_S, READ_BACK_S = 0.6, 0.6
"""Silence before a caller's first word; time for each word of an answer, on average."""
PHASES_S = (0.0, 0.04, 0.08, 0.12, 0.16)
"""Added to the silence of one case after another: nobody begins to speak on the 200 ms grid."""
HISS = 12.0
STRING = 6
"""Digits of the strings that are put together here."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the caller."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One call."""

    skill: str
    name: str
    persona: str
    caller: PCM
    """int16 [n], 16 kHz, whole turns."""
    words: tuple[Word, ...]
    expected: tuple[str, ...]
    """What the model ought to say, in order, without the `say:`."""
    event_s: float = 0.0
    """When what the case is about is over: the word stop, the wrong digit, the request, the question. For a
    disturbance, when it begins. Beyond the end of the case: never."""
    seconds: int = 0
    """N of `every N seconds`."""
    typed: Mapping[int, str] = field(default_factory=dict)
    """Turn -> a line that is given to the model as text."""
    pictures: Pictures | None = None

    @property
    def turns(self) -> int:
        return len(self.caller) // TURN_SAMPLES

    @property
    def end_s(self) -> float:
        """Of the caller's last word."""
        return max((word.end_s for word in self.words), default=0.0)


class Track:
    """A caller's sound while it is put together."""

    def __init__(self, rng: np.random.Generator, lead_s: float = LEAD_S) -> None:
        self.rng = rng
        self.words: list[Word] = []
        self._parts: list[tuple[int, np.ndarray[tuple[int], np.dtype[np.float32]]]] = []
        self.now_s = lead_s

    def say(self, clip: Clip, pause_s: float = 0.0) -> Word:
        """The clip's speech begins `pause_s` after the end of what was said last; returns its last word."""
        first = clip.words[0].start_samples
        at = round((self.now_s + pause_s) * MODEL_HZ)
        start, end = first, clip.words[-1].end_samples
        rms = float(np.sqrt(np.mean(clip.pcm[start:end].astype(np.float32) ** 2))) + 1.0
        self._parts.append((at - first, clip.pcm.astype(np.float32) * np.float32(SPEECH_RMS / rms)))
        for word in clip.words:
            a, b = at - first + word.start_samples, at - first + word.end_samples
            self.words.append(Word(word.label, a / MODEL_HZ, b / MODEL_HZ))
        self.now_s = self.words[-1].end_s
        return self.words[-1]

    def sound(self, pcm: np.ndarray[tuple[int], np.dtype[np.float32]], at_s: float) -> None:
        """Something that is no word of the caller's."""
        self._parts.append((round(at_s * MODEL_HZ), pcm))

    def pcm(self, seconds: float) -> PCM:
        """All of it, and so much silence behind the last word, in whole turns."""
        count = -(-round((self.now_s + seconds) * MODEL_HZ) // TURN_SAMPLES) * TURN_SAMPLES
        out = self.rng.standard_normal(count).astype(np.float32) * np.float32(HISS)
        for at, part in self._parts:
            start, end = max(0, at), min(count, at + len(part))
            out[start:end] += part[start - at : end - at]
        return np.clip(out, -32768, 32767).astype(np.int16)


@functools.cache
def unseen(data: Path) -> Mapping[str, tuple[Clip, ...]]:
    """Word -> clips of speakers of the test part of Speech Commands."""
    found: dict[str, list[Clip]] = {}
    for clip in corpus.words(Part.TEST, data):
        if clip.speaker.startswith("sc_"):
            found.setdefault(clip.words[0].label, []).append(clip)
    return {label: tuple(clips) for label, clips in found.items()}


def connected(data: Path, count: int) -> Iterator[Case]:
    """The strings of `connected_digits`, as they were spoken; nothing of this man was trained on.

    Where words begin is by its forced alignment (to 0.1 or 0.2 s); where the string ends, by its energy.
    """
    folder = data / "speech" / "connected_digits"
    rows: dict[str, list[tuple[str, float, float]]] = {}
    with (folder / "alignment_pocketsphinx.tsv").open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            rows.setdefault(row["file"], []).append((row["word"], float(row["start_s"]), float(row["end_s"])))
    labels = {Path(r.path).stem: r.label.split() for r in corpus.manifest(data) if r.kind == "digit_string"}
    names = [name for name in sorted(rows) if [w for w, _, _ in rows[name]] == labels[name]]
    for number, name in enumerate(names[:: max(1, len(names) // count)][:count]):
        pcm = corpus.load(folder / f"{name}.flac")
        spoken = rows[name]
        start, end = _whole_span(pcm)
        lead_s = LEAD_S + PHASES_S[number % len(PHASES_S)]
        track = Track(np.random.default_rng(len(pcm)))
        body = pcm[start:end].astype(np.float32)
        rms = float(np.sqrt(np.mean(body * body)))
        track.sound(body * np.float32(SPEECH_RMS / rms), lead_s)
        shift = lead_s - start / MODEL_HZ
        words = [Word(word, a + shift, b + shift) for word, a, b in spoken]
        words[-1] = Word(words[-1].label, words[-1].start_s, lead_s + (end - start) / MODEL_HZ)
        track.now_s = words[-1].end_s
        digits = tuple(str(DIGITS.index(word)) if word in DIGITS else "0" for word, _, _ in spoken)
        yield Case(
            "connected", name, f"read-back expect={len(digits)}",
            track.pcm(3.0 + READ_BACK_S * len(digits)), tuple(words), digits,
        )  # fmt: skip


def isolated(data: Path, count: int) -> Iterator[Case]:
    """One digit of one unseen speaker; the model knows that it is one. Every clip once, then all of them again at
    other places on the 200 ms grid: 275 cases are all of them at five."""
    clips = [clip for digit in DIGITS for clip in unseen(data).get(digit, ())]
    order = np.random.default_rng(1).permutation(len(clips))
    for number in range(count):
        around, at = divmod(number, len(clips))
        phase_s = PHASES_S[(number + around) % len(PHASES_S)]
        at = int(order[at])
        track = Track(np.random.default_rng(at), LEAD_S + phase_s)
        word = track.say(clips[at])
        yield Case(
            "isolated", clips[at].source, "read-back expect=1", track.pcm(2.4), tuple(track.words),
            (str(DIGITS.index(word.label)),),
        )  # fmt: skip


def paused(data: Path, count: int) -> Iterator[Case]:
    """Strings of digits of unseen speakers with pauses of up to 1.2 s; the count is known."""
    for number in range(count):
        rng = np.random.default_rng([2, number])
        track, digits = string_of(data, rng, STRING, (0.0, 1.2))
        yield Case(
            "paused", f"paused {number}", f"read-back expect={STRING}",
            track.pcm(2.4 + READ_BACK_S * STRING), tuple(track.words), digits,
        )  # fmt: skip


def uncounted(data: Path, count: int) -> Iterator[Case]:
    """The same without a count, in a steady rhythm: pauses of 0.1, 0.4, 0.7 or 1.0 s, one a case."""
    for number in range(count):
        rng = np.random.default_rng([3, number])
        pause = (0.1, 0.4, 0.7, 1.0)[number % 4]
        track, digits = string_of(data, rng, STRING, (0.9 * pause, 1.1 * pause))
        yield Case(
            "uncounted", f"pauses of {pause} s, {number}", "read-back",
            track.pcm(4.5 + READ_BACK_S * STRING), tuple(track.words), digits,
        )  # fmt: skip


def stop(data: Path, count: int) -> Iterator[Case]:
    """`stop` of an unseen speaker while the model says a string back, 1.2 to 2.4 s after the string."""
    words = unseen(data)["stop"]
    for number in range(count):
        rng = np.random.default_rng([4, number])
        track, digits = string_of(data, rng, 8, (0.0, 0.3))
        word = track.say(words[number % len(words)], float(rng.uniform(1.2, 2.4)))
        yield Case(
            "stop", f"stop {number}", "read-back expect=8", track.pcm(3.0), tuple(track.words), digits,
            event_s=word.end_s,
        )  # fmt: skip


def disturbed(data: Path, count: int) -> Iterator[Case]:
    """The same with a cough, a noise or somebody in the background in place of `stop`: the voice goes on."""
    noises = list(corpus.noises(Part.TEST, data).values())
    people = list(corpus.background_speech(Part.TEST, data))
    for number in range(count):
        rng = np.random.default_rng([5, number])
        track, digits = string_of(data, rng, 8, (0.0, 0.3))
        at_s = track.now_s + float(rng.uniform(1.0, 2.0))
        kind = ("cough", "noise", "person")[number % 3]
        if kind == "cough":
            track.sound(cough(rng) * np.float32(0.8), at_s)
        else:
            source = noises if kind == "noise" else people
            whole = source[int(rng.integers(len(source)))].astype(np.float32)
            start = int(rng.integers(max(1, len(whole) - 2 * MODEL_HZ)))
            piece = whole[start : start + 3 * MODEL_HZ // 2]
            rms = float(np.sqrt(np.mean(piece * piece))) + 1.0
            level_db = -8 if kind == "noise" else -16
            ramp = np.minimum(1.0, np.minimum(np.arange(len(piece)), np.arange(len(piece))[::-1]) / 400)
            track.sound((piece * ramp * (SPEECH_RMS / rms * 10 ** (level_db / 20))).astype(np.float32), at_s)
        yield Case(
            "disturbed", f"{kind} {number}", "read-back expect=8", track.pcm(2.4 + READ_BACK_S * 8),
            tuple(track.words), digits, event_s=at_s,
        )  # fmt: skip


def correct(data: Path, count: int) -> Iterator[Case]:
    """The persona's number is said, in two of three cases with one digit wrong."""
    for number in range(count):
        rng = np.random.default_rng([6, number])
        said = [int(digit) for digit in EXPECTED_NUMBER]
        wrong_at = None if number % 3 == 0 else int(rng.integers(len(said) - 1))
        if wrong_at is not None:
            said[wrong_at] = (said[wrong_at] + int(rng.integers(1, 10))) % 10
        track = Track(rng)
        for digit in said:
            track.say(one_of(data, rng, DIGITS[digit]), float(rng.uniform(0.1, 0.5)))
        right = ("okay",) if wrong_at is None else ("no", EXPECTED_NUMBER[wrong_at])
        event_s = 1e9 if wrong_at is None else track.words[wrong_at].end_s
        name = f"{'right' if wrong_at is None else f'digit {wrong_at + 1} wrong'}, {number}"
        persona = f"correct {EXPECTED_NUMBER}"
        yield Case("correct", name, persona, track.pcm(2.4), tuple(track.words), right, event_s)


def every(data: Path, count: int) -> Iterator[Case]:
    """`every N seconds`, asked by a synthetic voice; then silence for three of them and a little more."""
    bank = _bank(data)
    for number in range(count):
        rng = np.random.default_rng([7, number])
        seconds, track = 2 + number % 8, Track(rng)
        for _ in range(400):
            clip = bank.request(rng)
            if [word.label for word in clip.words][1:2] == [DIGITS[seconds]]:
                break
        track.say(clip)
        yield Case(
            "every", f"every {seconds} seconds, {number}", "every", track.pcm(3 * seconds + 1.6),
            tuple(track.words), ("okay", *([str(seconds)] * 3)), track.now_s, seconds,
        )  # fmt: skip


def interpret(data: Path, count: int) -> Iterator[Case]:
    """Digits of unseen speakers every 0.7 s or so; each is said in Spanish while the next one comes."""
    for number in range(count):
        rng = np.random.default_rng([8, number])
        track, digits = string_of(data, rng, STRING, (0.15, 0.6))
        spanish = tuple(SPANISH[int(digit)] for digit in digits)
        yield Case(
            "interpret", f"interpret {number}", "interpret", track.pcm(2.4), tuple(track.words), spanish
        )


def delegate(data: Path, count: int) -> Iterator[Case]:
    """A question of a synthetic voice; the answer comes three seconds later, as a typed line."""
    bank = _bank(data)
    for number in range(count):
        rng = np.random.default_rng([9, number])
        track = Track(rng)
        track.say(bank.question(rng))
        answer = int(rng.integers(21))
        turn = round((track.now_s + 3.0) * MODEL_HZ) // TURN_SAMPLES
        yield Case(
            "delegate", f"question {number}", "read-back help", track.pcm(6.0), tuple(track.words),
            ("let-me-check", str(answer)), track.now_s, typed={turn: str(answer)},
        )  # fmt: skip


def counted(data: Path, count: int) -> Iterator[Case]:
    """Drawn pictures with changes or repetitions; made from other seeds than those of training."""
    turns = 100
    for number in range(count):
        rng = np.random.default_rng([10, 77_000_000 + number])
        pictures = frames.drawn(rng, turns)
        track = Track(rng)
        total = sum(pictures.changes.values())
        yield Case(
            "count", f"pictures {number}", "count", track.pcm(turns / 5 + 2.0 - LEAD_S), (),
            tuple(str(n) for n in range(1, total + 1)), pictures=pictures,
        )  # fmt: skip


SKILLS: Mapping[str, Callable[[Path, int], Iterator[Case]]] = {
    "connected": connected,
    "isolated": isolated,
    "paused": paused,
    "uncounted": uncounted,
    "stop": stop,
    "disturbed": disturbed,
    "correct": correct,
    "every": every,
    "interpret": interpret,
    "delegate": delegate,
    "count": counted,
}


def _whole_span(pcm: PCM) -> tuple[int, int]:
    """First and last sample above -34 dB of the loudest 10 ms: pauses inside belong to it."""
    frames_of = len(pcm) // 160
    level = np.sqrt(np.mean(pcm[: frames_of * 160].reshape(-1, 160).astype(np.float32) ** 2, 1))
    loud = np.flatnonzero(level > level.max() * 0.02)
    return max(0, int(loud[0]) * 160 - 320), (int(loud[-1]) + 1) * 160


def string_of(
    data: Path, rng: np.random.Generator, count: int, pauses_s: tuple[float, float]
) -> tuple[Track, tuple[str, ...]]:
    """So many digits, each of any unseen speaker of one of them, with pauses drawn between the two."""
    track, digits = Track(rng), [int(digit) for digit in rng.integers(0, 10, count)]
    for at, digit in enumerate(digits):
        track.say(one_of(data, rng, DIGITS[digit]), float(rng.uniform(*pauses_s)) if at else 0.0)
    return track, tuple(map(str, digits))


def one_of(data: Path, rng: np.random.Generator, label: str) -> Clip:
    """Of a string: who breaks off in the middle of a digit, as some recordings do, says no other one after it."""
    clips: Sequence[Clip] = [clip for clip in unseen(data)[label] if not breaks_off(clip)]
    return clips[int(rng.integers(len(clips)))]


@functools.cache
def _bank(data: Path) -> WordBank:
    return WordBank(synthesise.make(Part.TEST, data=data))


def of(skills: Sequence[str], count: int, data: Path = DATA) -> list[Case]:
    """So many cases of each of these skills; `ValueError` for one that there is not."""
    unknown = [skill for skill in skills if skill not in SKILLS]
    if unknown:
        raise ValueError(f"skills {unknown}: expected some of {', '.join(SKILLS)}")
    return [case for skill in skills for case in SKILLS[skill](data, count)]
