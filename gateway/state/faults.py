"""What may be wrong with the server of the state, for those who need not know whose client it is."""

from __future__ import annotations


class Away(Exception):
    """Nobody answers, or not as they should for now: the same again later. The message names what was met."""


class Rejected(Exception):
    """The server will never take this; the message is an error's name."""
