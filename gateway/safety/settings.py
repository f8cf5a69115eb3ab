"""Settings of what is looked at before it is heard; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from gateway.safety.options import SafetyOptions
from gateway.safety.policy import Policy

if TYPE_CHECKING:
    from gateway.safety.moderation import ModerationOptions


class SafetySettings(BaseSettings):
    """What an operator may choose of it."""

    safety_policy: str = Field(
        "", description="YAML file of what the model may not say; empty is no policy, at no cost"
    )
    moderation_url: str = Field(
        "",
        description="endpoint that is asked in the background about what the model has said: OpenAI's moderation, "
        "such as https://HOST/v1/moderations; empty is none",
    )
    moderation_key: SecretStr = Field(SecretStr(""), description="its API key, where it asks for one")
    moderation_model: str = Field(
        "", description="the model's name there; empty is the endpoint's own choice"
    )
    moderation_answer_s: float = Field(2.0, gt=0, le=60, description="a slower answer counts as none")
    moderation_do: Literal["report", "cut", "hang-up"] = Field(
        "cut", description="what becomes of a call in which it flags something"
    )
    moderation_failing: Literal["open", "closed"] = Field(
        "open", description="what could not be asked or was not answered passes (open), or counts as flagged"
    )

    @field_validator("moderation_url")
    @classmethod
    def _is_an_endpoint(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError(
                f"{value!r}: expected https://HOST/v1/moderations without query or password; "
                "a key is moderation_key (MICROTURN_MODERATION_KEY)"
            )
        return value

    def check_safety(self, tenants: Iterable[str]) -> None:
        """`ValueError` in words for the operator."""
        policy, known = self.read_safety_policy(), tuple(tenants)
        for rule in policy.rules if policy is not None else ():
            for pattern in rule.tenants:
                if not any(fnmatchcase(tenant, pattern) for tenant in known):
                    raise ValueError(
                        f"safety_policy: {self.safety_policy}: rule {rule.name}: tenants has {pattern!r}, which is "
                        f"none of the tenants: {', '.join(known) or 'there are none'}"
                    )
        if (self.moderation_model or self.moderation_key.get_secret_value()) and not self.moderation_url:
            raise ValueError(
                "moderation_model and moderation_key are of no use without moderation_url: nobody is asked"
            )

    def read_safety_policy(self) -> Policy | None:
        """As the file has it now; None where none is set. `ValueError` in words for the operator."""
        if not self.safety_policy:
            return None
        from gateway.safety.policy_file import read_policy  # who sets none does not load YAML

        try:
            return read_policy(Path(self.safety_policy))
        except ValueError as wrong:
            raise ValueError(f"safety_policy: {wrong}") from None

    def safety_options(self, persona: str) -> SafetyOptions | None:
        """For workers, where `persona` is the usual one; None where nothing is looked at."""
        policy = self.read_safety_policy()
        if policy is None and not self.moderation_url:
            return None
        return SafetyOptions(policy or Policy(), persona, bool(self.moderation_url))

    def moderation_options(self) -> ModerationOptions | None:
        """For the main process."""
        if not self.moderation_url:
            return None
        from gateway.safety.moderation import ModerationOptions

        key = self.moderation_key.get_secret_value()
        return ModerationOptions(
            self.moderation_url, key, self.moderation_model, self.moderation_answer_s,
            closed=self.moderation_failing == "closed",
        )  # fmt: skip
