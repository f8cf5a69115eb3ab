"""What this process's GPUs have, for metrics. Where no engine computes on one, torch is not even asked."""

from __future__ import annotations

import sys


def figures() -> dict[str, int]:
    """Gauges, by name and number of the GPU; none as long as CUDA is not in use here. Some 10 us a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    told: dict[str, int] = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        told |= {
            f"gpu_memory_used_bytes:{number}": int(total - free),
            f"gpu_memory_total_bytes:{number}": int(total),
            f"gpu_memory_reserved_bytes:{number}": int(torch.cuda.memory_reserved(number)),
        }
    return told
