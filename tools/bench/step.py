"""Seconds per update of a whole on-policy distillation run, of random models.

    python tools/bench/step.py --batch=16 --prompt=32 --new=64 --vocab=8192

The run is ``jopd.main``'s own: sampling, scoring by the teacher, exact reverse KL,
AdamW with its gradient clipped, metrics written. Prompts are ``--prompt`` tokens each
and all different; no row ends early unless ``--stop-share`` is given. The last line
printed is JSON; ``tools/bench/race.py`` compares it with others. Its ``limit_seconds``
is the least time that products and necessary bytes take on this machine
(``tools/bench/machine.py``), everything else for nothing.
"""

import argparse
import json
import platform
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np

TOOLS = Path(__file__).resolve().parents[1]
STUDENT, TEACHER = "4,128,4,2,32,384", "8,256,4,2,64,768"
LETTERS = string.ascii_letters + string.digits


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=8192)
    shape = "layers,width,heads,kv_heads,head_dim,ffn"
    parser.add_argument("--student", default=STUDENT, help=shape)
    parser.add_argument("--teacher", default=TEACHER, help=shape)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2, help="steps not counted")
    parser.add_argument(
        "--stop-share",
        type=float,
        default=0.0,
        help="of the vocabulary that ends a row: mixed lengths, 1 / share on average",
    )
    parser.add_argument("--chunk", type=int, default=0, help="objective.chunk_tokens")
    parser.add_argument("--signal", default="reverse_kl")
    parser.add_argument("--int8", action="store_true", help="teacher.quantize")
    parser.add_argument("--facts", action="store_true", help="log.token_facts as well")
    parser.add_argument("--remat", action="store_true", help="student.remat")
    parser.add_argument(
        "--parts", action="store_true", help="scoring and update apart, each waited for"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_tokenizer(folder: Path, vocabulary: int) -> None:
    """One letter is one token; the rest of the vocabulary is only ever drawn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *LETTERS]
    words += [f"<{number}>" for number in range(len(words), vocabulary)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)


def make_model(folder: Path, shape: str, args, seed: int) -> int:
    """A tied Qwen3 with N(0, 0.02) weights; returns its number of parameters."""
    words = [sys.executable, str(TOOLS / "make_random_model.py"), str(folder)]
    flags = ("layers", "width", "heads", "kv-heads", "head-dim", "ffn")
    words += [f"--{key}={n}" for key, n in zip(flags, shape.split(","), strict=True)]
    words += [f"--vocab-size={args.vocab}", f"--seed={seed}"]
    words += [f"--tokenizer={folder.parent / 'tokenizer'}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["parameters"]


def make_data(file: Path, args) -> None:
    rng = np.random.default_rng(args.seed)
    rows = args.batch * (args.steps + args.warmup) + 8
    with file.open("w") as out:
        for _ in range(rows):
            prompt = "".join(rng.choice(list(LETTERS), args.prompt))
            out.write(json.dumps({"prompt": prompt}) + "\n")


def make_config(args, folder: Path):
    from jopd.setup.config import base_config

    c = base_config()
    c.name, c.steps = "bench", args.steps + args.warmup
    c.student.path, c.teacher.path = str(folder / "student"), str(folder / "teacher")
    c.student.remat = args.remat
    c.teacher.quantize = "int8" if args.int8 else ""
    c.data.path, c.data.eval_rows = str(folder / "data.jsonl"), 8
    c.data.max_prompt_tokens = args.prompt
    c.rollout.prompts_per_step, c.rollout.group_size = args.batch, 1
    c.rollout.max_new_tokens, c.rollout.ignore_eos = args.new, True
    # The last ids end a row: with random weights they come up evenly.
    stops = round(args.stop_share * args.vocab)
    c.rollout.stop_ids = tuple(range(args.vocab - stops, args.vocab))
    c.loss.opd = dict(signal=args.signal)
    if args.chunk:
        c.objective.chunk_tokens = args.chunk
    c.optimizer.learning_rate, c.optimizer.schedule = 1e-4, "constant"
    c.optimizer.warmup = 0
    c.eval.prompts, c.eval.k, c.eval.verifier = 4, 1, "none"
    c.checkpoint.every_steps, c.export.enabled = 0, False
    c.log.token_facts = args.facts
    c.log.check_sampler_every_steps = c.log.samples_every_steps = 0
    c.compilation_cache = False
    return c


def limits(args, lengths: float, rates: machine.Rates) -> tuple[float, float]:
    """Least seconds to sample rows of ``lengths`` new tokens, and for all the rest."""
    student, teacher = (
        machine.Sizes(*map(int, shape.split(",")), args.vocab)
        for shape in (args.student, args.teacher)
    )
    new, length = args.batch * lengths, args.prompt + lengths
    read = machine.read(student, args.batch * args.prompt, args.prompt, 0)
    sample = rates.limit(read, 0) + machine.decode(
        student, rates, args.prompt, np.full(args.batch, round(lengths))
    )
    passes = 3 + args.remat  # forward, twice as much backward, forward again
    flops = passes * machine.read(student, args.batch * length, length, 0)
    flops += 3 * machine.read(student, 0, 0, new)
    flops += machine.read(teacher, args.batch * length, length, new)
    # The student's weights are read twice and their gradient written; AdamW reads four
    # arrays as large and writes three.
    moved = 4 * (sum(teacher.weights()) + 10 * sum(student.weights()))
    return sample, rates.limit(flops, moved)


def score_limit(args, lengths: float, rates: machine.Rates) -> float:
    """Least seconds of the teacher's pass over the rows, its head apart: that belongs
    to the update, where its logits are compared."""
    teacher = machine.Sizes(*map(int, args.teacher.split(",")), args.vocab)
    length = args.prompt + lengths
    flops = machine.read(teacher, args.batch * length, length, 0)
    return rates.limit(flops, 4 * teacher.weights()[0])


def time_parts() -> dict[str, list[float]]:
    """Seconds of every scoring and update from now on; filled as the run goes."""
    import jax

    from jopd.training import state

    seconds, build = {"score_seconds": [], "update_seconds": []}, state.build_stages

    def timed(stage, name: str):
        def call(*arguments):
            began = time.perf_counter()
            found = jax.block_until_ready(stage(*arguments))
            seconds[name].append(time.perf_counter() - began)
            return found

        return call

    def build_timed(*arguments):
        stages = build(*arguments)
        return stages._replace(
            prepare=timed(stages.prepare, "score_seconds"),
            update=timed(stages.update, "update_seconds"),
        )

    state.build_stages = build_timed
    return seconds


def main() -> None:
    args = parse_arguments()
    began = time.perf_counter()
    from jopd.training import control, workdir
    from jopd.training import loop as train

    imported = time.perf_counter() - began
    parts = time_parts() if args.parts else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_tokenizer(folder / "tokenizer", args.vocab)
        sizes = {
            "student": make_model(
                folder / "student", args.student, args, args.seed + 1
            ),
            "teacher": make_model(
                folder / "teacher", args.teacher, args, args.seed + 2
            ),
        }
        make_data(folder / "data.jsonl", args)
        with control.CompileCounter() as compiled:
            summary = train.run(make_config(args, folder), folder / "run")
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]][args.warmup :]  # [0]: step 0
    middle = lambda key: statistics.median(row[key] for row in rows)
    seconds, collect = middle("speed/seconds_step"), middle("speed/seconds_collect")
    tokens = middle("length/mean") * args.batch
    rates = machine.rates()
    sampling, training = limits(args, middle("length/mean"), rates)
    scoring = score_limit(args, middle("length/mean"), rates)
    found = {
        "peer": "jopd",
        **vars(args),
        **{f"{name}_params": size for name, size in sizes.items()},
        "seconds_per_step": round(seconds, 4),
        "new_tokens_per_step": tokens,
        "generate_seconds": round(collect, 4),
        "train_seconds": round(seconds - collect, 4),
        **{
            name: round(statistics.median(times[args.warmup :]), 4)
            for name, times in parts.items()
        },
        "tokens_per_second": round(tokens / seconds, 1),
        "generate_tokens_per_second": round(tokens / collect, 1),
        "gflops_of_a_product": round(rates.product / 1e9, 1),
        "gbytes_of_a_copy": round(rates.copy / 1e9, 1),
        "limit_seconds": round(sampling + training, 4),
        "limit_generate_seconds": round(sampling, 4),
        "limit_train_seconds": round(training, 4),
        "limit_score_seconds": round(scoring, 4),
        "share_of_limit": round((sampling + training) / seconds, 3),
        "share_of_generate_limit": round(sampling / collect, 3),
        "share_of_train_limit": round(training / (seconds - collect), 3),
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "import_seconds": round(imported, 2),
        "seconds_to_first_step": summary["seconds_to_first_step"],
        "compilations": summary["compilations"],
        "compile_seconds": round(compiled.seconds, 2),
        "loss_first": json.loads(lines[0])["loss"],
        "loss_last": rows[-1]["loss"],
        "python": platform.python_version(),
        "versions": workdir.versions(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
