"""What the start-up table shows of an experiment."""

from jopd.batches import packing
from jopd.data import templates
from jopd.models import decoder
from jopd.setup import memory
from jopd.setup.experiment import Experiment
from jopd.teachers import secrecy


def summary_rows(e: Experiment) -> list[tuple[str, str]]:
    """(what, how it is) of models, data, devices, terms and programs."""
    c = e.config
    rows = [("student", f"{_describe(e.base or e.params, e.models['student'].config)}")]
    rows += [("adapter", _adapter(e))] * bool(e.base)
    for name, teacher in e.teachers.items():
        if teacher.weights == "stored":
            of = e.stored[name].settings["teacher"] if name in e.stored else "a teacher"
            rows.append((name, f"what {of} said once, in {teacher.path}"))
            continue
        if name in e.served:
            how = f"{teacher.model} at {secrecy.hidden(teacher.url)}, asked by "
            how += e.served[name].form
            if teacher.top_k:
                how += f" of the {teacher.support}'s {teacher.top_k} likeliest tokens"
            about = ", own context" if teacher.context else ""
            rows.append((name, how + about + _share(e, name)))
            continue
        params = e.frozen.get(name, e.base or e.params)
        about = f"{_describe(params, e.models[name].config)}"
        if teacher.weights != "path":
            about += f", weights: {teacher.weights} student"
        about += ", own context" if teacher.context else ""
        about += ", own tokenizer" if name in e.of_own_tokens else ""
        rows.append((name, about + _share(e, name)))
    for combined in e.panels:
        shares = combined.shares
        parts = " + ".join(f"{share:g} {name}" for name, share in shares.items())
        if combined.kind == "guided":
            parts = f"{combined.members[0]} + s ({' '.join(combined.plus)}"
            parts += f" - {' '.join(combined.minus)})"
        rows.append(
            (combined.name, f"{combined.kind} of {parts}{_share(e, combined.name)}")
        )
    solutions = sum(solution is not None for solution in e.rows.train.solutions)
    unread = [("not read", f"columns {', '.join(e.rows.unread)}")]
    day = templates.day_of(e.config.data.date)
    date = [("date", f"{day}, which the chat template prints (data.date)")]
    token = e.rows.tokenizer.convert_ids_to_tokens
    ends = [f"{token(index) or 'no token'} ({index})" for index in e.stop_ids]
    ends += map(repr, e.rows.stop_strings)
    return [
        *rows,
        ("vocabulary", f"{e.shape.vocabulary:,}"),
        (
            "data",
            f"{len(e.rows.train.prompts):,} prompts ({solutions:,} with solutions), "
            f"{len(e.rows.held.prompts):,} held out",
        ),
        *unread * bool(e.rows.unread),
        *date * e.rows.train.dated,
        *[("rows", "; ".join(e.rows.said))] * bool(e.rows.said),
        ("ends at", ", ".join(ends) or "nothing"),
        (
            "devices",
            f"{e.mesh.devices.size} x {e.mesh.devices.flat[0].device_kind}, mesh "
            + " ".join(f"{k}={v}" for k, v in e.mesh.shape.items())
            + f", rollouts under {e.generator}",
        ),
        ("memory", memory.line(e.memory)),
        (
            "update",
            f"{e.mix.fresh} rollouts + {e.mix.replayed} replayed + {e.mix.gold} gold "
            "rows",
        ),
        *[("steps", f"{c.steps:,}, of epochs={c.epochs:g}")] * bool(c.epochs),
        ("terms", ", ".join(term.name for term in e.terms)),
        (
            "compiles",
            f"generate (sampled{', greedy' if e.rows.verifier else ''}) x "
            f"{len(e.widths.prompts)} prompt widths; {_row_shapes(e)}",
        ),
    ]


def _row_shapes(e: Experiment) -> str:
    """How many programs the rows of updates may ask for."""
    if not e.config.objective.packing:
        return f"score, prepare, update x {len(e.widths.rows)} row widths"
    student = packing.shapes(len(e.widths.rows))
    others = packing.shapes(1) ** len(e.rows.own_prompts)
    if e.rows.peers:  # who read rollouts have one width and one number of bins
        others *= packing.shapes(1) * len(e.rows.peers.widths)
    if others == 1:
        return f"score, prepare, update x at most {student} packings"
    return (
        f"score, prepare x at most {student * others} packings (few occur), update x "
        f"at most {student}"
    )


def _share(e: Experiment, name: str) -> str:
    served = e.rows.served.get(name)
    if served is None:
        return ""
    return f", serves {served.sum():,} of {len(served):,} prompts"


def _adapter(e: Experiment) -> str:
    shape = e.models["student"].config
    begun = e.config.student.adapter
    return (
        f"{decoder.count(e.params):,} parameters, the trained ones: rank "
        f"{shape.lora_rank} on {', '.join(shape.lora_targets)}"
        f"{f', begun as {begun}' * bool(begun)}"
    )


def _describe(params, shape: decoder.DecoderConfig) -> str:
    eight = ", matrices int8" if shape.int8 else ""
    size = f"{decoder.count(params):,} parameters"
    return f"{size}, {shape.layers} layers x {shape.width}, {shape.dtype}{eight}"
