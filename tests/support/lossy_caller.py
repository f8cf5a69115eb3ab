"""A caller whose packets do not all get out: a line with loss, without a network."""

from __future__ import annotations

import random
from typing import Any

from gateway.caller.calls import Caller
from gateway.caller.stream import RtpStream


def lossy_caller(share: float, seed: int) -> type[Caller]:
    """`Caller`, of whose packets this share (0 to 1) is not sent; which ones is the seed's."""
    rng = random.Random(seed)

    class LossyStream(RtpStream):
        __slots__ = ()

        def send_next(self) -> None:
            remote = self.remote
            if rng.random() < share:
                self.remote = None
            super().send_next()
            self.remote = remote

    class LossyCaller(Caller):
        def _make_stream(self, *args: Any) -> RtpStream:
            stream = super()._make_stream(*args)
            stream.__class__ = LossyStream
            return stream

    return LossyCaller
