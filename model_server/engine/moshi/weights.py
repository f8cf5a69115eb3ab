"""A model's files, what they take of a machine's memory, and what is to be done where something is missing.

Nothing is downloaded here: 15 GB in the middle of a start would be a start that hangs. Nothing here needs torch or
the package: `microturn doctor` and `microturn up` look before anything is started.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("torch", "moshi", "sentencepiece", "safetensors", "huggingface_hub", "einops")
INSTALL = (
    "it has an environment of its own: make setup-moshi, then .venv-moshi/bin/microturn (or, in a new one, "
    "pip install 'microturn[moshi]')"
)
KNOWN = (
    "kyutai/moshiko-pytorch-bf16 (male voice) or kyutai/moshika-pytorch-bf16 (female), 16 GB, CC-BY 4.0; "
    "nvidia/personaplex-7b-v1, 17 GB, NVIDIA Open Model License, to be accepted there"
)
MEMORY = "a GPU with 24 GB holds the weights (16 GB) and 3 calls, one with 80 GB 36: 1.6 GB a call"
LM_NAME, MIMI_NAME = "model.safetensors", "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER_NAME = "tokenizer_spm_32k_3.model"
NOT_OF_LM = (
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type", "lm_gen_config",
    "tts_config", "stt_config", "model_id", "version", "silence_tokens", "tone_tokens",
)  # fmt: skip
MOSHI_7B: Mapping[str, Any] = {
    "dim": 4096, "text_card": 32_000, "existing_text_padding_id": 3, "n_q": 16, "dep_q": 8, "card": 2048,
    "num_heads": 32, "num_layers": 32, "hidden_scale": 4.125, "causal": True, "layer_scale": None,
    "context": 3000, "max_period": 10_000, "gating": "silu", "norm": "rms_norm_f32",
    "positional_embedding": "rope", "depformer_dim": 1024, "depformer_dim_feedforward": 4224,
    "depformer_num_heads": 16, "depformer_num_layers": 6, "depformer_layer_scale": None,
    "depformer_multi_linear": True, "depformer_context": 8, "depformer_max_period": 10_000,
    "depformer_gating": "silu", "depformer_pos_emb": "none", "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}  # fmt: skip
"""Of folders whose config.json does not say it; as the package has it."""
MIMI_LAYERS, MIMI_WIDTH, MIMI_CONTEXT = 8, 512, 250
"""Of the codec, unless the folder says otherwise; each way."""
PERSONAPLEX = "personaplex"
SILENCE = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
TONE = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
"""Codes of the published codec for a frame of nothing and one of 440 Hz, as NVIDIA's prompts have them."""
MOST_CALLS = 64
"""Unless more are asked for: a step takes longer with every row, used or not."""
SPARE_SHARE = 0.08
"""Of a device's memory, for what a step needs beside weights and rings."""
MOST_HEADER_BYTES = 100_000_000
CONVOLUTIONS_BYTES = 1 << 20
"""What the codec's convolutions keep of a call, and room."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one model, on this machine's disk."""

    folder: Path
    kind: str
    """`moshi` or `personaplex`."""
    lm: Path
    mimi: Path
    tokenizer: Path
    lm_config: dict[str, Any]
    mimi_config: dict[str, Any] | None
    """None is the package's own."""
    generation: dict[str, Any]
    """How tokens are chosen, for the package's `LMGen`."""
    voices: Path | None = None
    """Folder of voice prompts (PersonaPlex)."""
    silence: tuple[int, ...] = SILENCE
    tone: tuple[int, ...] = TONE

    def bytes_of_both(self, element_bytes: int) -> int:
        """Of the networks in memory: the language model in these numbers, the codec as it lies on disk."""
        return _elements(self.lm) * element_bytes + self.mimi.stat().st_size

    @property
    def context(self) -> int:
        """Frames of 80 ms that the language model looks back."""
        return int(self.lm_config["context"])

    def bytes_a_call(self, element_bytes: int) -> int:
        """What a call's rings take: keys and values of every layer and position; language model and codec."""
        lm = self.lm_config
        width = lm["dim"] // lm.get("kv_repeat", 1)
        rings = 2 * int(lm["num_layers"]) * self.context * int(width) * element_bytes
        mimi = (self.mimi_config or {}).get("transformer", {})
        layers, context = mimi.get("num_layers", MIMI_LAYERS), mimi.get("context", MIMI_CONTEXT)
        codec = 2 * 2 * layers * context * mimi.get("d_model", MIMI_WIDTH) * 4
        return int(rings + codec + CONVOLUTIONS_BYTES)


def _elements(file: Path) -> int:
    """Numbers in a safetensors file, by its header; of another one, as if they were bfloat16."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if file.suffix == ".safetensors" and 0 < length < MOST_HEADER_BYTES:
            header = json.loads(opened.read(length))
            tensors = (told for name, told in header.items() if name != "__metadata__")
            return sum(math.prod(told["shape"]) for told in tensors)
    return file.stat().st_size // 2


def find(path_or_repo: str) -> Weights:
    """The files of a folder, or of a repository that was downloaded before; `ValueError` says what is missing."""
    if not path_or_repo:
        raise ValueError(
            f"engine = 'moshi': no weights; give --weights FOLDER, or --weights REPOSITORY after "
            f"`hf download REPOSITORY`. There are: {KNOWN}. Memory: {MEMORY}"
        )
    folder = Path(path_or_repo).expanduser()
    if not folder.is_dir():
        folder = _downloaded(path_or_repo)
    return _read(folder)


def missing_packages() -> list[str]:
    """That the engine needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def check_packages() -> None:
    """`ValueError` says what is not installed and what to do."""
    if missing := missing_packages():
        raise ValueError(
            f"engine = 'moshi': {' and '.join(missing)} not installed; {INSTALL}, or take --engine echo"
        )


def _downloaded(repo: str) -> Path:
    looks_like_one = repo.count("/") == 1 and not repo.startswith((".", "/", "~"))
    if not looks_like_one:
        raise ValueError(
            f"weights = {repo!r}: no such folder; expected one, or a repository such as: {KNOWN}"
        )
    check_packages()
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except (OSError, ValueError):
        raise ValueError(
            f"weights = {repo!r}: neither a folder nor downloaded yet; `hf download {repo}` first. There are: "
            f"{KNOWN}. Memory: {MEMORY}"
        ) from None


def _read(folder: Path) -> Weights:
    config_file = folder / "config.json"
    config: dict[str, Any] = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text())
        except ValueError as wrong:
            raise ValueError(f"weights: {config_file}: {wrong}; download it again") from None
    voices = folder / "voices"
    has_voices = voices.is_dir() or (folder / "voices.tgz").is_file()
    kind = str(config.get("model_type", PERSONAPLEX if has_voices else "moshi"))
    if kind not in ("moshi", PERSONAPLEX):
        raise ValueError(f"weights: {config_file}: model_type = {kind!r}; expected moshi or {PERSONAPLEX}")
    if config.get("lora_name"):
        raise ValueError(f"weights: {config_file}: lora_name; expected weights into which it is merged")
    if config.get("conditioners"):
        raise ValueError(f"weights: {config_file}: conditioners; expected a dialogue model without")
    told = {name: value for name, value in config.items() if name not in NOT_OF_LM}
    lm_config = told if "dim" in told else {**MOSHI_7B, **told}
    files = {
        what: folder / str(config.get(key, usual))
        for what, key, usual in (
            ("language model", "moshi_name", LM_NAME),
            ("codec", "mimi_name", MIMI_NAME),
            ("tokenizer", "tokenizer_name", TOKENIZER_NAME),
        )
    }
    if absent := [f"{file.name} ({what})" for what, file in files.items() if not file.is_file()]:
        raise ValueError(
            f"weights: {folder}: no {', no '.join(absent)}; download the whole repository, of: {KNOWN}"
        )
    mimi_name = config.get("mimi_config_name")
    return Weights(
        folder, kind, files["language model"], files["codec"], files["tokenizer"], lm_config,
        json.loads((folder / mimi_name).read_text()) if mimi_name else None,
        dict(config.get("lm_gen_config", {})), voices if voices.is_dir() else None,
        tuple(config.get("silence_tokens", SILENCE)), tuple(config.get("tone_tokens", TONE)),
    )  # fmt: skip


# -- what fits


@dataclass(frozen=True, slots=True)
class Device:
    """Where the model would run."""

    name: str
    memory_bytes: int
    """In all."""
    free_bytes: int
    is_gpu: bool


def device() -> Device:
    """The first GPU that the driver's own tool tells of, else this machine's memory."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        asked = subprocess.run(
            [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        lines = asked.stdout.strip().splitlines()
        if asked.returncode == 0 and lines:
            name, total, free = (part.strip() for part in lines[0].split(","))
            return Device(name, int(total) << 20, int(free) << 20, True)
    page = os.sysconf("SC_PAGE_SIZE")
    return Device(
        "no GPU", os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page, is_gpu=False
    )


def fitting(weights: Weights, where: Device, element_bytes: int) -> int:
    """Calls that this device has memory for; 0 where it does not even hold the model."""
    left = where.free_bytes - SPARE_SHARE * where.memory_bytes - weights.bytes_of_both(element_bytes)
    return max(0, int(left // weights.bytes_a_call(element_bytes)))


def most_calls(weights: Weights, where: Device, products: str) -> int:
    """Calls of a start that does not say how many; 1 where not even that fits, and `check_fits` says so."""
    return min(MOST_CALLS, max(1, fitting(weights, where, element_bytes(products, where.is_gpu))))


def element_bytes(products: str, on_gpu: bool) -> int:
    """Of a number, as in `ModelServerConfig.products`: auto is bfloat16 on a GPU, float32 on a CPU."""
    return 2 if products == "bfloat16" or (products == "auto" and on_gpu) else 4


def check_fits(weights: Weights, where: Device, element_bytes: int, slots: int) -> None:
    """`ValueError` where so many calls do not fit, with what would."""
    fits = fitting(weights, where, element_bytes)
    if slots > fits:
        each = weights.bytes_a_call(element_bytes)
        both = _gb(weights.bytes_of_both(element_bytes))
        raise ValueError(
            f"slots = {slots}: the weights take {both} and each call {_gb(each)}; {where.name}: "
            f"{_gb(where.free_bytes)} free; expected "
            + (f"at most {fits}: start it with --slots {fits}" if fits else "a device with more memory")
        )


def told(weights: Weights, where: Device, element_bytes: int) -> str:
    """For people: what it takes, and what there is."""
    each = weights.bytes_a_call(element_bytes)
    seconds = weights.context * 80 // 1000
    both = _gb(weights.bytes_of_both(element_bytes))
    return (
        f"{weights.kind}, weights {both}, {_gb(each)} a call for the newest {seconds} s; "
        f"{where.name}, {_gb(where.free_bytes)} of {_gb(where.memory_bytes)} free"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
