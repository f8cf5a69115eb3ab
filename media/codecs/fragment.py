"""What one RTP packet adds to an encoded picture: the common ground of the video depacketizers."""

from __future__ import annotations

from typing import NamedTuple


class Fragment(NamedTuple):
    """Bytes of one packet, ready to be joined in sequence order into what a decoder takes.

    A tuple, as a packet is: one is made for every packet of a camera.
    """

    data: bytes
    may_begin: bool
    """A frame can begin with it; False for a later part of what an earlier packet began."""
    is_key: bool
    """The frame that it belongs to can be decoded without an earlier one."""
    begins_key: bool
    """It is the first packet of a key frame, whatever came before it."""
