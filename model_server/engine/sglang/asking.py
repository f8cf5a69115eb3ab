"""What SGLang is asked in a turn, and what it says.

With our trunk a turn is one request. With SGLang's own it is two to one session, since what is appended cannot be
taken back: one that brings what is heard and is given words, and one that brings the `speak` positions. SGLang puts
the token that it sampled last before the second: `END` is then the first `speak` position (`inkling/model.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_server.engine.sglang.folder import HIDDEN_KEY, LOST, LOST_KEY
from model_server.engine.sglang.turn_item import SPEAK, TurnItem
from model_server.model.micro_turn import SPEAK_POSITIONS
from model_server.model.vocabulary import END


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """To one turn."""

    tokens: list[int]
    """Written, without `END`."""
    hidden: npt.NDArray[np.float32]
    """float32 [4, d], of the `speak` positions."""
    passes: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The model has forgotten the call."""


def request(item: TurnItem, session: str, *, over_http: bool = False) -> dict[str, Any]:
    """A whole turn, of our trunk."""
    return _wish(
        item.input_ids,
        item.header.say_limit + 1,
        session,
        audio_data=[item.url() if over_http else item.media()],
    )


def hears(item: TurnItem, session: str) -> dict[str, Any]:
    """The first of two: words are sampled until `END` or until they are as many as may be. The only one where
    nothing may be written."""
    limit = item.header.say_limit
    ids = item.input_ids[:-SPEAK_POSITIONS] if limit else item.input_ids
    return _wish(ids, limit, session, audio_data=[item.media()])


def speaks(item: TurnItem, session: str, heard: Mapping[str, Any]) -> dict[str, Any] | None:
    """The second of two; None where the first was all."""
    if not item.header.say_limit:
        return None
    is_ended = END in heard["output_ids"]
    return _wish([SPEAK] * (SPEAK_POSITIONS - is_ended), 0, session)


def refused(output: Mapping[str, Any]) -> str:
    """SGLang's reason for having said nothing, or an empty string."""
    reason = output["meta_info"]["finish_reason"] or {}
    return str(reason.get("message") or "aborted") if reason.get("type") == "abort" else ""


def answer_of(output: Mapping[str, Any], heard: Mapping[str, Any] | None = None) -> Answer | Lost | str:
    """What SGLang said; a string is its reason for having said nothing. `heard`: what the first of two gave."""
    if refusal := refused(output):
        return refusal
    meta = output["meta_info"]
    if LOST_KEY not in meta:
        return "no rows of speech came back"
    if LOST in meta[LOST_KEY]:
        return Lost()
    hidden = np.frombuffer(base64.b64decode(meta[HIDDEN_KEY][-1]), np.float32).reshape(SPEAK_POSITIONS, -1)
    written = (output if heard is None else heard)["output_ids"]
    passes = len(meta[HIDDEN_KEY]) if heard is None else 1 + len(written)
    return Answer([token for token in written if token != END], hidden, passes)


def _wish(input_ids: list[int], limit: int, session: str, **more: Any) -> dict[str, Any]:
    return dict(
        input_ids=input_ids,
        sampling_params={"temperature": 0.0, "max_new_tokens": limit, "stop_token_ids": [END]},
        session_params={"id": session},
        cache_salt=session,
        **more,
    )
