"""`python -m loadtests safety`: what it costs to look at replies before they are heard, in microseconds a reply.

A leg without its line gets replies, and every one is timed from its arrival to its place in the playout: without a
policy, and with one of so many rules (four in five are phrases, one in five is a pattern). Half of the replies have
no text, as when a word sounds on. Replies of both kinds take turns, so the machine's good and bad moments fall on
both. Last on standard output is one line of JSON; a row is kept in `loadtests/results/safety.csv`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from typing import Any, Final

import numpy as np

from gateway.background.conversation import Conversation
from gateway.safety.normal import normalise
from gateway.safety.options import SafetyOptions
from gateway.safety.policy import Policy, Rule
from gateway.safety.screen import Screens
from loadtests import report
from media.chunk import Reply
from media.chunker import Cut
from media.leg import Leg, Tenancy
from media.timebase import FRAMES_PER_TURN, MODEL_HZ, NS_PER_MS, TURN_NS, TURN_SAMPLES

TEXTS: Final = {
    "words": "quite normal words, some of them long ",
    "long": "This is what a quick model says in one turn of two hundred milliseconds, and rather more. " * 8,
    "other_scripts": "Größe, naïveté, 這是一句普通的話, обычные слова ",
}


class Silent:
    """An intake that hears nothing."""

    rate_hz = MODEL_HZ

    def choose_phase(self) -> None: ...
    def is_whole(self) -> bool:
        return True

    def cut(self, now_ns: int) -> Cut:
        return Cut(np.zeros(TURN_SAMPLES, np.int16))


class _Call:
    """Nobody carries it."""

    name = "bench"

    def __init__(self, policy: Policy | None) -> None:
        self.leg: Leg[Any] = Leg(Silent())
        self.conversation = Conversation(self.name, self.leg, lambda message: None)
        if policy is not None:
            screens = Screens(SafetyOptions(policy), MODEL_HZ, lambda message: None)
            screens.look_after(self, "", "")
        self.leg.lease(Tenancy(0, 1, 0, 50 * NS_PER_MS))
        self._now_ns = TURN_NS

    def withhold(self, turn: int, since: int) -> None:
        self.conversation.withhold(turn, since)

    def hang_up(self, cause: str = "") -> None: ...

    def turn(self, text: str, pcm: np.ndarray[Any, np.dtype[np.int16]]) -> int:
        """One turn; gives what its reply took, ns."""
        self._now_ns += TURN_NS
        chunk = self.leg.cut(self._now_ns, self._now_ns, self._now_ns)
        assert chunk is not None
        reply = Reply(1, chunk.turn, self._now_ns, pcm, text=text)
        began_ns = time.perf_counter_ns()
        screened = self.leg.screened(reply)
        taken = self.leg.receive_reply(screened)
        took_ns = time.perf_counter_ns() - began_ns
        self.conversation.replied(screened, taken)
        for _ in range(FRAMES_PER_TURN):
            self.leg.playout.pull()
        return took_ns


def policy_of(rules: int, phrases: int) -> Policy:
    """So many rules that nothing meets, each of so many phrases or one pattern."""
    return Policy(
        tuple(
            Rule(f"p{n}", "cut", pattern=rf"(\d ?){{13,16}} x{n}|kil+ (him|her) {n} ")
            if n % 5 == 4
            else Rule(f"w{n}", "cut", tuple(normalise(f"forbidden phrase {n} {m} ") for m in range(phrases)))
            for n in range(rules)
        )
    )


def measure(rules: int, phrases: int, turns: int) -> dict[str, Any]:
    """us a reply, off and on, for every kind of text."""
    pcm = np.random.default_rng(1).normal(0, 3_000, TURN_SAMPLES).astype(np.int16)
    result: dict[str, Any] = {"rules": rules, "phrases": phrases, "turns": turns}
    for name, text in TEXTS.items():
        calls = {"off": _Call(None), "on": _Call(policy_of(rules, phrases))}
        took: dict[str, list[int]] = {kind: [] for kind in calls}
        for turn in range(turns):
            for kind, call in calls.items():
                took[kind].append(call.turn(text if turn % 2 else "", pcm))
        for kind, values in took.items():
            with_text = np.array(values[1::2], float) / 1_000
            without = np.array(values[0::2], float) / 1_000
            result[f"{name}_{kind}_us"] = report.percentiles(with_text)
            if name == "words":
                result[f"no_text_{kind}_us"] = report.percentiles(without)
    return result


def main(argv: list[str]) -> int:
    """0; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests safety")
    parser.add_argument("--rules", type=int, default=50)
    parser.add_argument("--phrases", type=int, default=4, help="of each rule that has no pattern")
    parser.add_argument("--turns", type=int, default=4_000)
    asked = parser.parse_args(argv)
    if min(asked.rules, asked.phrases, asked.turns) < 1:
        print("loadtests safety: --rules, --phrases and --turns must be positive", file=sys.stderr)
        return 2
    result = measure(asked.rules, asked.phrases, asked.turns)
    row = report.surroundings(shlex.join(["python", "-m", "loadtests", "safety", *argv]))
    report.append_row(report.RESULTS / "safety.csv", row | report.flatten(result))
    print(report.table(result))
    print(json.dumps(result), flush=True)
    return 0
