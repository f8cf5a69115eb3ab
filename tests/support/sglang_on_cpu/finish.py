"""The last step of `make setup-sglang`: run by the Python of the environment that SGLang was installed into.

Puts this folder, with the stand-in for `sgl_kernel`, on the path of that environment, and declares two operators of
torchvision: its wheel links CUDA, so beside a CPU build of torch they never register, and its import fails.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = "# declared for torch without CUDA: tests/support/sglang_on_cpu/finish.py\n"
DECLARATIONS = f"""{MARK}if not torchvision.extension._has_ops():
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


"""
BEFORE = "@functools.lru_cache(None)\ndef get_meta_lib"


def main() -> None:
    """Twice is the same as once."""
    packages = Path(sysconfig.get_paths()["purelib"])
    (packages / "sglang_on_cpu.pth").write_text(f"{HERE}\n")
    operators = packages / "torchvision" / "_meta_registrations.py"
    text = operators.read_text()
    if MARK not in text:
        if text.count(BEFORE) != 1:
            raise SystemExit(
                f"{operators}: expected the torchvision of requirements.txt; pip install it again"
            )
        operators.write_text(text.replace(BEFORE, DECLARATIONS + BEFORE))


if __name__ == "__main__":
    main()
