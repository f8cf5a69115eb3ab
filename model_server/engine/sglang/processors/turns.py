"""Requests of turns to media items, in the engine's process: see `turn_item.py`."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalProcessorOutput
from sglang.srt.multimodal.processors.base_processor import BaseMultimodalProcessor

from model_server.engine.sglang.folder import ARCHITECTURE
from model_server.engine.sglang.turn_item import HEAR, IMAGE, TurnItem
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS
from model_server.model.published import ARCHITECTURE as INKLING_ARCHITECTURE


class TurnProcessor(BaseMultimodalProcessor):
    """Sound and pictures come as numbers already: dMel levels and patches are made where calls are."""

    models = [type(name, (), {}) for name in (ARCHITECTURE, INKLING_ARCHITECTURE)]
    """SGLang looks at the names of classes; the model itself is loaded in another process."""

    async def process_mm_data_async(
        self, image_data: Any = None, audio_data: Any = None, input_text: Any = "", request_obj: Any = None,
        *more: Any, **named: Any,
    ) -> MultimodalProcessorOutput:  # fmt: skip
        """One turn a request: one audio item, and an image item where there is a picture."""
        audio = audio_data if isinstance(audio_data, list) else [audio_data]
        if len(audio) != 1:
            raise ValueError(f"a micro-turn has one audio item; got {len(audio)}")
        turn = TurnItem.from_media(audio[0])
        ids: list[int] = []
        items = []
        for token in request_obj.input_ids:
            begin = len(ids)
            if token == HEAR:
                ids += [HEAR] * HEAR_POSITIONS
                item = _item(Modality.AUDIO, turn, torch.from_numpy(turn.levels.copy()), begin, len(ids))
                items.append(item)
            elif token == IMAGE and turn.patches is not None:
                ids += [IMAGE] * turn.header.patches
                patches = torch.from_numpy(turn.patches.copy())
                items.append(_item(Modality.IMAGE, turn, patches, begin, len(ids)))
            else:
                ids.append(token)
        if len(ids) not in (turn.header.positions, turn.header.positions - SPEAK_POSITIONS):
            raise ValueError(f"a micro-turn of {len(ids)} positions; its header says {turn.header.positions}")
        return MultimodalProcessorOutput(
            input_ids=ids, mm_items=items, im_token_id=IMAGE, audio_token_id=HEAR
        )


def _item(
    modality: Modality, turn: TurnItem, feature: torch.Tensor, begin: int, end: int
) -> MultimodalDataItem:
    item = MultimodalDataItem(
        modality=modality,
        feature=feature,
        offsets=[(begin, end - 1)],
        model_specific_data={"header": torch.tensor(astuple(turn.header), dtype=torch.int32)},
    )
    item.set_hash(turn.header.call << 32 | turn.header.turn << 1 | (modality is Modality.IMAGE))
    return item
