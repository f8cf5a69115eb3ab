# SPDX-License-Identifier: GPL-3.0-or-later
"""STIR/SHAKEN: whether the carrier that a call began at stands for the number that calls (RFC 8224, 8225, 8226,
8588; the steps are those of ATIS-1000074).

    INVITE -> `identity.py` (header, PASSporT, claims against the INVITE; no certificate yet)
           -> `store.py` (cache; else `fetch.py` or a folder) -> `certificate.py` (chain, validity, TNAuthList)
           -> signature -> `verdict.py`

`verifier.py` puts it together. What costs least comes first: a header whose claims are not this INVITE's fetches
nothing. Whether a certificate was revoked is not asked.
"""
