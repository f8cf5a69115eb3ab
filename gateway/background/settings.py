"""What an operator may choose of background work; `gateway.config.GatewaySettings` has these fields, too.

Without `background_url` no model is asked: a few tools answer by fixed rules (`router`).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

Names = Annotated[tuple[str, ...], NoDecode]


class BackgroundSettings(BaseSettings):
    """Of the gateway (deadlines, tasks of a call) and of `microturn worker` (everything else)."""

    background_workers: int = Field(
        1, ge=0, le=64, description="background workers that `microturn up` starts; needs a state server"
    )
    background_tasks: int = Field(8, ge=1, le=256, description="tasks that one of them works at, at once")
    background_tasks_per_call: int = Field(
        4, ge=1, le=16, description="open at once; a further one fails at once"
    )
    background_deadline_s: int = Field(
        60, ge=1, le=600, description="a task that is not done by then has failed, and the model is told so"
    )
    background_url: str = Field(
        "", description="OpenAI-compatible endpoint that answers, such as http://HOST:30000/v1; empty is none"
    )
    background_key: SecretStr = Field(SecretStr(""), description="its API key, where it asks for one")
    background_model: str = Field("", description="the model's name there")
    background_answer_s: float = Field(
        20.0, gt=0, le=600, description="longest silence of the endpoint, before its answer and within it"
    )
    background_tries: int = Field(
        3, ge=1, le=10, description="requests for one answer, with longer and longer pauses between"
    )
    background_answer_tokens: int = Field(512, ge=1, le=65_536, description="longest answer to one request")
    background_tokens_per_call: int = Field(
        50_000, ge=0, description="cap on the tokens of all tasks of a call, both ways; 0 is none"
    )
    background_spend_per_call: float = Field(
        0.0, ge=0, description="cap on what they may cost, in the currency of the prices; 0 is none"
    )
    background_price_in: float = Field(0.0, ge=0, description="of a million tokens to the endpoint")
    background_price_out: float = Field(0.0, ge=0, description="of a million tokens from it")
    background_tools: Names = Field(
        (), description="Python functions that its model may call: MODULE:FUNCTION, ..."
    )
    background_tool_s: float = Field(20.0, gt=0, le=600, description="a tool that takes longer has failed")
    background_mcp: dict[str, str] = Field(
        default_factory=dict,
        description='MCP servers whose tools it may call: files = "COMMAND ARGUMENT ...", web = "https://..."',
    )
    background_stills: int = Field(
        2, ge=0, le=16, description="pictures of the caller's camera that a task may ask for; 0 is none"
    )
    background_metrics_port: int = Field(
        0, ge=0, le=65_535, description="metrics of `microturn worker`, on http_host; 0 is none"
    )
    background_orders: str = Field(
        "", description="SQLite file with the table `orders` of the order look-up; empty is a sample of ours"
    )

    @field_validator("background_tools", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("background_tools")
    @classmethod
    def _are_functions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
                raise ValueError(f"{name!r} is no MODULE:FUNCTION, such as shop.tools:refund")
        return value

    @field_validator("background_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError(
                f"{value!r}: expected http://HOST:PORT/v1 without query or password; "
                "a key is background_key (MICROTURN_BACKGROUND_KEY)"
            )
        return value.rstrip("/")

    def check_background(self) -> None:
        """`ValueError` in words for the operator, where settings do not fit together."""
        if self.background_metrics_port and self.background_workers > 1:
            raise ValueError(
                f"background_metrics_port = {self.background_metrics_port} with background_workers = "
                f"{self.background_workers}: only one process can listen there; start others as `microturn worker`"
            )
        if self.background_url and not self.background_model:
            raise ValueError(
                f"background_url = {self.background_url!r} without background_model: name the model to ask for"
            )
        if (
            self.background_model or self.background_tools or self.background_mcp
        ) and not self.background_url:
            raise ValueError(
                "background_model, background_tools and background_mcp are of no use without background_url: "
                "no model would call them"
            )
        if self.background_spend_per_call and not (self.background_price_in or self.background_price_out):
            raise ValueError(
                "background_spend_per_call without background_price_in or background_price_out: "
                "nothing would ever cost anything"
            )
