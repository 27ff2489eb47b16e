"""Where training moved a model's matrices: ``jopd geometry --before=A --after=B,C``.

Models are directories, hub ids, demo:NAME, or checkpoints of a run by their folders,
``runs/x/checkpoints/100``; a number alone is another checkpoint of the same run. For
every model after: the share of weights that bfloat16 does not see move, angles of
principal directions, shift of the spectrum, rank, tail and norm of the update, where
the changed weights lie, and how alike its subspace is to that of the last one
(arXiv:2606.07082, docs/methods/geometry.md). --json=FILE keeps them matrix by matrix.
"""

import contextlib
import re
from pathlib import Path

import jax
from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import geometry

    f = flags.FLAGS
    with commandline.one_error():
        file = commandline.json_file(f.json)
        names = [f.before, *named(f.after)]
        found = measured(names, f.matrices, rank=f.rank, share=f.share)
        whole = {name: geometry.together(found[name]) for name in found}
        print(geometry.table(whole))
        print(f"\nA random choice of weights has overlaps of {100 * f.share:g} %.")
        about = {"before": f.before, "matrices": f.matrices, "share": f.share}
        commandline.write_json(file, about | {"models": whole, "each": found})


def named(words: list[str]) -> list[str]:
    """The models meant; a number is a checkpoint of the run before it.

    Raises:
      ValueError: nothing, one model twice, or a number behind no checkpoint.
    """
    found: list[str] = []
    for word in words:
        if word.isdecimal():
            before = Path(found[-1]) if found else Path()
            if before.parent.name != "checkpoints":
                raise ValueError(
                    f"--after: {word} stands behind no checkpoint; write "
                    f"RUN/checkpoints/{word}"
                )
            word = str(before.parent / word)
        found.append(word)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"--after={','.join(words)} must name models, each once")
    return found


def measured(names: list[str], pattern: str, **how) -> dict[str, dict]:
    """name -> matrix -> measures, of all but the first, which is the one before.

    Of each model one stack of matrices is held at a time.

    Raises:
      ValueError: models of unlike shapes, or a pattern that no matrix has.
    """
    from jopd.models import hf
    from jopd.reporting import geometry

    found: dict[str, dict] = {name: {} for name in names[1:]}
    with contextlib.ExitStack() as opened:
        paths = [opened.enter_context(directory(name)) for name in names]
        first, *others = (parameters(path) for path in paths)
        if not any(counts(*item, pattern) for item in first.items()):
            known = " ".join(
                place[-1] for place, shape in first.items() if len(shape) > 2
            )
            raise ValueError(f"--matrices={pattern!r} is in no name; known: {known}")
        for name, other in zip(names[1:], others):
            if other != first:
                at = next(k for k in first | other if first.get(k) != other.get(k))
                raise ValueError(
                    f"{'/'.join(at)} is {other.get(at)} in {name} and {first.get(at)} "
                    f"in {names[0]}: matrices are compared one by one; name models of "
                    "one shape"
                )
        for leaves in zip(*(hf.leaves(path, "float32") for path in paths)):
            place, leaf = leaves[0]
            if not counts(place, leaf.shape, pattern):
                continue
            each = [leaf.reshape(-1, *leaf.shape[-2:]) for _, leaf in leaves]
            for number, (before, *after) in enumerate(zip(*each)):
                turned = [one.T for one in after]  # [out, in], as on file
                rows = geometry.of_matrix(before.T, turned, **how)
                for name, row in zip(found, rows):
                    found[name][f"{place[-1]} {number}"] = row
    return found


def parameters(path: str) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Place -> shape of its layers' parameters, from a model's config and headers."""
    from jopd.models import decoder, hf

    shape = hf.check(path)
    tree = jax.eval_shape(lambda: decoder.init(shape, jax.random.key(0)))
    flat = jax.tree_util.tree_leaves_with_path({"layers": tree["layers"]})
    return {tuple(key.key for key in at): leaf.shape for at, leaf in flat}


def counts(place: tuple[str, ...], shape: tuple[int, ...], pattern: str) -> bool:
    """Whether a stack of parameters is one of layers' matrices that are asked for."""
    matrices = place[0] == "layers" and len(shape) > 2
    return matrices and bool(re.search(pattern, place[-1]))


def directory(name: str):
    """The directory of a model while it is open; a checkpoint is written into one."""
    from jopd.setup import inputs
    from jopd.training import kept

    path = Path(name)
    if path.parent.name == "checkpoints":
        return kept.as_model(str(path.parents[1]), path.name)
    return kept.as_model(inputs.model_path(name), "")


if __name__ == "__main__":
    flags.DEFINE_string("before", None, f"Model before training: {commandline.MODEL}")
    flags.DEFINE_list("after", None, "Models after it, the last one trained longest.")
    what = "Pattern of the matrices that count; the paper's: ^[qkvo]$"
    flags.DEFINE_string("matrices", ".", what)
    what = "Directions of which principal weights are made."
    flags.DEFINE_integer("rank", 64, what, lower_bound=1)
    what = "Of weights that are low, and principal, ones."
    flags.DEFINE_float("share", 0.5, what, lower_bound=0, upper_bound=1)
    flags.DEFINE_string("json", "", "File for all that was found.")
    flags.mark_flags_as_required(["before", "after"])
    app.run(main, flags_parser=commandline.parse_flags)
