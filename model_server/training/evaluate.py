"""`python -m model_server.training.evaluate`: what the trained model can do, skill by skill.

    python -m model_server.training.evaluate                 cases of every skill, given to the engine itself
    python -m model_server.training.evaluate --call          the same over real SIP calls (G.711) through a gateway
    python -m model_server.training.evaluate --step-time     how long a step takes: 1, 16 and 64 calls, memory full
    python -m model_server.training.evaluate --minutes 30    one long call: its last minutes against its first

What a case is: `cases.py`; what a figure means: `scores.py`. All callers are speakers that were never trained on.
Prints a table, draws time lines, ends with one JSON object. `--quick` takes four cases of each skill. The skills
that need more than a telephone (`count` a camera, `delegate` typed answers) are called as a browser only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model_server.engine.registry import CHECKPOINT
from model_server.model.vocabulary import DIGITS
from model_server.training import cases as case_makers
from model_server.training import real_calls, takeover_curve, timelines
from model_server.training.cases import SKILLS, Case
from model_server.training.channel import Codec
from model_server.training.corpus import DATA
from model_server.training.mouth import table_of
from model_server.training.reading import Reader, Stranger
from model_server.training.rehearsal import Heard, rehearse
from model_server.training.scores import SCORES, Figures, Read, share
from model_server.training.voice_judge import is_here
from model_server.training.voice_table import load_voice

COUNT, QUICK = 24, 4
NOT_BY_TELEPHONE = ("delegate", "count")
RESULTS = Path(".cache/evaluation")


def judged(reads: Sequence[Read], stranger: Stranger | None) -> dict[str, Figures]:
    """Figures of each skill, in the order of `SKILLS`; `understood` where pocketsphinx is there."""
    out: dict[str, Figures] = {}
    for skill in SKILLS:
        calls = [call for call in reads if call.heard.case.skill == skill]
        if calls:
            out[skill] = {"calls": len(calls), **SCORES[skill](calls)}
            if stranger is not None:
                out[skill] |= _understood(calls, stranger)
    return out


def _understood(calls: Sequence[Read], stranger: Stranger) -> Figures:
    """Digits among digits, and all other words, each among those of its language."""
    heard: dict[bool, list[bool]] = {True: [], False: []}
    for call in calls:
        for spoken in call.spoken:
            heard[spoken.word in DIGITS].append(stranger.understands(call.heard.pcm, spoken))
    return {
        "digits_said": len(heard[True]),
        "digits_understood": share(sum(heard[True]), len(heard[True])),
        "other_words_said": len(heard[False]),
        "other_words_understood": share(sum(heard[False]), len(heard[False])),
    }


def read_all(heard: Iterable[Heard], reader: Reader) -> list[Read]:
    """What was said in each call."""
    return [Read(call, reader.read(call.pcm)) for call in heard]


def table(figures: dict[str, Figures]) -> str:
    """A line for each figure."""
    lines = []
    for skill, of in figures.items():
        for name, value in of.items():
            lines.append(f"{skill:11} {name:28} {'-' if value is None else value}")
    return "\n".join(lines)


def evaluate(arguments: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Directly or by telephone; the object of the last line."""
    by_telephone = arguments.call and Codec(arguments.codec) is not Codec.OPUS
    skills = [skill for skill in arguments.skills if not (by_telephone and skill in NOT_BY_TELEPHONE)]
    chosen = case_makers.of(skills, QUICK if arguments.quick else arguments.count, arguments.data)
    begun_s = time.monotonic()
    extra: dict[str, Any] = {}
    if arguments.call:
        heard, extra = real_calls.call(
            chosen, checkpoint, arguments.at_once, arguments.realtime, Codec(arguments.codec)
        )
    else:
        heard = _directly(chosen, checkpoint, Codec(arguments.codec))
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    reads = read_all(heard, reader)
    figures = judged(reads, Stranger() if is_here() else None)
    print(table(figures))
    arguments.results.mkdir(parents=True, exist_ok=True)
    kind = f"{'call' if arguments.call else 'direct'}-{arguments.codec}"
    picture, curve = (arguments.results / f"{name}-{kind}.png" for name in ("timelines", "takeover"))
    timelines.draw(reads, picture)
    if takeover_curve.draw(figures, curve):
        extra["takeover"] = str(curve)
    over = f"{'calls' if arguments.call else 'engine'}, {arguments.codec}"
    return {
        "checkpoint": str(checkpoint), "over": over, "seconds": round(time.monotonic() - begun_s, 1),
        "timelines": str(picture), **extra, "skills": figures,
    }  # fmt: skip


def _directly(chosen: Sequence[Case], checkpoint: Path, codec: Codec) -> list[Heard]:
    from model_server.engine.digits import DigitsEngine

    return list(rehearse(DigitsEngine(checkpoint), chosen, codec))


def main(argv: Sequence[str]) -> int:
    """0; 1 when calls were not answered; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m model_server.training.evaluate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("--checkpoint", type=Path, help="default: the one that ships with the tree")
    parser.add_argument("--skills", nargs="+", default=list(SKILLS), help=", ".join(SKILLS))
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each skill (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases of each skill")
    parser.add_argument("--codec", choices=list(Codec), default=Codec.MULAW)
    parser.add_argument(
        "--call", action="store_true", help="over calls through a gateway: browsers' with --codec opus"
    )
    parser.add_argument("--at-once", type=int, default=4, help="calls at the same time")
    parser.add_argument(
        "--realtime", action="store_true", help="with --call: the model before all other work"
    )
    parser.add_argument("--step-time", action="store_true")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 16, 64], help="for --step-time")
    parser.add_argument("--minutes", type=float, default=0.0, help="one call of that length")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where pictures go (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.call and Codec(arguments.codec) not in real_calls.NAMES:
        parser.error(f"--codec {arguments.codec} with --call: expected {', '.join(real_calls.NAMES)}")
    checkpoint = arguments.checkpoint or CHECKPOINT
    try:
        if not checkpoint.is_file():
            raise ValueError(
                f"no checkpoint {checkpoint}: train one (python -m model_server.training.train) or name one"
            )
        if arguments.step_time:
            from model_server.training.step_times import measure

            result: dict[str, Any] = measure(checkpoint, arguments.calls)
        elif arguments.minutes:
            from model_server.training.long_call import last

            result = last(checkpoint, arguments.minutes, arguments.data)
        else:
            result = evaluate(arguments, checkpoint)
    except (ValueError, OSError) as wrong:
        print(f"evaluate: {wrong}", file=sys.stderr)
        return 2
    except RuntimeError as wrong:
        print(f"evaluate: {wrong}", file=sys.stderr)
        return 1
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
