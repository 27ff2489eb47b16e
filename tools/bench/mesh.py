"""What scoring and an update ask of each device of a mesh, and what they send.

    python tools/bench/mesh.py --fsdp=64 --student=8b --teacher=32b

Compiles ``prepare`` and ``update`` for as many devices as the mesh has, from shapes
alone: no weight exists, any machine will do. The devices are forced ones of the CPU,
whose compiler makes products of bfloat16 in float32: what is sent of them counts twice
of what an accelerator sends.
"""

import argparse
import os
import sys
import time

SIZES = {  # Qwen3's
    "1.7b": (2048, 28, 16, 8, 128, 6144),
    "8b": (4096, 36, 32, 8, 128, 12288),
    "32b": (5120, 64, 64, 8, 128, 25600),
    "tiny": (64, 4, 4, 2, 16, 96),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", choices=SIZES, default="8b")
    parser.add_argument("--teacher", choices=SIZES, default="32b")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--data", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4096, help="of each row")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--topology", help="of a TPU, v5e:4x4; wants libtpu")
    parser.add_argument("--no-remat", action="store_true")
    parser.add_argument(
        "--stage", choices=("prepare", "update", "both", "generate"), default="both"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    count = args.data * args.fsdp * args.tensor
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "")
    )
    import abstract
    import collectives

    for name, lowered in abstract.stages(args, SIZES):
        start = time.monotonic()
        compiled = lowered().compile()
        memory = compiled.memory_analysis()
        held = memory.argument_size_in_bytes / 2**30
        more = memory.temp_size_in_bytes / 2**30
        print(
            f"\n{name}: {held:.2f} GiB of arguments and {more:.2f} GiB besides on each "
            f"device; compiled in {time.monotonic() - start:.0f} s\n"
        )
        print(collectives.totals(collectives.sent(compiled.as_text())) + "\n")
        print(collectives.table(collectives.sent(compiled.as_text())), flush=True)


if __name__ == "__main__":
    sys.exit(main())
