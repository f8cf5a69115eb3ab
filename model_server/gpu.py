"""What this process's GPUs have, for metrics. Where no engine computes on one, torch is not even asked."""

from __future__ import annotations

import sys


def figures() -> dict[str, int]:
    """Gauges, by name and number of the GPU; none as long as CUDA is not in use here. Some 10 us a GPU.

    A GPU that is lost (fell off the bus, or met an error after which CUDA answers nothing) has `gpu_up` 0 and no
    more: whoever asks for figures is answered, while the engine's next step ends the process.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    told: dict[str, int] = {}
    for number in range(torch.cuda.device_count()):
        told[f"gpu_up:{number}"] = 0
        try:
            free, total = torch.cuda.mem_get_info(number)
            reserved = torch.cuda.memory_reserved(number)
        except RuntimeError:  # CUDA's errors, torch.AcceleratorError among them
            continue
        told |= {
            f"gpu_up:{number}": 1,
            f"gpu_memory_used_bytes:{number}": int(total - free),
            f"gpu_memory_total_bytes:{number}": int(total),
            f"gpu_memory_reserved_bytes:{number}": int(reserved),
        }
    return told
