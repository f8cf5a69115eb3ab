"""One picture of a camera for who works in the background: a JPEG that fits into a control packet.

    Look -> BrowserCall.still -> Sight -> VideoSource: the next picture it decodes, on the decoder thread -> JPEG

No picture is kept for it. Of a call whose pictures nobody looks at, packets are taken in from the wish on: a key
frame is asked for, and decoded.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import av
import av.video.reformatter

from gateway.background.records import MOST_STILL_BYTES

SIZE: Final = (320, 240)
"""Width and height that it fits into; smaller pictures stay as they are."""
QUANTIZERS: Final = (3, 6, 12, 31)
"""Of MJPEG, finest first: 3 is what a camera saves."""
_AREA: Final = av.video.reformatter.Interpolation.AREA


def jpeg_of(picture: av.VideoFrame, most_bytes: int = MOST_STILL_BYTES) -> bytes:
    """As good as it may be in so many bytes; empty when not even the coarsest fits."""
    scale = min(1.0, SIZE[0] / picture.width, SIZE[1] / picture.height)
    width, height = (max(2, 2 * round(length * scale / 2)) for length in (picture.width, picture.height))
    small = picture.reformat(width, height, "yuvj420p", interpolation=_AREA, threads=1)
    for quantizer in QUANTIZERS:
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
        encoder.time_base = Fraction(1, 1)
        encoder.thread_count = 1
        encoder.qmin = encoder.qmax = quantizer
        small.pts = 0
        packets = [*encoder.encode(small), *encoder.encode(None)]
        jpeg = b"".join(bytes(packet) for packet in packets)
        if len(jpeg) <= most_bytes:
            return jpeg
    return b""
