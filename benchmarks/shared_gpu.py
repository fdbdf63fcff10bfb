"""Runs a script whose processes share one GPU, and talk over gloo: NCCL would refuse.

torchrun --nproc_per_node 2 -m benchmarks.shared_gpu train.py …
"""

import runpy
import sys

from common import distributed


def main() -> None:
    """Give all processes the same device, and run the script."""
    distributed.local_device = lambda name: name
    distributed.BACKENDS["cuda"] = "gloo"
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
