"""The interaction model as SGLang calls it, in the process of its scheduler.

    extend    turns of some calls: pictures, text, sound, and the `speak` positions as if nothing were written
    decode    a token that each of some calls wrote: `speak` positions taken back, token, `speak` positions again

Logits are those of the last `hear` position or of the token: SGLang samples the next one, `END` ends the request.
What becomes sound, rows of the `speak` positions, goes along as `customized_info`, one string a pass.

Keys, values and convolutions are kept here, a row a call, between turns and beyond the life of sessions. SGLang's
own pool of keys and values holds nothing that is read; it counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from torch import Tensor, nn

from model_server.engine.sglang.folder import HIDDEN_KEY, LOST, LOST_KEY, SETTINGS
from model_server.engine.sglang.turn_item import Header, inputs_of, packed, taken
from model_server.model import checkpoint
from model_server.model.config import ModelConfig
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS
from model_server.model.served.layer import serve, warm
from model_server.model.state import TrunkState
from model_server.model.vocabulary import END

log = logging.getLogger(__name__)

WARM_CALLS = 64
"""Of a pass that no call is to wait for: see `served.layer.warm`."""
_PREFIX = "interaction."


@dataclass(slots=True)
class _Row:
    """Of the state: whose it is."""

    call: int
    turn: int
    left: int
    """Tokens that it may still write in this turn."""


class MicroturnInteraction(nn.Module):
    """See the module; `config` is what `folder.py` wrote."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__()
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        settings = getattr(config, SETTINGS)
        self.config = config
        self.shape: ModelConfig = checkpoint.config_from(dict(settings["config"]))
        self.model = Interaction(self.shape)
        self._products: torch.dtype | None = (
            getattr(torch, settings["products"]) if settings["products"] else None
        )
        self._row_count = int(settings["rows"])
        self._state: TrunkState | None = None
        self._rows: dict[int, _Row] = {}
        self._turn_of_request: dict[int, Header] = {}
        """SGLang's row of a request -> the turn that it is, between its passes."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Those of the trunk and its towers; flow head and voice are in the engine's process."""
        ours = {name.removeprefix(_PREFIX): weight for name, weight in weights if name.startswith(_PREFIX)}
        self.model.load_state_dict(ours)
        self.model.float().eval().requires_grad_(False)
        serve(self.model.trunk, self._products)
        self._state = self.model.state(self._row_count)
        with torch.inference_mode():
            warm(self.model.trunk, min(self._row_count, WARM_CALLS) * (HEAR_POSITIONS + SPEAK_POSITIONS))

    def pad_input_ids(self, input_ids: list[int], mm_inputs: Any) -> list[int]:
        """As they are: nothing is looked up by them, and no session shares another's beginning."""
        return input_ids

    @torch.inference_mode()
    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: Any, **more: Any
    ) -> LogitsProcessorOutput:
        """A pass of SGLang's batch."""
        if forward_batch.forward_mode.is_extend():
            return self._extend(input_ids, forward_batch)
        return self._decode(input_ids, forward_batch)

    def _extend(self, input_ids: Tensor, batch: Any) -> LogitsProcessorOutput:
        requests = batch.req_pool_indices.tolist()
        logits, hidden, lost = _nothing(len(requests), self.shape.vocabulary_used)
        going, headers, levels, texts, patches = [], [], [], [], []
        begin = 0
        for b, length in enumerate(batch.extend_seq_lens_cpu):
            ids = input_ids[begin : begin + length].tolist()
            begin += length
            turn = taken(batch.mm_inputs[b] if batch.mm_inputs else None)
            if turn is None:
                continue  # a request for SGLang's own health
            header, sound, seen = turn
            if length not in (header.positions, header.positions + 1) or not self._is_next(header):
                log.error("a turn that cannot be appended: %s, %d positions", header, length)
                self._forget(header.row)
                continue
            here = ids[length - header.positions :]
            going.append(b)
            headers.append(header)
            levels.append(sound)
            texts.append(tuple(here[header.patches : header.patches + header.texts]))
            patches.append(seen)
            self._turn_of_request[requests[b]] = header
        if going:
            assert self._state is not None
            state, rows = self._state, [header.row for header in headers]
            found, rows_BSd, _ = self.model.begin(state, rows, inputs_of(headers, levels, texts, patches))
            state.mark(SPEAK_POSITIONS)
            for at, b in enumerate(going):
                hidden[b], lost[b] = packed(rows_BSd[at]), ""
                if headers[at].say_limit > 0:
                    logits[b] = found[at]
        return _output(logits, hidden, lost)

    def _decode(self, input_ids: Tensor, batch: Any) -> LogitsProcessorOutput:
        requests, tokens = batch.req_pool_indices.tolist(), input_ids.tolist()
        logits, hidden, lost = _nothing(len(requests), self.shape.vocabulary_used)
        turns = [self._turn_of_request[request] for request in requests]
        going = [b for b, turn in enumerate(turns) if self._is_now(turn)]
        if going:
            assert self._state is not None
            rows = [turns[b].row for b in going]
            self._state.go_back(rows, SPEAK_POSITIONS)
            found, rows_BSd = self.model.go_on(self._state, rows, [tokens[b] for b in going])
            self._state.mark(SPEAK_POSITIONS)
            for at, b in enumerate(going):
                hidden[b], lost[b] = packed(rows_BSd[at]), ""
                self._rows[rows[at]].left -= 1
                if self._rows[rows[at]].left > 0:
                    logits[b] = found[at]
        return _output(logits, hidden, lost)

    def _is_now(self, turn: Header) -> bool:
        """Whether it is still the newest of its row: one that was given up may come once more."""
        held = self._rows.get(turn.row)
        return held is not None and (held.call, held.turn) == (turn.call, turn.turn)

    def _is_next(self, header: Header) -> bool:
        """Whether this turn can be appended to its row; a new call's row is made empty."""
        assert self._state is not None
        held = self._rows.get(header.row)
        if held is None or held.call != header.call:
            if header.turn:
                return False
            self._forget(header.row)
            self._state.open(header.row)
        elif header.turn <= held.turn:
            return False  # it was appended before: SGLang had taken the request back
        self._rows[header.row] = _Row(header.call, header.turn, header.say_limit)
        return True

    def _forget(self, row: int) -> None:
        assert self._state is not None
        if self._rows.pop(row, None) is not None:
            self._state.close(row)


def _nothing(count: int, vocabulary: int) -> tuple[Tensor, list[str], list[str]]:
    """Of requests that get no pass: their end, no rows, and that they are lost."""
    logits = torch.full((count, vocabulary), -torch.inf)
    logits[:, END] = 0.0
    return logits, [""] * count, [LOST] * count


def _output(logits: Tensor, hidden: list[str], lost: list[str]) -> LogitsProcessorOutput:
    return LogitsProcessorOutput(
        next_token_logits=logits.float(), customized_info={HIDDEN_KEY: hidden, LOST_KEY: lost}
    )


EntryClass = MicroturnInteraction
