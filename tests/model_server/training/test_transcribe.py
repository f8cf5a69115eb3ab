"""Words of our voice in files, by a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from media.timebase import MODEL_HZ
from model_server.training.mouth import table_of
from model_server.training.voice_table import load_voice

ROOT = Path(__file__).parents[3]


def transcribed(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_server.training.transcribe"],
        input="\n".join(map(str, paths)), capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip


def test_what_our_voice_says_is_read_with_its_times(tmp_path):
    voice = load_voice()
    table = table_of(dict(zip(voice.words, voice.sounds, strict=True)))
    said = ["say:3", "say:8"]
    pcm, starts = [np.zeros(MODEL_HZ, np.int16)], []
    for token in said:
        starts.append(sum(map(len, pcm)) / MODEL_HZ)
        pcm += [table.sounds[table.rows[token]], np.zeros(MODEL_HZ // 2, np.int16)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(pcm), MODEL_HZ, subtype="PCM_16")
    soundfile.write(tmp_path / "silent.wav", np.zeros(MODEL_HZ, np.int16), MODEL_HZ, subtype="PCM_16")
    done = transcribed(tmp_path / "a.wav", tmp_path / "silent.wav")
    assert done.returncode == 0, done.stderr
    words, silent = map(json.loads, done.stdout.splitlines())
    assert [word for word, _, _ in words] == ["3", "8"] and silent == []
    for (_, start_s, end_s), begun_s in zip(words, starts, strict=True):
        assert -0.02 < start_s - begun_s < 0.15 and end_s > start_s


def test_a_file_that_is_none_is_named(tmp_path):
    done = transcribed(tmp_path / "nothing.wav")
    assert done.returncode == 2 and "nothing.wav" in done.stderr
