"""festival (Debian: `festival` and `festvox-*`, BSD-like licences): sound, and the time of each word in it.

One process renders all lines of a voice: it takes a second to start.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from media.timebase import MODEL_HZ
from model_server.training.clip import PCM
from model_server.training.corpus import load

COMMAND = "festival"
PACKAGES = {
    "kal_diphone": "festvox-kallpc16k",
    "ked_diphone": "festvox-kdlpc16k",
    "cmu_us_slt_arctic_hts": "festvox-us-slt-hts",
}
"""Voice -> the package that has it."""

_PROLOGUE = """
(voice_{voice})
(define (render text path stretch)
  (Parameter.set 'Duration_Stretch stretch)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))))
    (mapcar (lambda (w) (format t "%s %f\\n" path (item.feat w "word_start"))) (utt.relation.items utt 'Word))
    (utt.save.wave utt path 'riff)))
"""


def speak(voice: str, lines: Sequence[tuple[Sequence[str], float]]) -> list[tuple[PCM, list[int]]]:
    """(words, stretch above 1 is slower) -> int16 [n] at 16 kHz and each word's first sample, line by line."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{at}.wav") for at in range(len(lines))]
        script = Path(folder) / "lines.scm"
        calls = [
            f'(render "{" ".join(words)}." "{path}" {stretch})'
            for path, (words, stretch) in zip(paths, lines, strict=True)
        ]
        script.write_text(_PROLOGUE.format(voice=voice) + "\n".join(calls))
        done = subprocess.run([COMMAND, "-b", str(script)], capture_output=True, text=True, check=True)
        starts: dict[str, list[int]] = {path: [] for path in paths}
        for printed in done.stdout.splitlines():
            path, start = printed.rsplit(" ", 1)
            starts[path].append(int(float(start) * MODEL_HZ))
        return [(load(Path(path)), starts[path]) for path in paths]


def installed() -> list[str]:
    """The voices that are there, of `PACKAGES`."""
    root = Path("/usr/share/festival/voices")
    return [voice for voice in PACKAGES if any(root.glob(f"*/{voice}"))]
