"""What works but is hardly meant: said once, before a run starts."""

from ml_collections import ConfigDict

from jopd.setup import optimizer


def doubts(config: ConfigDict) -> list[str]:
    """A line for each, with the key and the remedy."""
    return short_warmup(config) + other_temperature(config)


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
