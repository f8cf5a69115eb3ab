"""What a call with this loss and delay would sound like: an estimated mean opinion score.

The E-model of ITU-T G.107, reduced to what a gateway can measure: R = 93.2 - Id - Ie_eff, everything else at
its default. It rates transmission, not the recording: noise, or a gap that arrives as good packets, is not
heard.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_RATING = 93.2  # R of G.107 with all parameters at their defaults: clean G.711, no delay
_MAX_LOSS_IMPAIRMENT = 95.0  # G.107 equation 7-29: R cannot lose more than this to the equipment
_WIDEBAND_SCALE = 1.29  # G.107.1: the wideband scale ends at 129 instead of 100


@dataclass(frozen=True, slots=True)
class CodecImpairment:
    """Ie and Bpl of G.113 appendix I: impairment without loss, and robustness to packet loss."""

    ie: float
    bpl: float
    wideband: bool = False


CODEC_IMPAIRMENTS = {
    # G.711 with the concealment of its appendix I, 10 ms frames, random loss (G.113 appendix I).
    "PCMU": CodecImpairment(ie=0.0, bpl=25.1),
    "PCMA": CodecImpairment(ie=0.0, bpl=25.1),
    # Ie,wb of 64 kbit/s G.722 is 13 on the wideband scale (G.113 appendix IV). Its Bpl is our assumption:
    # simple repetition is better than nothing (4.3 for G.711) and worse than appendix I.
    "G722": CodecImpairment(ie=13.0, bpl=10.0, wideband=True),
    # G.113 has no figure for Opus. Ours is our assumption: that of AMR-WB at 23.85 kbit/s (8 on the wideband scale,
    # G.113 appendix IV), which Opus at our rate is no worse than, with G.722's Bpl.
    "OPUS": CodecImpairment(ie=8.0, bpl=10.0, wideband=True),
}


def delay_impairment(one_way_ms: float) -> float:
    """Id for a mouth-to-ear delay in ms, echo cancelled.

    The two-segment fit to G.107 of Cole and Rosenbluth, "Voice over IP performance monitoring" (CCR, 2001).
    """
    return 0.024 * one_way_ms + 0.11 * max(0.0, one_way_ms - 177.3)


def effective_impairment(codec: CodecImpairment, loss_percent: float, burst_ratio: float = 1.0) -> float:
    """Ie,eff of G.107 equation 7-29. `burst_ratio` is mean burst length over that of random loss (1)."""
    loss_percent = min(max(loss_percent, 0.0), 100.0)
    return codec.ie + (_MAX_LOSS_IMPAIRMENT - codec.ie) * loss_percent / (
        loss_percent / max(burst_ratio, 1.0) + codec.bpl
    )


def rating(codec: str, one_way_ms: float, loss_percent: float, burst_ratio: float = 1.0) -> float:
    """R, 0..100 on the narrowband scale. Wideband codecs are rated on theirs (0..129) and scaled back.

    Raises ValueError for a codec whose impairment is not known.
    """
    try:
        impairment = CODEC_IMPAIRMENTS[codec.upper()]
    except KeyError:
        known = ", ".join(CODEC_IMPAIRMENTS)
        raise ValueError(f"no impairment known for {codec!r}; known: {known}") from None
    loss = effective_impairment(impairment, loss_percent, burst_ratio)
    delay = delay_impairment(max(one_way_ms, 0.0))
    r = (129.0 - delay - loss) / _WIDEBAND_SCALE if impairment.wideband else DEFAULT_RATING - delay - loss
    return min(max(r, 0.0), 100.0)


def mos_from_rating(r: float) -> float:
    """MOS-CQE of a rating (G.107 annex B), 1..4.5."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def estimate_mos(codec: str, one_way_ms: float, loss_percent: float, burst_ratio: float = 1.0) -> float:
    """Estimated MOS of a call: `codec` PCMU, PCMA, G722 or OPUS, mouth-to-ear delay in ms, packet loss in percent.

    Loss is counted after the jitter buffer. Raises ValueError for an unknown codec.
    """
    return mos_from_rating(rating(codec, one_way_ms, loss_percent, burst_ratio))


def burst_ratio(lost: list[bool]) -> float:
    """How bursty a loss sequence is (G.107 section 7.5): the mean run of losses over the mean run that
    random loss of the same rate p would have, 1 / (1 - p). 1.0 for none, all or random loss."""
    losses = sum(lost)
    if losses in (0, len(lost)):
        return 1.0
    runs = sum(1 for index, is_lost in enumerate(lost) if is_lost and (index == 0 or not lost[index - 1]))
    return max(1.0, losses / runs * (1 - losses / len(lost)))
