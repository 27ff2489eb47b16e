"""Tiny models and configs, and what a run left behind, for tests of whole runs."""

import json
import os
import runpy
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict
from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from jopd.models import decoder, hf
from jopd.setup import inputs

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "steps": 2,
    "data.size": 40,
    "data.levels": (2,),
    "rollout.prompts_per_step": 2,
    "rollout.group_size": 2,
    "rollout.max_new_tokens": 20,
    "eval.prompts": 4,
    "eval.k": 2,
    "eval.batch_rows": 8,
    "eval.save_samples": 2,
    "objective.chunk_tokens": 64,
}

# Replay buffer, gold rows and the reference model. Rollouts end soon, so that a row is
# wide only where a gold solution is of the higher level.
EVERYTHING = {
    "data__levels": (2, 2, 2, 7),
    "rollout__stop_ids": (2, 3, 4, 5, 6, 7),
    "mix__student": 0.5,
    "mix__gold": 0.25,
    "mix__replay": 0.25,
    "checkpoint__every_steps": 2,
    "rollout__max_new_tokens": 64,
    "log__check_sampler_every_steps": 5,
    "log__samples_every_steps": 2,
    "eval__every_steps": 4,
}


def bundled_tokenizer():
    """That of the arithmetic task: a token a character."""
    return inputs.load_tokenizer(inputs.model_path("demo:student"))


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and a chat template: any text, without a file."""
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(kinds.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    found.chat_template = TEMPLATE
    return found


# A config of another regime over the task in digits.
DIGITS = {"data__path": "task:arithmetic"}
PEERS = DIGITS | {"teachers__self__context": "{question}{peer};{question}"}


def make_pair(folder: Path, **changes) -> None:
    """Tiny random models, ``student`` and ``teacher``."""
    make_model(folder / "student", seed=1, **changes)
    make_model(folder / "teacher", seed=2, layers=2, **changes)


def make_model(path: Path, *, seed: int = 0, tokenizer=None, **changes) -> Path:
    """A random model directory with the bundled task's tokenizer."""
    tokenizer = tokenizer or bundled_tokenizer()
    plain = {
        "vocab_size": len(tokenizer),
        "width": 16,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "ffn": 24,
        "max_positions": 128,
        "tied": True,
    }
    shape = decoder.DecoderConfig(**(plain | changes))
    params = decoder.init(shape, jax.random.key(seed))
    # Larger than an initialiser's, so that different models say different things.
    grow = lambda where, x: x if "norm" in jax.tree_util.keystr(where) else 8 * x
    params = jax.tree_util.tree_map_with_path(grow, params)
    hf.save(path, shape, params, tokenizer=tokenizer)
    return path


def config(models: Path, method: str = "opd", **overrides) -> ConfigDict:
    """A config file of the project over the tiny models; dots in keys as ``__``."""
    found = runpy.run_path(str(ROOT / "configs" / f"{method}.py"))["get_config"]()
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    if changes.get("data.path", found.data.path).startswith("task:words"):
        models = models / "words"
    small = {
        "student.path": str(models / "student"),
        "teacher.path": str(models / "teacher"),
    }
    found.update_from_flattened_dict(SMALL | small | changes)
    return found.lock()


def flags(models: Path, **overrides) -> list[str]:
    """The same overrides as words of a command line."""
    small = {
        "student.path": models / "student",
        "teacher.path": models / "teacher",
    }
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return [
        f"--config.{key}={value}" for key, value in (SMALL | small | changes).items()
    ]


def command(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"jopd.{module}", *words]


def environment(cache: Path) -> dict[str, str]:
    """Of a child process: the same devices and compiler flags, a cache to share."""
    return os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }


def begins_with_digit(response: str, answer: str) -> float:
    """A verifier that random models satisfy now and then."""
    assert answer.isdecimal()
    return float(response[:1].isdecimal())


def is_even(response: str, answer: str) -> float:
    """A verifier that half of what random models write satisfies."""
    assert answer.isdecimal()
    return float(len(response) % 2 == 0)


def rows(path: Path) -> list[dict]:
    """Whole lines of a ``.jsonl`` that may be being written."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def updates(directory: Path) -> list[dict]:
    """Lines of ``metrics.jsonl`` that are of updates, not of the evaluation before."""
    return [row for row in rows(directory / "metrics.jsonl") if row["step"]]


def plain(row: dict) -> dict:
    """A line of ``metrics.jsonl`` without the clock, and without what an end adds."""
    apart = ("speed/", "eval/")
    return {key: value for key, value in row.items() if not key.startswith(apart)}


def same_weights(one: Path, two: Path) -> bool:
    files = [load_file(path / "export" / "model.safetensors") for path in (one, two)]
    assert files[0].keys() == files[1].keys()
    return all(
        files[0][name].tobytes() == files[1][name].tobytes() for name in files[0]
    )
