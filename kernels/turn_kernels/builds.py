"""Kernels compiled ahead of time: to machine code of a GPU that is not here, without a driver.

A compile error, an instruction that an architecture does not have, or a lost branch is found where kernels are
written and not where they first run. ptxas comes with triton.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_source

ARCHITECTURES = {"sm_90a": 90, "sm_100a": 100}
"""Hopper and Blackwell, by the name that ptxas has for them."""
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True)
class Build:
    """One specialisation of a kernel: a type for each argument, a value for each constant."""

    name: str
    kernel: Any
    arguments: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    instructions: tuple[str, ...] = field(default=())
    """What its PTX must have."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of a build."""

    ptx: str
    cubin: bytes
    shared_bytes: int


def compile_ahead(build: Build, architecture: str) -> Compiled:
    """Compile for one of `ARCHITECTURES`; pointers count as aligned to 16 bytes."""
    names = list(build.kernel.arg_names)
    types = {**build.arguments, **dict.fromkeys(build.constants, "constexpr")}
    if set(names) != set(types):
        raise ValueError(f"{build.name}: its arguments are {names}, its build has {sorted(types)}")
    aligned = {(i,): _ALIGNED for i, name in enumerate(names) if types[name].startswith("*")}
    source = ASTSource(
        fn=build.kernel,
        signature={name: types[name] for name in names},
        constexprs=build.constants,
        attrs=aligned,
    )
    target = GPUTarget("cuda", ARCHITECTURES[architecture], 32)
    compiled = compile_source(source, target=target, options={"num_warps": build.warps})
    return Compiled(compiled.asm["ptx"], compiled.asm["cubin"], compiled.metadata.shared)
