"""What an operator may choose of where the state of calls is kept; `gateway.config.GatewaySettings` has it, too."""

from __future__ import annotations

import os
import re

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from gateway.state.address import Address
from gateway.state.address import parse as parse_address
from gateway.state.keys import check_namespace


class StateSettings(BaseSettings):
    """Of Redis: see `gateway/state/__init__.py`."""

    redis: str = Field(
        "auto",
        description="where the state of calls is kept: redis://HOST:PORT/DB, rediss://, unix:///PATH, "
        "sentinel://HOST:PORT,.../MASTER, cluster://HOST:PORT,...; off is nowhere; auto is a Valkey of our own "
        "in `microturn up`, and off elsewhere",
    )
    redis_user: str = Field("", description="user of its access list (ACL); empty is the default one")
    redis_password: SecretStr = Field(SecretStr(""), description="of that user")
    redis_tls_ca: str = Field("", description="PEM file: who signs its certificate; empty is the system's")
    redis_tls_cert: str = Field("", description="PEM file: our own certificate, where it asks for one")
    redis_tls_key: str = Field("", description="PEM file: that certificate's key, without password")
    redis_namespace: str = Field("microturn", description="what all keys begin with")
    redis_keep_s: int = Field(
        86_400, ge=60, le=31_622_400, description="the state of a call that is over stays for so long"
    )
    node: str = Field(
        "", description="name of this gateway among those that share a Redis; of host and run_dir when empty"
    )

    @property
    def state_address(self) -> Address | None:
        """Where the state of calls is kept; None for nowhere, or what `microturn up` has to choose."""
        return parse_address(self.redis) if self.redis not in ("auto", "off") else None

    def check_state(self) -> None:
        """`ValueError` in words for the operator."""
        address = self.state_address
        check_namespace(self.redis_namespace)
        if self.node and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.node):
            raise ValueError(f"node = {self.node!r}: expected 1 to 64 letters, digits and ._-")
        password = self.redis_password.get_secret_value()
        files = {name: getattr(self, name) for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key")}
        if address is None and (self.redis_user or password):
            raise ValueError(
                f"redis_user and redis_password are of no use with redis = {self.redis!r}: name the server"
            )
        if self.redis_user and not password:
            raise ValueError(
                f"redis_user = {self.redis_user!r} without redis_password: set MICROTURN_REDIS_PASSWORD"
            )
        for name, file in files.items():
            if file and (address is None or not address.tls):
                raise ValueError(
                    f"{name} is of no use with redis = {self.redis!r}: give rediss://, sentinels:// or clusters://"
                )
            if file and not os.access(file, os.R_OK):
                raise ValueError(f"{name} = {file!r} cannot be read: give the path of a PEM file")
        if bool(self.redis_tls_cert) != bool(self.redis_tls_key):
            raise ValueError(
                "redis_tls_cert and redis_tls_key go together: our own certificate and its key, or neither"
            )
