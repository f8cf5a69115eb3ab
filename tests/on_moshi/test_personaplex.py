"""Voice and role before a call, and a call that outlasts the model's memory: as NVIDIA's server steps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.chunk import PCM
from model_server.config import set_environment
from tests.model_server.engine.conftest import batch_of
from tests.on_moshi import tiny
from tests.on_moshi.conftest import Answered, Recorder, assert_equal, frames_of, speech
from tests.support.moshi_here import needs_moshi

pytestmark = needs_moshi

CONTEXT = 220
K = tiny.CODEBOOKS
DELAYS = tiny.LM["delays"]
SILENCE, TONE = (5, 9, 1, 30), (17, 2, 22, 8)
TURNS = 120
"""In which it begins anew twice."""
PERSONA = "voice=ann you work for a company"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_environment(NO_TORCH_COMPILE="1")
    folder = tiny.write_personaplex(tmp_path_factory.mktemp("personaplex"), CONTEXT)
    (folder / "roles").mkdir()
    (folder / "roles" / "teacher.txt").write_text("you work\nfor a company\n")
    return folder


class Reference:
    """NVIDIA's `LMGen.step`, a position at a time, on the package's classes: the whole network over codebooks, what
    the caller said among them and forced; a position is made from those before it."""

    def __init__(self, folder: Path) -> None:
        import torch
        from moshi.models import loaders

        self.lm = loaders.get_moshi_lm(
            folder / "model.safetensors", tiny.whole_config(CONTEXT), dtype=torch.float32
        )
        self.mimi = loaders.get_mimi(folder / "mimi.safetensors", tiny.MIMI, num_codebooks=K)
        self.tokenizer = loaders.sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        self.folder = folder

    def prompt(self, role: str) -> list[tuple[int, ...]]:
        """Frames of the voice ann and the role: text, said, heard."""
        import soundfile
        import torch

        pcm, _ = soundfile.read(self.folder / "voices" / "ann.wav", dtype="float32")
        pcm = np.concatenate([pcm, np.zeros(-len(pcm) % 1920, np.float32)])
        voice = []
        with torch.no_grad(), self.mimi.streaming(1):
            for begin in range(0, len(pcm), 1920):
                codes = self.mimi.encode(torch.from_numpy(pcm[begin : begin + 1920])[None, None])
                voice.append((3, *codes[0, :, 0].tolist(), *TONE))
        text = [3] * 6 + self.tokenizer.encode(f"<system> {role} <system>") + [3] * 6
        return voice + [(token, *SILENCE, *TONE) for token in text]

    def run(
        self, frames: Sequence[tuple[int, ...]], heard: Sequence[tuple[int, ...]], **next_is: int
    ) -> list[list[int]]:
        """Columns from position 0 on: those of `frames`, then as many as are heard. `next_is`: tokens by stream of
        the first of them that are forced."""
        import torch

        initial = [tiny.TEXT_CARD] + [tiny.CARD] * 2 * K
        places = len(frames) + len(heard) + 2
        known: list[dict[int, int]] = [{} for _ in range(places)]
        for at, frame in enumerate([*frames, *((None,) * (K + 1) + tuple(codes) for codes in heard)]):
            for q, token in enumerate(frame):
                if token is not None:
                    known[at + DELAYS[q]][q] = token
        for q, delay in enumerate(DELAYS):
            for place in range(delay + 1):
                known[place][q] = initial[q]
        for name, token in next_is.items():
            known[len(frames)][int(name[1:])] = token
        columns = [[known[0][q] for q in range(2 * K + 1)]]
        with torch.no_grad(), self.lm.streaming(1):
            for place in range(1, len(frames) + len(heard)):
                sequence = torch.tensor(columns[-1])[None, :, None]
                out, logits = self.lm.forward_text(sequence)
                made = [known[place].get(0, int(logits.argmax()))]
                with self.lm.depformer.streaming(1):
                    for codebook in range(2 * K):
                        logits = self.lm.forward_depformer(
                            codebook, torch.tensor(made[-1:])[:, None, None], out
                        )
                        made.append(known[place].get(codebook + 1, int(logits.argmax())))
                columns.append(made)
        return columns

    def hear(self, turns: Sequence[PCM]) -> list[tuple[int, ...]]:
        """Codes of a call's frames."""
        import torch

        with torch.no_grad(), self.mimi.streaming(1):
            return [
                tuple(
                    self.mimi.encode(torch.from_numpy(frame).float()[None, None] / 32_768)[0, :, 0].tolist()
                )
                for frame in frames_of(turns)
            ]

    def answered(self, columns: Sequence[Sequence[int]], first: int) -> Answered:
        """Frames from `first` on, each of the columns that its streams are delayed to."""
        import torch

        kept = Answered()
        with torch.no_grad(), self.mimi.streaming(1):
            for frame in range(first, len(columns) - 1):
                tokens = [columns[frame + DELAYS[q]][q] for q in range(K + 1)]
                kept.text.append(tokens[0])
                kept.codes.append(tuple(tokens[1:]))
                pcm = self.mimi.decode(torch.tensor(tokens[1:])[None, :, None])[0, 0].numpy()
                kept.pcm.append(np.rint(pcm * 32_768).clip(-32_768, 32_767).astype(np.int16))
        return kept


@pytest.fixture(scope="session")
def reference(model_folder: Path) -> Reference:
    return Reference(model_folder)


def cut(answered: Answered, length: int) -> Answered:
    return Answered(answered.text[:length], answered.codes[:length], answered.pcm[:length])


def test_a_call_goes_on_behind_its_prompt(reference: Reference, engine: Any, recorded: Recorder) -> None:
    """From its first frame on, others beside it, one frame sooner than NVIDIA's server says it."""
    pcm, others = speech(70, 10), speech(71, 10)
    engine.open(4, PERSONA)
    for turn in range(10):
        if turn == 3:
            engine.open(1, "voice=ann help yes")
        sounds = {4: pcm[turn]} | ({1: others[turn]} if turn >= 3 else {})
        engine.step(batch_of({slot: turn - 3 * (slot == 1) for slot in sounds}, sounds))
    for slot, turns, role in ((4, list(pcm), "you work for a company"), (1, list(others[3:]), "help yes")):
        frames, heard = reference.prompt(role), reference.hear(turns)
        theirs = reference.answered(reference.run(frames, heard), len(frames))
        assert len(recorded.of[slot].text) == len(heard) == len(theirs.text) + 1
        assert_equal(cut(recorded.of[slot], len(theirs.text)), theirs)


def test_embeddings_of_a_voice_are_as_good_as_its_sound(
    model_folder: Path, reference: Reference, engine: Any, recorded: Recorder
) -> None:
    """A `.pt` as NVIDIA's server writes one: embeddings of all positions but the newest, and the newest columns."""
    import torch

    voice = reference.prompt("")[:6]
    columns = reference.run([*voice, *voice[:1]], [])[:6]
    for q, delay in enumerate(DELAYS):
        assert columns[-1][q] == voice[5 - delay][q]
    places = max(DELAYS) + 3
    cache = torch.full((1, 2 * K + 1, places), -2)
    for place in (4, 5):
        cache[0, :, place % places] = torch.tensor(columns[place])
    for q, delay in enumerate(DELAYS):
        if delay:
            cache[0, q, 6 % places] = voice[5][q]
    with torch.no_grad():
        tokens = torch.tensor(columns[:5]).T[None]
        embedded = sum(reference.lm.emb[q](tokens[:, q + 1]) for q in range(2 * K)) + reference.lm.text_emb(
            tokens[:, 0]
        )
    torch.save({"embeddings": embedded[0][:, None, None], "cache": cache}, model_folder / "voices" / "ben.pt")
    from model_server.engine.moshi.engine import MoshiEngine

    engine = MoshiEngine(engine.weights, calls=2)
    ours = Recorder(engine)
    engine.open(0, PERSONA)
    engine.open(1, PERSONA.replace("ann", "ben"))
    pcm = speech(72, 8)
    for turn in range(8):
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}))
    assert len(ours.of[1].text) == 20
    assert_equal(ours.of[1], ours.of[0])


def test_before_its_memory_ends_it_begins_anew_with_prompt_and_newest_frames(
    reference: Reference, engine: Any, recorded: Recorder
) -> None:
    """The tokens are those of a model that had only these; the sound goes on in one stream."""
    pcm = speech(73, TURNS)
    engine.open(2, PERSONA)
    told = {}
    for turn in range(TURNS):
        results = engine.step(batch_of({2: turn}, {2: pcm[turn]}))
        if 0 in results.said and results.said[0].events:
            told[turn] = results.said[0].events
    frames, heard = reference.prompt("you work for a company"), reference.hear(list(pcm))
    begins = len(frames)
    until = CONTEXT - begins
    """Steps before it begins anew the first time."""
    keeps = until // 2
    whole = reference.run(frames, heard[: until + 1])
    while len(whole) - begins < len(heard):
        said = len(whole) - 1 - begins
        history = [
            (*(whole[frame + begins + DELAYS[q]][q] for q in range(K + 1)), *heard[frame])
            for frame in range(said - keeps, said)
        ]
        now = {f"q{q}": whole[-1][q] for q in range(K + 1)}
        steps = min(CONTEXT - begins - keeps, len(heard) - said - 1)
        more = reference.run([*frames, *history], heard[said : said + steps + 1], **now)
        whole += more[begins + keeps + 1 :]
    theirs = reference.answered(whole, begins)
    assert_equal(cut(recorded.of[2], len(theirs.text)), theirs)
    assert len(theirs.text) == len(heard) - 1 and len(told) >= 2
    assert set(told.values()) == {(f"memory anew {keeps * 80 // 1000}",)}
    assert reference.answered(reference.run(frames, heard), begins).text != theirs.text


@pytest.mark.parametrize(
    "persona, told",
    (
        ("voice=nobody hello", "voice = 'nobody'; expected one of ann"),
        ("voice=ann role=../../etc/passwd", "role = '../../etc/passwd'; expected one of teacher"),
        ("role=clerk", "role = 'clerk'; expected one of teacher"),
        ("voice=ann " + "you work for a company " * 20, "expected at most 55"),
    ),
)
def test_a_persona_that_cannot_be_had_is_refused(engine: Any, persona: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        engine.open(0, persona)
    engine.open(0, "")


def test_a_role_may_lie_in_a_file(engine: Any, recorded: Recorder) -> None:
    pcm = speech(74, 3)
    engine.open(0, "voice=ann role=teacher")
    engine.open(1, PERSONA)
    for turn in range(3):
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}))
    assert_equal(recorded.of[0], recorded.of[1])


def test_without_voices_the_start_says_what_to_unpack(model_folder: Path, tmp_path: Path) -> None:
    from model_server.engine.moshi.engine import MoshiEngine
    from model_server.engine.moshi.weights import find

    for file in model_folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ValueError, match="unpack voices.tgz"):
        MoshiEngine(find(str(tmp_path)), calls=1)
