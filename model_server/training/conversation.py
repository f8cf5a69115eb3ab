"""Full-duplex conversations on the 200 ms grid: what the model hears in each turn, and what it ought to do.

`play` lets a caller's script and the ideal partner act turn by turn; `rendered` makes the sound of it. Both draw
everything from the generator that they are given: the same seed gives the same conversation, to the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.training.bank import SPEECH_RMS, Voice, WordBank
from model_server.training.callers import cough
from model_server.training.channel import Line, drawn, heard
from model_server.training.clip import PCM, Floats
from model_server.training.frames import Pictures
from model_server.training.mouth import SILENT, Mouth, VoiceTable
from model_server.training.partner import Partner, Skill
from model_server.training.stage import Said, Stage

FAMILIES = {
    "sc": 0.28,
    "fsdd": 0.16,
    "kokoro": 0.2,
    "fluent": 0.16,
    "prompt": 0.07,
    "espeak": 0.07,
    "flite": 0.04,
    "festival": 0.02,
}
"""How often a caller is of each family of voices."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A persona, the skills that it asks for, and a caller for them."""

    name: str
    persona: tuple[str, ...]
    """Tokens injected in the first turn."""
    skills: Sequence[Skill]
    caller: Callable[[Stage], Iterator[None]]
    pictures: Pictures | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """200 ms of a conversation."""

    inject: tuple[str, ...]
    """Tokens of text that the model is given."""
    say: tuple[str, ...]
    """Tokens that it ought to write, without the closing one."""
    voice: tuple[int, int]
    """The row of the voice table that it speaks and the turns into it, or (-1, 0): silence."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A conversation as it is written down."""

    scene: str
    turns: tuple[Turn, ...]
    stage: Stage
    pictures: Pictures | None


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A conversation with its sound, T turns."""

    scene: str
    turns: tuple[Turn, ...]
    caller: PCM
    """int16 [T * 3200], as the model hears the caller."""
    made_up: npt.NDArray[np.int64]
    """int64 [T * 4]: samples of each 50 ms that the gateway concealed."""
    own: PCM
    """int16 [T * 3200]: our voice as it was heard in the same 200 ms, that is what was said one turn before."""
    words: tuple[Said, ...]
    """What the caller said, in truth."""
    line: Line
    pictures: Pictures | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """Sounds that calls are made in."""

    noises: Sequence[PCM] = ()
    rooms: Sequence[Floats] = field(default_factory=list)
    people: Sequence[PCM] = ()
    """Speech in the background."""


def play(
    scene: Scene,
    bank: WordBank,
    table: VoiceTable,
    rng: np.random.Generator,
    turns: int,
    voice: Voice | None = None,
) -> Score:
    """Writes a conversation of so many turns."""
    mouth = Mouth(table)
    partner = Partner(scene.skills, mouth)
    stage = Stage(rng, bank, voice or bank.voice(rng, FAMILIES), mouth, turns)
    if scene.persona:
        stage.inject(0, *scene.persona)
    if scene.pictures is not None:
        stage.seen.update(scene.pictures.changes)
    script = scene.caller(stage)
    written = []
    for turn in range(turns):
        stage.turn = turn
        next(script, None)
        given = stage.injected.get(turn, ())
        done = partner.step(turn, stage.heard(turn), stage.silence_ms(turn), given, stage.seen.get(turn, 0))
        written.append(Turn(given, done.say, done.voice))
    return Score(scene.name, tuple(written), stage, scene.pictures)


def rendered(
    score: Score,
    table: VoiceTable,
    rng: np.random.Generator,
    surroundings: Surroundings,
    line: Line | None = None,
    hardness: float = 1.0,
) -> Conversation:
    """The sound of a written conversation, over a line that is drawn unless one is given.

    `hardness` 0 .. 1 says how often the line and the surroundings disturb, against what is drawn for real calls.
    A line that is given is taken as it is: no coughs, no people in the background and no lost turns of our own are
    added to it.
    """
    disturbed = line is None and rng.random() < hardness
    chosen = line or drawn(rng, surroundings.noises, surroundings.rooms, hardness)
    stage, count = score.stage, len(score.turns) * TURN_SAMPLES
    if disturbed:
        _disturb(stage, rng, surroundings, count)
    track = np.zeros(count, np.float32)
    for sound in stage.sounds:
        start, end = max(0, sound.start_samples), min(count, sound.start_samples + len(sound.pcm))
        if end > start:
            piece = sound.pcm[start - sound.start_samples : end - sound.start_samples]
            track[start:end] += piece * np.float32(sound.gain)
    own = own_voice([turn.voice for turn in score.turns], table, rng, late=0.02 if disturbed else 0.0)
    caller, made_up = heard(track, own.astype(np.float32), chosen, rng)
    return Conversation(
        score.scene, score.turns, caller, made_up, own, tuple(stage.said), chosen, score.pictures
    )


def own_voice(
    voice: Sequence[tuple[int, int]], table: VoiceTable, rng: np.random.Generator, late: float = 0.0
) -> PCM:
    """int16 [T * 3200]: what is said in a turn is heard in the next. In a third of the calls a share `late` of the
    turns came too late to be played, and was not heard."""
    own = np.zeros((len(voice), TURN_SAMPLES), np.int16)
    unlucky = late > 0 and rng.random() < 0.33
    for turn, (row, at) in enumerate(voice[:-1]):
        if (row, at) != SILENT and not (unlucky and rng.random() < late):
            own[turn + 1] = table.sounds[row][at * TURN_SAMPLES : (at + 1) * TURN_SAMPLES]
    return own.reshape(-1)


def _disturb(stage: Stage, rng: np.random.Generator, surroundings: Surroundings, count: int) -> None:
    """Coughs, bangs and people in the background, none of which mean anything."""
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(count))
            if surroundings.noises and rng.random() < 0.5:
                noise = surroundings.noises[int(rng.integers(len(surroundings.noises)))]
                start, length = int(rng.integers(len(noise))), int(rng.uniform(0.1, 1.5) * MODEL_HZ)
                piece = noise[start : start + length].astype(np.float32)
                rms = float(np.sqrt(np.mean(piece * piece))) + 1.0
                ramp = np.minimum(1.0, np.minimum(np.arange(len(piece)), np.arange(len(piece))[::-1]) / 400)
                stage.noise((piece * ramp).astype(np.float32), at, SPEECH_RMS / rms * rng.uniform(0.1, 0.8))
            else:
                stage.noise(cough(rng), at, float(rng.uniform(0.2, 1.0)))
    if surroundings.people and rng.random() < 0.25:
        person = surroundings.people[int(rng.integers(len(surroundings.people)))]
        rms = float(np.sqrt(np.mean(person.astype(np.float32) ** 2))) + 1.0
        at = int(rng.integers(-len(person) // 2, count))
        stage.noise(person, at, SPEECH_RMS / rms * 10 ** (rng.uniform(-26, -12) / 20))
