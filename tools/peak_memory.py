r"""Peak resident memory of whole runs, by chunk size and response length.

    python tools/make_random_model.py out/student --layers=2 --width=128 \
        --vocab-size=151936 --tokenizer=QWEN3
    python tools/make_random_model.py out/teacher --layers=4 --width=256 \
        --vocab-size=151936 --tokenizer=QWEN3
    python tools/peak_memory.py --student=out/student --teacher=out/teacher \
        --data=gsm8k/train.jsonl

Each line is a process of its own: two updates of StableOPD, measured from outside of
it. What the logits of one update would take if they were whole, for both models, is
printed beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--prompts", type=int, default=4)
    return parser.parse_args()


def command(args, chunk: int, tokens: int, workdir: str) -> list[str]:
    keys = {
        "student.path": args.student,
        "teacher.path": args.teacher,
        "data.path": args.data,
        "data.size": 200,
        "data.answer_after": "####",
        "data.max_prompt_tokens": 256,
        "data.on_long_prompt": "drop",
        "data.eval_rows": 4,
        "rollout.prompts_per_step": args.prompts,
        "rollout.group_size": 4,
        "rollout.max_new_tokens": tokens,
        "rollout.prompt_buckets": "(256,)",
        "objective.chunk_tokens": chunk,
        "eval.prompts": 4,
        "eval.k": 1,
        "eval.verifier": "none",
        "steps": 2,
        "checkpoint.every_steps": 0,
        "export.enabled": False,
        "compilation_cache": False,
    }
    config = ROOT / "configs" / "stableopd.py"
    return [
        sys.executable,
        "-m",
        "jopd.main",
        f"--config={config}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
    ]


def measure(words: list[str], log: Path) -> float:
    """Runs a command to its end; its peak resident memory in GiB."""
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run failed:\n{log.read_text()[-3000:]}")
    return usage.ru_maxrss / 2**20


def main() -> None:
    args = parse_arguments()
    columns = json.loads(Path(args.student, "config.json").read_text())["vocab_size"]
    print("| chunk_tokens | max_new_tokens | peak GiB | whole logits GiB |")
    print("|---|---|---|---|")
    for chunk in args.chunks:
        for tokens in args.tokens:
            with tempfile.TemporaryDirectory() as scratch:
                words = command(args, chunk, tokens, f"{scratch}/run")
                peak = measure(words, Path(scratch, "log"))
            rows = args.prompts * 5
            whole = 2 * rows * (256 + tokens) * columns * 4 / 2**30
            print(f"| {chunk} | {tokens} | {peak:.2f} | {whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
