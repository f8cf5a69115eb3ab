"""What an operator may choose of browser calls; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from gateway.api.turn import check_urls
from gateway.words import Words, words


class WebrtcSettings(BaseSettings):
    """Of WebRTC."""

    webrtc_calls: int = Field(
        40,
        ge=0,
        le=4096,
        description="browser calls at once; beyond it 503 with Retry-After; 0 is none at all",
    )
    webrtc_workers: int = Field(1, ge=1, le=256, description="processes that share the browser calls")
    webrtc_host: str = Field("127.0.0.1", description="address that browsers' media is received on")
    webrtc_public_host: str = Field("", description="address that browsers are told; webrtc_host when empty")
    webrtc_udp_port: int = Field(
        7600,
        ge=0,
        le=65_000,
        description="UDP port of the first worker, the next has the next; 0 takes free ones",
    )
    webrtc_tcp_port: int = Field(
        7600, ge=0, le=65_000, description="the same over TCP, where UDP is blocked; 0 is no TCP"
    )
    webrtc_offers_per_s: int = Field(
        10, ge=0, le=1000, description="of one client address, in bursts of four times as many; 0 is no limit"
    )
    resume_s: int = Field(
        30, ge=0, le=600, description="a browser that was lost may come back to its call for so long"
    )
    red: Literal["off", "on"] = Field(
        "off", description="redundant audio of browser calls: survives loss at twice the bytes"
    )
    video: Literal["off", "on"] = Field("on", description="whether browsers may send a camera")
    video_frames_per_chunk: int = Field(2, ge=0, le=2, description="newest frames that a chunk carries")

    realtime_api: Literal["off", "on"] = Field(
        "on",
        description="/v1/realtime for OpenAI Realtime clients; their calls count as browser calls",
    )
    realtime_buffer_s: int = Field(
        30,
        ge=2,
        le=120,
        description="sound that such a client may send ahead of time; what is beyond is refused",
    )

    stun_urls: Words = Field((), description="STUN servers that browsers are told: stun:HOST:PORT, ...")
    turn_urls: Words = Field((), description="TURN servers that browsers are told: turn:HOST:PORT, ...")
    turn_secret: SecretStr = Field(SecretStr(""), description="shared with them (coturn: static-auth-secret)")
    turn_ttl_s: int = Field(3600, ge=60, le=86_400, description="how long minted TURN credentials are good")

    @field_validator("stun_urls", "turn_urls", mode="before")
    @classmethod
    def _urls_are_words(cls, value: Any) -> Any:
        return words(value)

    def check_webrtc(self) -> None:
        """`ValueError` in words for the operator."""
        check_urls(self.stun_urls, ("stun", "stuns"), "stun_urls")
        check_urls(self.turn_urls, ("turn", "turns"), "turn_urls")
        if bool(self.turn_urls) != bool(self.turn_secret.get_secret_value()):
            raise ValueError(
                "turn_urls and turn_secret go together: the secret is the TURN server's own "
                "(coturn: use-auth-secret, static-auth-secret), credentials are minted with it for each call"
            )
        told = self.webrtc_public_host or self.webrtc_host
        try:
            usable = not ipaddress.ip_address(told).is_unspecified
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                f"webrtc_public_host = {self.webrtc_public_host!r} with webrtc_host = {self.webrtc_host!r}: "
                "give the IP address that browsers reach this machine at"
            )
