"""One micro-turn of one call as one request to SGLang.

    token ids     IMAGE (once, where there is a picture), the injected tokens, HEAR (once), SPEAK x 4
    audio item    dMel levels of 4 positions, and `Header`
    image item    patches of two pictures

The processor writes HEAR four times and IMAGE once a patch, so that what SGLang counts are positions of the model.
The order is that of `micro_turn.TABLE`; tokens that the model writes are put behind by SGLang, since that is how it
writes them; the model itself puts them before the `speak` positions.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_server.model.inputs import TurnInputs
from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, SPEAK_POSITIONS
from model_server.model.vocabulary import SIZE

IMAGE, HEAR, SPEAK = SIZE, SIZE + 1, SIZE + 2
"""Ids beyond the model's own tokens."""
IDS = SIZE + 3
LEVELS = 2 * MEL_CHANNELS + 1
"""Bytes of a position: of the caller, of our own voice, how much of it is real."""
URL_BEGIN = "data:audio/x-micro-turn;base64,"


@dataclass(frozen=True, slots=True)
class Header:
    """What the model has to know of a turn besides its content."""

    row: int
    """Of the model's state."""
    call: int
    """Serial number: a row that held another call is begun anew."""
    turn: int
    """0, 1, 2 ... of that call."""
    say_limit: int
    """Tokens that it may write."""
    patches: int = 0
    texts: int = 0

    @property
    def positions(self) -> int:
        """Of the request."""
        return self.patches + self.texts + HEAR_POSITIONS + SPEAK_POSITIONS


@dataclass(frozen=True, slots=True, eq=False)
class TurnItem:
    """A turn, as it travels."""

    header: Header
    levels: npt.NDArray[np.uint8]
    """uint8 [4, LEVELS]."""
    text: tuple[int, ...] = ()
    patches: npt.NDArray[np.float32] | None = None
    """float32 [n, 2, side, side, 3]."""

    @classmethod
    def of(cls, inputs: TurnInputs, b: int, row: int, call: int, turn: int, say_limit: int) -> TurnItem:
        """Call `b` of these inputs."""
        levels = torch.cat([inputs.heard[b], inputs.own[b], inputs.truth[b, :, None]], 1)
        text, patches = inputs.text.get(b, ()), inputs.patches.get(b)
        header = Header(row, call, turn, say_limit, 0 if patches is None else len(patches), len(text))
        return cls(header, levels.numpy(), text, None if patches is None else patches.numpy())

    @classmethod
    def silent(cls, row: int, call: int, turn: int = 0) -> TurnItem:
        """A turn that brings nothing and is not to be answered."""
        return cls(Header(row, call, turn, 0), np.zeros((HEAR_POSITIONS, LEVELS), np.uint8))

    @property
    def input_ids(self) -> list[int]:
        """Of the request, before it is written out."""
        image = [IMAGE] if self.header.patches else []
        return [*image, *self.text, HEAR, *[SPEAK] * SPEAK_POSITIONS]

    def packed(self) -> bytes:
        """Without the text, which travels as token ids."""
        parts = [np.array(astuple(self.header), np.int32).tobytes(), self.levels.tobytes()]
        if self.patches is not None:
            parts += [np.array(self.patches.shape, np.int32).tobytes(), self.patches.tobytes()]
        return b"".join(parts)

    def media(self) -> dict[str, bytes]:
        """As `audio_data` of a request within the process."""
        return {"micro_turn": self.packed()}

    def url(self) -> str:
        """As `audio_data` of a request over HTTP, which takes strings only."""
        return URL_BEGIN + base64.b64encode(self.packed()).decode()

    @classmethod
    def unpack(cls, packed: bytes) -> TurnItem:
        """`ValueError` for what no turn packs."""
        try:
            header = Header(*np.frombuffer(packed, np.int32, 6).tolist())
            levels = np.frombuffer(packed, np.uint8, HEAR_POSITIONS * LEVELS, offset=24)
            at, patches = 24 + levels.size, None
            if header.patches:
                shape = np.frombuffer(packed, np.int32, 5, offset=at).tolist()
                patches = np.frombuffer(packed, np.float32, offset=at + 20).reshape(shape)
        except ValueError as error:
            raise ValueError(f"a micro-turn of {len(packed)} bytes: {error}") from error
        return cls(header, levels.reshape(HEAR_POSITIONS, LEVELS), (), patches)

    @classmethod
    def from_media(cls, media: Any) -> TurnItem:
        """What `media` or `url` gave; SGLang hands a URL on as a string or as an object that has it."""
        if isinstance(media, Mapping) and "micro_turn" in media:
            return cls.unpack(media["micro_turn"])
        url = media.get("url") if isinstance(media, Mapping) else getattr(media, "url", media)
        if not isinstance(url, str) or not url.startswith(URL_BEGIN):
            raise ValueError(f"audio of a micro-turn: expected {URL_BEGIN}...; got {str(url)[:40]!r}")
        return cls.unpack(base64.b64decode(url.removeprefix(URL_BEGIN), validate=True))


def inputs_of(
    headers: list[Header], levels: list[Tensor], texts: list[tuple[int, ...]], patches: list[Tensor | None]
) -> TurnInputs:
    """Turns of several calls, as the model takes them."""
    together = torch.stack(levels)
    return TurnInputs(
        together[..., :MEL_CHANNELS],
        together[..., MEL_CHANNELS : 2 * MEL_CHANNELS],
        together[..., -1],
        text={b: text for b, text in enumerate(texts) if text},
        patches={b: seen for b, seen in enumerate(patches) if seen is not None},
    )


def taken(mm_inputs: Any) -> tuple[Header, Tensor, Tensor | None] | None:
    """The newest turn of a request: header, levels and patches. What SGLang kept of a session is let go of.

    It keeps every item of a session until that is closed, and walks through all of them in each turn.
    """
    if mm_inputs is None:
        return None
    items, mm_inputs.mm_items = mm_inputs.mm_items, []
    sound = [item for item in items if item.is_audio() and item.feature is not None]
    if not sound:
        return None
    header = Header(*sound[-1].header.tolist())
    seen = [item for item in items if item.is_image() and item.feature is not None]
    return header, sound[-1].feature, seen[-1].feature if header.patches and seen else None


def packed(hidden_Sd: Tensor) -> str:
    """Rows [S, d] as a string, which is how they travel: base64 of float32."""
    return base64.b64encode(hidden_Sd.float().cpu().contiguous().numpy().tobytes()).decode()
