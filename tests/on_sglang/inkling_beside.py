"""`python -m tests.on_sglang.inkling_beside`: SGLang's own Inkling and our trunk, with the same random weights.

In a process of its own, since it settles SGLang for itself. Prints one JSON object for `test_inkling_trunk.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from model_server.engine.sglang.folder import HIDDEN_KEY, SETTINGS
from model_server.engine.sglang.turn_item import HEAR, IDS, IMAGE, SPEAK, Header
from model_server.model.config import DIGITS
from model_server.model.inputs import TurnInputs
from model_server.model.interaction import Interaction, Spoken
from model_server.model.micro_turn import (
    HEAR_POSITIONS,
    MEL_CHANNELS,
    MEL_LEVELS,
    SPEAK_POSITIONS,
    TRUTH_LEVELS,
)
from model_server.model.published import config_of_ours
from model_server.model.vocabulary import END
from tests.support.inkling_on_cpu import Backend, on_cpu

SHAPE = replace(
    DIGITS,
    **dict(
        name="small", layers=4, global_every=2, hidden=32, heads=4, head_dim=8, dense_width=48, dense_layers=1
    ),
    **dict(
        expert_width=24, experts=5, window=24, bias_extent=30, global_first=7, global_budget=400, log_floor=40
    ),
    **dict(shared_experts=2, route_scale=2.0, logits_divisor=2.0, vision_widths=(8, 8, 8)),
)
"""Both kinds of layers and of MLPs; sequences are longer than window, extent and floor, shorter than the budget."""
PIECES = ((20, 9), (5, 8), (1, 1), (1, 1), (33, 41))
TURNS = 14


def random_model() -> Interaction:
    """That writes words now and then."""
    model = Interaction(SHAPE)
    model.initialise(3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor += torch.randn(tensor.shape, generator=generator) * 0.2
        model.unembedding.weight[END] *= 2.0
    return model.eval().requires_grad_(False)


def difference(found: Tensor, expected: Tensor) -> float:
    """Of the norm of what is expected."""
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def trunk_alone(theirs: Any, ours: Interaction, under: Any) -> float:
    """Two sequences in pieces through SGLang's layers, and whole through ours."""
    x = torch.randn(2, 60, SHAPE.hidden, generator=torch.Generator().manual_seed(5))
    backend = Backend(theirs.text_config)
    begun, found = [0, 0], [[], []]
    with under(backend):
        for counts in PIECES:
            batch = backend.batch([0, 1], counts, begun)
            rows = torch.cat([x[b, begun[b] : begun[b] + counts[b]] for b in range(2)])
            hidden = theirs.llm(batch.input_ids, batch.positions, batch, input_embeds=rows)
            for b, part in enumerate(hidden.split(counts)):
                found[b].append(part)
            begun = [at + count for at, count in zip(begun, counts, strict=True)]
    return difference(torch.stack([torch.cat(parts) for parts in found]), ours.trunk.whole(x))


def inputs(turn: int, generator: torch.Generator) -> TurnInputs:
    """Of two calls; one has text at first and later, the other a picture now and then."""

    def levels(limit: int, *shape: int) -> Tensor:
        return torch.randint(0, limit, (2, HEAR_POSITIONS, *shape), generator=generator).to(torch.uint8)

    side = SHAPE.patch_side
    patches = torch.randn(3, 2, side, side, 3, generator=generator)
    heard, own = levels(MEL_LEVELS, MEL_CHANNELS), levels(MEL_LEVELS, MEL_CHANNELS)
    text = {0: (2, 5, 7)} if turn % 5 == 0 else {}
    return TurnInputs(
        heard, own, levels(TRUTH_LEVELS), text=text, patches={1: patches} if turn % 4 == 1 else {}
    )


class Session:
    """Of each of two calls, as SGLang keeps it: how long it is, and the token that was sampled last."""

    def __init__(self, model: Any, under: Any) -> None:
        self.model, self._under, self.backend = model, under, Backend(model.text_config)
        self.lengths, self.carried = [0, 0], [list[int](), list[int]()]

    def turn(self, given: TurnInputs) -> tuple[list[list[int]], Tensor]:
        """As `asking.hears` and `asking.speaks` ask for it: tokens, rows [2, 4, d]."""
        hearing, media = [], []
        for b in range(2):
            patches, text = given.patches.get(b), given.text.get(b, ())
            header = Header(b, b, 0, SHAPE.say_limit, 0 if patches is None else len(patches), len(text))
            sound = torch.cat([given.heard[b], given.own[b], given.truth[b, :, None]], 1)
            media.append(SimpleNamespace(mm_items=_items(header, sound, patches)))
            hearing.append([IMAGE] * header.patches + list(text) + [HEAR] * HEAR_POSITIONS)
        logits, _ = self._pass(hearing, media)
        tokens: list[list[int]] = [[], []]
        writing = [0, 1]
        while writing:
            for b, token in zip(list(writing), logits.argmax(-1).tolist(), strict=True):
                self.carried[b] = [token]
                if token != END:
                    tokens[b].append(token)
                if token == END or len(tokens[b]) == SHAPE.say_limit:
                    writing.remove(b)
            if writing:
                logits = self._decoded(writing)
        speaking = [[SPEAK] * (SPEAK_POSITIONS - (END in carried)) for carried in self.carried]
        _, rows = self._pass(speaking, None)
        return tokens, rows

    def _pass(self, ids: Sequence[list[int]], media: Any) -> tuple[Tensor, Any]:
        whole = [carried + new for carried, new in zip(self.carried, ids, strict=True)]
        self.carried = [[], []]
        batch = self.backend.batch([0, 1], [len(each) for each in whole], self.lengths)
        self.lengths = [at + len(each) for at, each in zip(self.lengths, whole, strict=True)]
        batch.input_ids, batch.mm_inputs = torch.tensor([token for each in whole for token in each]), media
        assert int(batch.input_ids.max()) < IDS
        output = self._forward(batch)
        said = output.customized_info[HIDDEN_KEY]
        return output.next_token_logits, torch.stack([_rows(each) for each in said]) if all(said) else None

    def _decoded(self, slots: list[int]) -> Tensor:
        batch = self.backend.batch(slots, [1] * len(slots), [self.lengths[b] for b in slots])
        batch.input_ids = torch.tensor([self.carried[b][0] for b in slots])
        for b in slots:
            self.lengths[b] += 1
        return self._forward(batch).next_token_logits

    def _forward(self, batch: Any) -> Any:
        with self._under(self.backend):
            return self.model(batch.input_ids, batch.positions, batch)


def _items(header: Header, sound: Tensor, patches: Tensor | None) -> list[Any]:
    def item(feature: Tensor, is_audio: bool) -> Any:
        told = dict(feature=feature, header=torch.tensor([*asdict(header).values()]))
        return SimpleNamespace(is_audio=lambda: is_audio, is_image=lambda: not is_audio, **told)

    return [item(sound, True)] + ([] if patches is None else [item(patches, False)])


def _rows(said: str) -> Tensor:
    import base64

    packed = torch.frombuffer(bytearray(base64.b64decode(said)), dtype=torch.float32)
    return packed.view(SPEAK_POSITIONS, SHAPE.hidden)


def turns(theirs: Any, ours: Interaction, under: Any) -> dict[str, Any]:
    """The same turns of two calls by both."""
    session, state = Session(theirs, under), ours.state(2)
    for row in range(2):
        state.open(row)
    generator = torch.Generator().manual_seed(6)
    most, same, written, full = 0.0, True, 0, 0
    for turn in range(TURNS):
        given = inputs(turn, generator)
        expected: Spoken = ours.turn(state, [0, 1], given)
        tokens, rows = session.turn(given)
        same = same and tokens == expected.tokens
        most = max(most, difference(rows, expected.hidden))
        written += sum(map(len, tokens))
        full += sum(len(each) == SHAPE.say_limit for each in tokens)
    return dict(turns_differ=most, same_tokens=same, written=written, full=full, positions=session.lengths)


def main() -> int:
    torch.set_num_threads(1)
    ours = random_model()
    with tempfile.TemporaryDirectory() as folder, on_cpu(Path(folder)), torch.inference_mode():
        from sglang.srt.configs.inkling import InklingMMConfig
        from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

        from model_server.engine.sglang.inkling.model import InklingForConditionalGeneration

        config = InklingMMConfig(**config_of_ours(SHAPE), **{SETTINGS: {"config": asdict(SHAPE)}})
        theirs = InklingForConditionalGeneration(config)
        for parameter in theirs.parameters():
            parameter.fill_(torch.nan)
        asked: list[str] = []

        def tensors() -> Any:
            for name, tensor in ours.state_dict().items():
                asked.append(name)
                yield f"interaction.{name}", tensor
            yield "flow_head.mean", torch.zeros(1)

        filled = theirs.load_weights(tensors())
        unfilled = [name for name, tensor in theirs.named_parameters() if tensor.isnan().any()]

        def under(backend: Backend) -> Any:
            return forward_context(ForwardContext(attn_backend=backend))

        result = dict(
            parameters=len(dict(theirs.named_parameters())), filled=len(filled), unfilled=unfilled,
            ours=len(asked), trunk_differs=trunk_alone(theirs, ours, under), **turns(theirs, ours, under),
            elements=[sum(p.numel() for p in ours.state_dict().values()), _elements(theirs)],
        )  # fmt: skip
    print(json.dumps(result))
    return 0


def _elements(theirs: Any) -> int:
    """Without rows that SGLang only adds to fill its tables up: of words, and of the router."""
    padded = {"llm.embed_tokens.weight": SHAPE.vocabulary, "llm.lm_head.weight": SHAPE.vocabulary}
    count = 0
    for name, tensor in theirs.named_parameters():
        rows = padded.get(
            name, SHAPE.experts + SHAPE.shared_experts if name.endswith("gate.weight") else None
        )
        count += (tensor if rows is None else tensor[:rows]).numel()
    return count


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # SGLang is seconds in being taken apart
