"""Settings of a model server: read and checked once, frozen. The environment is read nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from media.chunk import MAX_VIDEO_FRAMES
from media.slots import MAX_SLOTS, MAX_VIDEO_SIDE, MIN_VIDEO_SIDE
from model_server.engine.personas import tokens_of
from model_server.engine.registry import BUILT, PLANNED

ENV_PREFIX = "MICROTURN_MODEL_"
MAX_SOCKET_PATH = 107
"""sockaddr_un has 108 bytes, the last one 0."""
_RANGES = {
    "slots": (1, MAX_SLOTS),
    "rows": (2, 64),
    "video": (MAX_VIDEO_FRAMES, 64),
    "groups": (1, 10),
    "passes": (1, 16),
    "ranks": (1, 8),
}


def default_socket() -> Path:
    """`$XDG_RUNTIME_DIR/microturn/model.sock`, else `/tmp/microturn-$UID/model.sock`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "microturn" if runtime else Path(f"/tmp/microturn-{os.getuid()}")
    return base / "model.sock"


class ModelServerConfig(BaseSettings):
    """Each field can be set by `MICROTURN_MODEL_<FIELD>`; arguments win over the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    socket: Path = Field(default_factory=default_socket)
    """Control socket (unix, SOCK_SEQPACKET)."""
    slots: int = 256
    """Calls at once; one costs about 70 kB of shared memory when it is used, 1 MB with video. Of `moshi`, where
    nothing is said, as many as its device has memory for."""
    rows: int = 4
    """Turns that either side may be behind."""
    video: int = 4
    """Frames of video kept per slot."""
    video_size: str = "320x240"
    """Width x height of a video frame: workers scale to it. It decides the memory of a slot with video."""
    groups: int = 4
    """Phase groups of the turn clock. Of `moshi`, where nothing is said, 1: a step of it takes as long for one call
    as for all."""
    passes: int = 4
    """Passes of the network, one after another, that a turn may take: one for what comes in and for the sound that
    goes out, one more for each token. Fewer than 1 + the model's own `say_limit` cut what it may write."""
    ranks: int = 1
    """Processes that the model is cut over; a core or a GPU each. `digits` has 1 or 2."""
    sums: Literal["auto", "multimem", "one_shot", "two_shot", "nccl", "shared_memory", "gloo"] = "auto"
    """How ranks add; auto is the best that their hardware has."""
    device: str = "cpu"
    """Where the network of `digits` lies: cpu, cuda (the first GPU; of several ranks the first ones) or cuda:N. Not
    run on a GPU yet."""
    products: Literal["auto", "bfloat16", "float32"] = "auto"
    """What the matrices of `digits` are multiplied in; auto is what this CPU is fastest in; on a GPU,
    bfloat16."""
    trunk: Literal["auto", "own", "inkling"] = "auto"
    """Whose layers the model of `sglang` has: ours, on the CPU, or those of SGLang's own Inkling, on its GPU; auto
    is the latter where there is what it needs."""
    engine: str = "echo"
    persona: str = ""
    """Of calls that name none; empty is the engine's own. See `engine/personas.py`, `engine/moshi/prompts.py`."""
    checkpoint: Path | None = None
    """Of `digits` and `sglang`; None is the one that ships with the tree."""
    weights: str = ""
    """Of `moshi`: a folder, or a repository that was downloaded."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    """For people, or one JSON object a line."""
    realtime_priority: bool = False
    """Ask for SCHED_FIFO, or else nice -10."""

    @field_validator("socket")
    @classmethod
    def _socket_fits(cls, value: Path) -> Path:
        if len(os.fsencode(value)) > MAX_SOCKET_PATH:
            raise ValueError(f"a unix socket path of at most {MAX_SOCKET_PATH} bytes; choose a shorter one")
        return value

    @field_validator(*_RANGES)
    @classmethod
    def _in_range(cls, value: int, info: Any) -> int:
        low, high = _RANGES[info.field_name]
        if not low <= value <= high:
            raise ValueError(f"a number from {low} to {high}; set {ENV_PREFIX}{info.field_name.upper()}")
        return value

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, value: str) -> str:
        if re.fullmatch(r"cpu|cuda(:\d{1,2})?", value) is None:
            raise ValueError(f"cpu, cuda or cuda:N, N from 0; set {ENV_PREFIX}DEVICE or --device")
        return value

    @field_validator("video_size")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})", value)
        if sides is None or not all(MIN_VIDEO_SIDE <= int(side) <= MAX_VIDEO_SIDE for side in sides.groups()):
            raise ValueError(
                f"WIDTHxHEIGHT with sides from {MIN_VIDEO_SIDE} to {MAX_VIDEO_SIDE}; "
                f"set {ENV_PREFIX}VIDEO_SIZE or --video-size"
            )
        return value

    @property
    def video_pixels(self) -> tuple[int, int]:
        """Width and height of `video_size`."""
        width, _, height = self.video_size.partition("x")
        return int(width), int(height)

    @field_validator("persona")
    @classmethod
    def _is_a_persona(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("engine") != "moshi":  # which says itself what it takes
            tokens_of(value)
        return value

    @field_validator("engine")
    @classmethod
    def _is_built(cls, value: str) -> str:
        if value not in BUILT:
            not_yet = " (not built yet)" if value in PLANNED else ""
            raise ValueError(f"{' or '.join(BUILT)}{not_yet}; set {ENV_PREFIX}ENGINE or --engine")
        return value


def set_environment(**values: str) -> None:
    """For a library that is configured by the environment alone, and for the processes that it starts."""
    os.environ.update(values)


def load(**given: Any) -> ModelServerConfig:
    """Settings from the environment, with `given` over them.

    `ValueError` has one line for each wrong value: its name, the value, what is expected and what to do.
    """
    known = {ENV_PREFIX + name.upper() for name in ModelServerConfig.model_fields}
    ours = [key for key in os.environ if key.upper().startswith(ENV_PREFIX)]
    strangers = sorted(key for key in ours if key.upper() not in known)
    wrong = [f"{key}: no such setting; expected one of {', '.join(sorted(known))}" for key in strangers]
    try:
        config = ModelServerConfig(**given)
    except ValidationError as errors:
        wrong += [_line(error) for error in errors.errors()]
    if wrong:
        raise ValueError("\n".join(wrong))
    return _for_moshi(config) if config.engine == "moshi" else config


def _for_moshi(config: ModelServerConfig) -> ModelServerConfig:
    """With what an engine whose rows are made at its start, all in one step, needs where nothing else is said."""
    from model_server.engine.moshi import weights

    said = config.model_fields_set
    settled: dict[str, Any] = {} if "groups" in said else {"groups": 1}
    if "slots" not in said:
        weights.check_packages()
        settled["slots"] = weights.most_calls(weights.find(config.weights), weights.device(), config.products)
    return config.model_copy(update=settled)


def _line(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    told = str(error["msg"]).removeprefix("Value error, ")
    return f"{name} = {error['input']!r}: expected {told}"
