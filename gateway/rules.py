"""Inbound rules: what becomes of a call, by whom it called, where it came from and what its headers say.

An ordered list, the first that matches decides; `personas` (number = persona) is the short form of rules that look
at the number alone and comes behind it, and last of all is `calls_without_rule`. All of it is one list here, and
nobody else decides. A telephone calls a name in its request's URI (RFC 3261 19.1.1), a browser in WHIP's:
`/whip?to=NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings

from gateway import personas
from gateway.cluster.settings import Trunk
from gateway.further_engines import check_engine
from gateway.sources import Networks
from gateway.words import words

MOST_RULES: Final = 1000
Attestation = Literal["A", "B", "C", "failed", "absent"]
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")


class Rule(BaseModel):
    """One rule; what it does not name may be anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    called: str = ""
    """Number or name that was called, or a pattern: /1[0-9]{2}/."""
    source: tuple[str, ...] = ()
    """Networks or names of trunks that the call came from; telephones alone."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Values, or patterns, of headers of the INVITE; telephones alone."""
    attestation: tuple[Attestation, ...] = ()
    """What was found out about the caller's signature (STIR/SHAKEN); telephones alone."""
    persona: str = ""
    """Empty is its engine's, which of the usual one is the setting `persona`."""
    engine: str = ""
    """What answers, one of `engines`; empty is the usual one."""
    tenant: str = ""
    """Whose call it is; empty is its trunk's."""
    trunk: str = ""
    """Whose cap it counts for; empty is where it came from."""
    recording: bool = False
    """Whether it may be recorded."""

    @field_validator("source", "attestation", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return words(value)

    @property
    def is_catch_all(self) -> bool:
        """Whether it matches every call."""
        return not (self.called or self.source or self.headers or self.attestation)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A call as a rule sees it."""

    called: str = ""
    source: str = ""
    """Address that the INVITE came from."""
    trunk: str = ""
    headers: Mapping[str, Sequence[str]] | None = None
    """Values by names in small letters; None of a browser."""
    attestation: str = ""
    """As in a rule; empty where nobody looked."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a call."""

    rule: str
    """Its name, or where it stands in the settings."""
    persona: str = ""
    tenant: str = ""
    trunk: str = ""
    recording: bool = False
    engine: str = ""
    """Empty is the usual one."""
    called: str = ""
    """The name of ours that was called, where the rule has it word by word: else it may be anybody's number."""


OTHERS: Final = Ruling("calls_without_rule")
"""Of calls that match nothing, where they are taken."""


class Rules:
    """The list. `ValueError` in words for the operator for what cannot be meant."""

    def __init__(
        self,
        rules: Sequence[Rule],
        listed: Mapping[str, str],
        takes_others: bool,
        tenants: Mapping[str, object],
        trunks: Mapping[str, Trunk],
        engines: Mapping[str, str] | None = None,
    ) -> None:
        """`listed` are `personas`; `takes_others` is whether calls that match nothing are taken; `engines` has the
        persona of each further engine."""
        if len(rules) > MOST_RULES:
            raise ValueError(f"rules has {len(rules)} entries: {MOST_RULES} at most")
        self._checked: list[tuple[Callable[[Inbound], bool], Ruling]] = []
        catch_all = ""
        for at, rule in enumerate(rules, 1):
            where = f"rules[{at}]" + (f" ({rule.name})" if rule.name else "")
            if catch_all:
                raise ValueError(
                    f"{where} is never reached: {catch_all} matches every call. Put that one last"
                )
            self._checked.append(_compiled(rule, where, tenants, trunks, engines or {}))
            catch_all = where if rule.is_catch_all else ""
        for name, persona in listed.items():
            self._checked.append(
                _compiled(Rule(called=name, persona=persona), f"personas.{name}", {}, {}, {})
            )
        if takes_others:
            self._checked.append((lambda call: True, OTHERS))

    def find(self, call: Inbound) -> Ruling | None:
        """The first that matches; None refuses the call."""
        return next((ruling for matches, ruling in self._checked if matches(call)), None)

    def find_for_browser(self, name: str) -> Ruling | None:
        """Of a browser that called a name; "" is none. A name that no rule has is refused: it is a slip."""
        found = self.find(Inbound(name))
        return None if name and found is OTHERS else found


EVERYBODY: Final = Rules((), {}, True, {}, {})
"""Without a rule: all calls are taken."""


def _compiled(
    rule: Rule,
    where: str,
    tenants: Mapping[str, object],
    trunks: Mapping[str, Trunk],
    engines: Mapping[str, str],
) -> tuple[Callable[[Inbound], bool], Ruling]:
    if rule.persona:
        personas.check_persona(rule.persona, f"{where}: persona")
    if rule.tenant and rule.tenant not in tenants:
        raise ValueError(
            f"{where}: tenant = {rule.tenant!r} is not among the tenants: add [tenants.{rule.tenant}]"
        )
    if rule.trunk and rule.trunk not in trunks:
        raise ValueError(
            f"{where}: trunk = {rule.trunk!r} is not among the trunks: add [trunks.{rule.trunk}]"
        )
    check_engine(rule.engine, engines, f"{where}: engine")
    is_pattern = _is_pattern(rule.called)
    if rule.called and not is_pattern:
        personas.check_name(rule.called, where)
    number = _matcher(rule.called, f"{where}: called") if rule.called else None
    named = frozenset(name for name in rule.source if name in trunks)
    try:
        networks = Networks(name for name in rule.source if name not in trunks)
    except ValueError as wrong:
        raise ValueError(f"{where}: source: {wrong}, or the name of one of the trunks") from None
    for name in rule.headers:
        if not _HEADER.fullmatch(name):
            raise ValueError(f"{where}: headers has {name!r}: expected a header's name, such as X-Campaign")
    headers = [
        (name.lower(), _matcher(value, f"{where}: headers.{name}")) for name, value in rule.headers.items()
    ]

    def matches(call: Inbound) -> bool:
        if (rule.source or headers) and call.headers is None:
            return False
        if rule.attestation and call.attestation not in rule.attestation:
            return False
        if number is not None and not number(call.called):
            return False
        if rule.source and call.trunk not in named and call.source not in networks:
            return False
        values = call.headers or {}
        return all(any(fits(value) for value in values.get(name, ())) for name, fits in headers)

    ours = rule.called if not is_pattern else ""
    persona = rule.persona or engines.get(rule.engine, "")
    return matches, Ruling(
        rule.name or where, persona, rule.tenant, rule.trunk, rule.recording, rule.engine, called=ours
    )


def _is_pattern(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == "/"


def _matcher(text: str, where: str) -> Callable[[str], bool]:
    """Word by word, or what stands between slashes as a regular expression for the whole."""
    if not _is_pattern(text):
        return lambda value: value == text
    try:
        pattern = re.compile(text[1:-1])
    except re.error as wrong:
        raise ValueError(
            f"{where} = {text!r} is no regular expression ({wrong}): give such as /1[0-9]+/"
        ) from None
    return lambda value: pattern.fullmatch(value) is not None


class RuleSettings(BaseSettings):
    """`gateway.config.GatewaySettings` has these fields, too."""

    rules: tuple[Rule, ...] = Field(
        (),
        description="what becomes of a call, the first that matches: called, source, headers, attestation -> "
        "persona, engine, tenant, trunk, recording",
    )
    calls_without_rule: Literal["take", "refuse"] = Field(
        "take", description="calls that match none of rules and personas: take is with the usual persona"
    )
