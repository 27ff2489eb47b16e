"""What works but is hardly meant: said once, before a run starts."""

from ml_collections import ConfigDict

from jopd.batches import collect
from jopd.setup import builders, keys, optimizer


def doubts(config: ConfigDict, mix: collect.Mix) -> list[str]:
    """A line for each, with the key and the remedy."""
    lines = short_warmup(config) + other_temperature(config)
    lines += rows_of_none(config, mix) + unused_teachers(config)
    return lines + unread_memories(config) + unread_facts(config)


def rows_of_none(config: ConfigDict, mix: collect.Mix) -> list[str]:
    """Shares of an update that are less than a row."""
    c = config.rollout
    rows = dict(student=mix.fresh, gold=mix.gold, replay=mix.replayed)
    whole = c.prompts_per_step * c.group_size
    least = (config.mix.student or 1) / whole
    return [
        f"mix.{name}={config.mix[name]} beside mix.student={config.mix.student} for "
        f"{whole} rollouts is 0 rows: terms get nothing of it; a row is {least:.3g}"
        for name, count in rows.items()
        if config.mix[name] and not count
    ]


def unused_teachers(config: ConfigDict) -> list[str]:
    """Teachers that nothing names, as a slip in a name makes them."""
    named: set[str] = set()
    sections = ("loss", "memory", "facts", "panels", "rollout", "probes")
    for key, value in keys.flatten(config).items():
        if key.split(".")[0] in sections:
            several = value if isinstance(value, tuple) else (value,)
            named |= {one for one in several if isinstance(one, str)}
    return [
        f"teachers.{name} is named by no term, panel or rollout and not loaded"
        for name in config.teachers
        if name not in named
    ]


def unread_memories(config: ConfigDict) -> list[str]:
    """Memories that no term names: a slip in a name, or a term that is off."""
    flat = keys.flatten(config.loss)
    read = {value for key, value in flat.items() if key.split(".")[-1] == "memory"}
    return [
        f"memory.{name} is read by no term and not kept; name it by memory={name!r} in "
        "a weight"
        for name in config.memory
        if name not in read
    ]


def unread_facts(config: ConfigDict) -> list[str]:
    """Facts that no term names: a slip in a name, or a term that is off."""
    terms = builders.build_terms(config) if config.facts else ()
    read = {name for term in terms for name, _ in term.facts}
    return [
        f"facts.{name} is read by no term and not made; name it by fact={name!r} in a "
        "weight"
        for name in config.facts
        if name not in read
    ]


def other_temperature(config: ConfigDict) -> list[str]:
    """Where fresh rollouts are not drawn from what the loss takes the student for."""
    drawn, taken = config.rollout.temperature, config.objective.temperature
    if drawn == taken or not config.mix.student:
        return []
    return [
        f"objective.temperature={taken} is not rollout.temperature={drawn}: ratios are "
        "not 1 on fresh rollouts, and clips act; leave the first out to follow"
    ]


def short_warmup(config: ConfigDict) -> list[str]:
    """What to say of a warm-up that the run does not outlast, as tries often do not."""
    warmup = optimizer.warmup_updates(config.optimizer.warmup, config.steps)
    last = config.steps - 1
    if last >= warmup:
        return []
    peak = config.optimizer.learning_rate
    return [
        f"optimizer.warmup={warmup} does not end within steps={config.steps}: "
        f"the learning rate gets to {peak * (last + 1) / (warmup + 1):.2g} of {peak:g}"
    ]
