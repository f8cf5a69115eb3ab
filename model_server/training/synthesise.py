"""`python -m model_server.training.synthesise`: makes the word banks that training draws its callers from.

One bank a part, below `.cache/speech/`, in a folder named by everything that it depends on: the manifest of the
data, the code of this package that makes it, the sizes and the seed. A bank that is there is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model_server.training import corpus, synthetic
from model_server.training.bank import write
from model_server.training.clip import Clip
from model_server.training.corpus import DATA, DIGITS, Part, manifest
from model_server.training.perturb import Change, perturbed

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "speech"
_MADE_BY = (
    "bank",
    "clip",
    "corpus",
    "espeak",
    "festival",
    "flite",
    "kokoro",
    "lines",
    "perturb",
    "synthesise",
    "synthetic",
)
_Voices = Iterator[tuple[str, str, Sequence[Clip]]]


@dataclass(frozen=True, slots=True)
class Size:
    """How many voices a bank gets of each family."""

    pools: int
    """Of all small digits of Speech Commands together, each clip under a change of its own."""
    words: int
    """Changes of each other word of Speech Commands."""
    speakers: int
    """Changes of each FSDD speaker and prompt voice."""
    espeak: int
    others: int
    """Settings of each voice of flite and festival."""
    neural: int = 0
    """Mixtures of Kokoro's voices ..."""
    fluent: int = 0
    """... and those that say strings of digits only."""


SIZES = {
    Part.TRAIN: Size(pools=40, words=2, speakers=40, espeak=500, others=6, neural=128, fluent=240),
    Part.VALIDATION: Size(pools=1, words=1, speakers=1, espeak=60, others=0),
    Part.TEST: Size(pools=1, words=1, speakers=1, espeak=60, others=0),
}
"""Validation and test voices are left as they are."""


def bank_folder(part: Part, seed: int = 0, data: Path = DATA, cache: Path = CACHE) -> Path:
    """Where the bank of a part is kept, whether it is there or not."""
    digest = hashlib.sha256((data / "MANIFEST.tsv").read_bytes())
    for name in _MADE_BY:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    digest.update(json.dumps([part, seed, asdict(SIZES[part])]).encode())
    return cache / f"{part}-{digest.hexdigest()[:16]}"


def make(part: Part, seed: int = 0, data: Path = DATA, cache: Path = CACHE) -> Path:
    """The folder of the bank, made if it is not there: seconds for validation and test.

    Training's takes four minutes, and half an hour more the first time: what the neural voices say is kept on its
    own.

    It is made in a process of its own, since espeak-ng's sound depends on all that it said before in its process.
    """
    folder = bank_folder(part, seed, data, cache)
    if not (folder / "index.json").exists():
        manifest(data)
        synthetic.require(SIZES[part].neural + SIZES[part].fluent > 0)
        command = [
            sys.executable,
            "-m",
            "model_server.training.synthesise",
            "--part",
            part,
            "--seed",
            str(seed),
        ]
        paths = ["--data", str(data.resolve()), "--cache", str(cache.resolve())]
        subprocess.run([*command, *paths], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return folder


def build(folder: Path, part: Part, seed: int, data: Path, size: Size) -> int:
    """Makes a bank and puts it into place in one piece; returns how many clips it has."""
    work = folder.with_name(f"{folder.name}.{os.getpid()}")
    work.mkdir(parents=True, exist_ok=True)
    count = write(work, _voices(part, seed, data, size))
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return count


def _voices(part: Part, seed: int, data: Path, size: Size) -> _Voices:
    rng = np.random.default_rng([seed, 7])
    keep = part is not Part.TRAIN
    real = list(corpus.words(part, data))
    yield from _pooled([clip for clip in real if _pools(clip)], size.pools, keep, rng)
    yield from _words([clip for clip in real if clip.speaker.startswith("sc_")], size.words, keep, rng)
    yield from _speakers(
        [clip for clip in real if not clip.speaker.startswith("sc_")], size.speakers, keep, rng
    )
    if part is Part.TRAIN:
        yield "phrases", "phrases", list(corpus.phrases(data))
    for clips in synthetic.voices(part, seed, size.espeak, size.others, size.neural, size.fluent):
        family = clips[0].speaker.split(":")[0]
        yield clips[0].speaker, family, clips
        if not keep:
            for _ in range(1 if family == "espeak" else 4):
                change = _change(rng, 0.8, 1.5)
                yield f"{clips[0].speaker} {change}", family, [perturbed(clip, change) for clip in clips]


def _pools(clip: Clip) -> bool:
    return clip.speaker.startswith("sc_") and clip.words[0].label in DIGITS


def _pooled(clips: Sequence[Clip], count: int, keep: bool, rng: np.random.Generator) -> _Voices:
    """Voices that have all digits of all speakers."""
    for number in range(count):
        said = clips if keep else [perturbed(clip, _change(rng, 0.8, 1.3)) for clip in clips]
        yield f"sc pool {number}", "sc", said


def _words(clips: Sequence[Clip], count: int, keep: bool, rng: np.random.Generator) -> _Voices:
    """Each speaker of Speech Commands with what he or she said; digits are pooled instead, in training."""
    speakers: dict[str, list[Clip]] = {}
    for clip in clips:
        if keep or not _pools(clip):
            speakers.setdefault(clip.speaker, []).append(clip)
    for speaker, said in speakers.items():
        for number in range(count):
            changed = said if number == 0 else [perturbed(clip, _change(rng, 0.8, 1.3)) for clip in said]
            yield f"{speaker} {number}", "sc words", changed


def _speakers(clips: Sequence[Clip], count: int, keep: bool, rng: np.random.Generator) -> _Voices:
    """FSDD's men and the women of the prompts; up to four clips of a word under each change."""
    speakers: dict[str, dict[str, list[Clip]]] = {}
    for clip in clips:
        speakers.setdefault(clip.speaker, {}).setdefault(clip.words[0].label, []).append(clip)
    for speaker, said in speakers.items():
        man = speaker.startswith("fsdd")
        for number in range(count):
            change = Change() if keep else _change(rng, 0.85 if man else 0.6, 1.9 if man else 1.2)
            chosen = [
                clips[int(at)]
                for clips in said.values()
                for at in rng.permutation(len(clips))[: None if keep else 4]
            ]
            changed = chosen if keep else [perturbed(clip, change) for clip in chosen]
            yield f"{speaker} {number}", "fsdd" if man else "prompt", changed


def _change(rng: np.random.Generator, lowest: float, highest: float) -> Change:
    """Pitch between the two (even in octaves); the tract follows it as it does among people; pace 0.8 .. 1.3."""
    pitch = float(np.exp(rng.uniform(np.log(lowest), np.log(highest))))
    tract = float(np.clip(pitch**0.35 * rng.uniform(0.92, 1.08), 0.85, 1.25))
    return Change(pitch, tract, float(rng.uniform(0.8, 1.3)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model_server.training.synthesise", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the data set (%(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where banks are kept (%(default)s)")
    parser.add_argument("--part", type=Part, choices=list(Part), help="one part alone, made anew")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.part:
            folder = bank_folder(chosen.part, chosen.seed, chosen.data, chosen.cache)
            print(build(folder, chosen.part, chosen.seed, chosen.data, SIZES[chosen.part]), "clips:", folder)
            return 0
        for part in Part:
            started = time.monotonic()
            folder = make(part, chosen.seed, chosen.data, chosen.cache)
            size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            print(f"{part}: {folder} ({size:.0f} MB, {time.monotonic() - started:.0f} s)", flush=True)
    except (RuntimeError, FileNotFoundError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
