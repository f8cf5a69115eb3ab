"""All targets by name."""

from __future__ import annotations

from loadtests.fuzz.browsers import BROWSERS
from loadtests.fuzz.inside import INSIDE
from loadtests.fuzz.media import MEDIA
from loadtests.fuzz.signalling import SIGNALLING
from loadtests.fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*MEDIA, *SIGNALLING, *BROWSERS, *INSIDE)}
