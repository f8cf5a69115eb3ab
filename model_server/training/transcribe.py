"""`python -m model_server.training.transcribe < PATHS`: what our voice says in sound files, and when.

A path a line on standard input; a line a file on standard output, a JSON list of [word, start, end] in seconds. It
is the reader of evaluation (`reading.py`), which knows the shipped voice and no other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from model_server.training import corpus
from model_server.training.mouth import table_of
from model_server.training.reading import Reader, onset_s
from model_server.training.voice_table import load_voice


def main() -> int:
    """0; 2 for a file that cannot be read."""
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    for path in sys.stdin.read().splitlines():
        try:
            pcm = corpus.load(Path(path))
        except (OSError, RuntimeError) as wrong:  # soundfile: no such file, no sound
            print(f"transcribe: {path}: {wrong}", file=sys.stderr)
            return 2
        said = [
            (spoken.word, round(onset_s(pcm, spoken), 3), round(spoken.end_s, 3))
            for spoken in reader.read(pcm)
        ]
        print(json.dumps(said), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
