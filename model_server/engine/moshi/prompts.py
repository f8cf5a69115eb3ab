"""PersonaPlex: whom a call talks to, as frames that stand before the first one that is heard.

    voice (its frames or their embeddings) | 0.5 s of silence | the role, a token a frame | 0.5 s of silence

In each of them the caller's stream is a tone, the text stream padding or a token of the role, the model's own
stream the voice or silence: the shape that NVIDIA's weights were trained with (personaplex 3428dfd,
`step_system_prompts`). All of it is known, so it goes through the language model in one pass, once for each
persona; a call begins with a copy of what that left in the rings.

    persona = ["voice=" NAME] ["role=" NAME | role]
              such as: voice=NATF2 You work for CitySan Services and your name is Ayelen.

A role that is longer than a persona of the gateway may be lies in the folder `roles` beside the weights, as
`NAME.txt`.
A voice is a file in the folder `voices` beside the weights: `NAME.pt`, embeddings as NVIDIA gives them, or
`NAME.wav`, mono, some seconds of it, at -24 LUFS: its loudness is not changed here.

Shapes: Q streams (text, K said, K heard), F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from media.chunk import PCM
from media.resample import Resampler
from model_server.engine.moshi.frames import FRAME_HZ, FRAME_SAMPLES
from model_server.engine.moshi.weights import Weights

SILENCE_FRAMES = 6
USUAL_ROLE = "You enjoy having a good conversation."
"""Of calls that say none: the one that the weights were trained with for talk about anything."""
USUAL_VOICE = "NATF2"
VOICE, ROLE = "voice=", "role="
TAG = "<system>"
UNGENERATED = -2
"""What stands in a column for tokens that are still to be made."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands before a call. `n` frames, 0 ... n - 1."""

    n: int
    frames_QF: Tensor
    """int64, the newest of them, up to frame n - 1."""
    embedded: Tensor | None = None
    """[m, d]: of positions 0 ... m - 1, in place of their tokens; the frames begin with m - 1 then."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One of the two is there."""

    said_KF: Tensor | None = None
    embedded: Tensor | None = None
    """[m, d] of positions 0 ... m - 1."""
    frames_QF: Tensor | None = None
    """Two: what is known of m - 1, and m."""


def columns(frames_QF: Tensor, first: int, delays: Sequence[int], initial_Q: Tensor) -> Tensor:
    """int64 [Q, F + 1]: what stands at positions `first` ... behind the last frame, each stream by its delay.

    Streams are delayed by one frame or none. The first frame of a sequence is not seen: initial tokens stand there.
    """
    assert max(delays) <= 1, delays
    streams, frames = frames_QF.shape
    made = torch.full((streams, frames + 1), UNGENERATED, dtype=torch.long)
    for q, delay in enumerate(delays):
        made[q, delay : delay + frames] = frames_QF[q]
        for position in range(first, delay + 1):
            made[q, position - first] = initial_Q[q]
    return made


class Prompts:
    """Of one model's weights: personas to prompts."""

    def __init__(self, weights: Weights, tokenizer: Any, delays: Sequence[int], padding: int) -> None:
        """`ValueError` where there is no folder of voices, or none in it. `padding` is that of the text stream."""
        self._weights, self._tokenizer, self._delays, self._padding = weights, tokenizer, delays, padding
        files = sorted(weights.voices.iterdir()) if weights.voices is not None else []
        self._voices = {file.stem: file for file in reversed(files) if file.suffix in (".wav", ".pt")}
        if not self._voices:
            raise ValueError(
                f"weights: {weights.folder}: no voices/NAME.pt or .wav; unpack voices.tgz of the repository there"
            )

    def read(self, persona: str) -> tuple[Path, str]:
        """A voice's file and the role; `ValueError` says which voices there are, and how much a role may say."""
        first, _, rest = persona.strip().partition(" ")
        name, role = (first.removeprefix(VOICE), rest) if first.startswith(VOICE) else ("", persona)
        if role.strip().startswith(ROLE):
            role = self._kept_role(role.strip().removeprefix(ROLE))
        if name and name not in self._voices:
            raise ValueError(f"persona: voice = {name!r}; expected one of {', '.join(sorted(self._voices))}")
        usual = USUAL_VOICE if USUAL_VOICE in self._voices else min(self._voices)
        role = role.strip() or USUAL_ROLE
        if (tokens := len(self._tokens(role))) > self.most_tokens:
            raise ValueError(f"persona: a role of {tokens} tokens; expected at most {self.most_tokens}")
        return self._voices[name or usual], role

    def _kept_role(self, name: str) -> str:
        folder = self._weights.folder / "roles"
        kept = {file.stem: file for file in folder.glob("*.txt")}
        if name not in kept:
            names = ", ".join(sorted(kept)) or f"a file NAME.txt in {folder}, where there is none"
            raise ValueError(f"persona: role = {name!r}; expected one of {names}")
        return " ".join(kept[name].read_text().split())

    @property
    def most_tokens(self) -> int:
        """Of a role: a quarter of what the model remembers."""
        return self._weights.context // 4

    def _tokens(self, role: str) -> list[int]:
        tagged = role if role.startswith(TAG) and role.endswith(TAG) else f"{TAG} {role} {TAG}"
        return list(self._tokenizer.encode(tagged))

    def prompt(self, voice: Voice, role: str) -> Prompt:
        """Of that voice and role."""
        silence = torch.tensor(self._weights.silence)
        tone = torch.tensor(self._weights.tone)
        text = [self._padding] * SILENCE_FRAMES + self._tokens(role) + [self._padding] * SILENCE_FRAMES
        spoken = [torch.cat([torch.tensor([token]), silence, tone])[:, None] for token in text]
        if voice.said_KF is not None:
            frames = voice.said_KF.shape[1]
            padding = torch.full((1, frames), self._padding)
            before = torch.cat([padding, voice.said_KF, tone[:, None].expand(-1, frames)])
            return self._checked(Prompt(frames + len(text), torch.cat([before, *spoken], dim=1)))
        assert voice.embedded is not None and voice.frames_QF is not None
        begun = len(voice.embedded) + 1
        return self._checked(
            Prompt(begun + len(text), torch.cat([voice.frames_QF, *spoken], dim=1), voice.embedded)
        )

    def _checked(self, prompt: Prompt) -> Prompt:
        if prompt.n > self._weights.context // 2:
            raise ValueError(
                f"persona: voice and role take {prompt.n} frames; expected at most {self._weights.context // 2}, "
                "half of what the model remembers"
            )
        return prompt


def stored_voice(file: Path, delays: Sequence[int]) -> Voice:
    """Of a `.pt`: embeddings, and the newest columns, which stand at their position modulo their number."""
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        embedded, cache = kept["embeddings"].flatten(0, -2), kept["cache"][0]
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as wrong:
        raise ValueError(f"voice {file}: {wrong}; expected embeddings and cache, as in voices.tgz") from None
    m, places = len(embedded), cache.shape[1]
    frames = torch.full((cache.shape[0], 2), UNGENERATED)
    for q, delay in enumerate(delays):
        for frame in (m - 1, m):
            if frame + delay >= m:
                frames[q, frame - m + 1] = cache[q, (frame + delay) % places]
    return Voice(embedded=embedded, frames_QF=frames)


def recorded_voice(file: Path) -> PCM:
    """Of a `.wav`, int16 [F, 1920] at 24 kHz, its end filled with silence."""
    import soundfile

    try:
        pcm, rate_hz = soundfile.read(file, dtype="int16", always_2d=True)
    except (OSError, RuntimeError) as wrong:
        raise ValueError(f"voice {file}: {wrong}; expected a WAV file") from None
    sound = pcm[:, 0]
    if rate_hz != FRAME_HZ:
        if rate_hz not in (8_000, 16_000, 48_000):
            raise ValueError(f"voice {file}: {rate_hz} Hz; expected 24000, 48000, 16000 or 8000")
        whole = np.concatenate([sound, np.zeros(-len(sound) % (rate_hz // 100), np.int16)])
        sound = Resampler(rate_hz, FRAME_HZ).push(whole)
    return np.concatenate([sound, np.zeros(-len(sound) % FRAME_SAMPLES, np.int16)]).reshape(-1, FRAME_SAMPLES)
