"""Every key can be set by a word of the command line, a new one where terms are."""

import math
import re
import shlex

import pytest

import runs
from jopd.setup import builders, keys, overrides, ranges, shipped, validation
from jopd.setup.config import base_config

DEFAULTS = keys.flatten(base_config())


def loaded(name: str, *words: str):
    """A shipped config with words of a command line, ``key=value``."""
    c = shipped.load(name)
    rest, given = overrides.split([f"--config.{word}" for word in words])
    assert not rest
    overrides.apply(c, given)
    return c


def test_words_are_split():
    words = "main --config=opd --config.steps=3 --config.log.tensorboard --seed=1"
    words += " --noconfig.resume -config.seed 4 --config.data.system=a=b"
    rest, given = overrides.split(words.split())
    assert rest == ["main", "--config=opd", "--seed=1"]
    assert given == [
        ("steps", "3"),
        ("log.tensorboard", "true"),
        ("resume", "false"),
        ("seed", "4"),
        ("data.system", "a=b"),
    ]


@pytest.mark.parametrize("name", shipped.names())
def test_printed_flags_give_the_config_again(name):
    c = shipped.load(name)
    _, given = overrides.split(shlex.split(keys.as_flags(c)))
    again = base_config()
    overrides.apply(again, given)
    assert keys.flatten(again) == keys.flatten(c)


def test_printed_flags_of_a_config_with_epochs_are_read():
    c = loaded("opd", "epochs=2", "seed=7")
    _, given = overrides.split(shlex.split(keys.as_flags(c)))
    assert "steps" not in dict(given)  # it would say what the epochs say
    again = shipped.load("opd")
    again.epochs = 5.0
    overrides.apply(again, given)
    assert keys.flatten(again) == keys.flatten(c)


# Text of a value, and what it is: by the type of the key, in a free place as Python.
VALUES = {
    "steps": [("7", 7), ("1_000", 1000)],
    "optimizer.learning_rate": [("1e-6", 1e-6), ("1", 1.0)],
    "resume": [("False", False), ("true", True), ("0", False)],
    "name": [("3", "3"), ("None", "None")],
    "data.levels": [("(2, 3)", (2, 3)), ("[2,3]", (2, 3)), ("5", (5,)), ("()", ())],
    "data.fields": [("domain", ("domain",)), ("('a', 'b')", ("a", "b")), ("", ())],
    "eval.verifier": [("mine.f", "mine.f")],
    "rollout.early_stop.function": [("repetition", "repetition")],
    "rollout.early_stop.ngram": [("4", 4)],
    "data.student_template_kwargs.enable_thinking": [
        ("False", False),
        ("false", False),
    ],
    "loss.opd.signal": [("k1", "k1"), ("None", None)],
    "loss.new.coef": [("-0.5", -0.5), ("inf", math.inf), ("None", None)],
    "loss.new.other": [("teacher", "teacher"), ("None", None)],
    "teachers.big.path": [("7", "7"), ("a/b", "a/b")],
    "teachers.big.rate": [("1", 1.0)],
    "teachers.big.context": [("{question}", "{question}")],
    "panels.both.members": [("('teacher', 'reference')", ("teacher", "reference"))],
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_has_its_type(key):
    for text, want in VALUES[key]:
        found = keys.flatten(loaded("opd", f"{key}={text}"))[key]
        assert found == want and type(found) is type(want), (key, text, found)


@pytest.mark.parametrize("text", ["dict(a=1, b=-inf)", "{'a': 1, 'b': -inf}"])
def test_a_group_may_be_one_value(text):
    c = loaded("opd", f"loss.opd.weights.mine={text}")
    assert c.loss.opd.weights.mine.to_dict() == {"a": 1, "b": -math.inf}


# What pages and configs name; whatever they name as --config.KEY=VALUE is found below.
SWITCHES = {
    "omniopd": [
        "loss.chunks.weights.rate.baseline=none",
        "loss.chunks.weights.rate.baseline=batch_mean",
        "loss.anchor.coef=0",
        "audit.anchors=random",
        "audit.lead=2",
        "audit.similarity=rouge1",
    ],
    "opsd": [
        "loss.opsd.clip=None",
        "loss.opsd.clip=0.05",
        "loss.opsd.beta=0.3",
        "loss.opsd.direction=jsd",
        "teachers.self.weights=ema",
    ],
    "grpo": [
        "loss.grpo.advantage.std=False",
        "loss.grpo.normalizer=sequences",
        "loss.reference.coef=0.04",
        "loss.reference.signal=reverse_kl",
    ],
    "rlsd": [
        "loss.grpo.advantage.std=False",
        "loss.uniform.coef=0.05",
        "loss.evidence.coef.warmup=10",
        "loss.evidence.weights.evidence.negative_only=True",
        "loss.evidence.weights.evidence.start=(5,)",
        "rewards.format=0.1",
    ],
    "tropd": [
        "loss.outlier.coef=0",
        "loss.trust.weights.accepted.other=reference",
        "rollout.prefix.source=gold",
        "rollout.prefix.steps=0",
    ],
    "minillm": [
        "loss.sequence.advantage.own=False",
        "loss.sequence.advantage.whiten=False",
    ],
    "sdpo": ["loss.sdpo.alpha=1.0"],
    "sdft": ["loss.sdft.signal=reverse_kl", "loss.sdft.normalizer=tokens"],
    "opd_plus": ["loss.opd.advantage.divergence=forward_kl"],
    "power_opd": ["loss.opd.advantage.alpha=0.5"],
    "oprd": ["loss.states.layers=(1, 2)"],
    "reopold": ["loss.opd.advantage.lam=0.2", "loss.opd.advantage.form=scaled"],
    "reopold_two_stage": [
        "loss.unsure.weights.entropy_top_share.share=0.5",
        "loss.trusted.coef.steps=133",
    ],
    "distillm": ["loss.skew.signal=skew_reverse_kl"],
    "stableopd": [
        "loss.reference.signal=k3",
        "loss.gold.coef=0.1",
        "loss.gold.coef.schedule=linear",
        "objective.normalizer=sequences",
    ],
    "opd": [
        "loss.opd.coef=0.5",
        "loss.near.signal=forward_kl",
        "loss.opd.weights.staleness.decay=0.5",
        "loss.opd.dual_clip=3",
        "teachers.big.path=demo:teacher",
        "data.student_template_kwargs.enable_thinking=False",
    ],
}
# Readings that take several switches at once.
READINGS = {
    "OmniOPD of the paper": (
        "omniopd",
        *("loss.chunks.weights.rate.baseline=none", "audit.chunks=10"),
        *("audit.chunk_tokens=50", "audit.samples=10"),
    ),
    "TrOPD of the paper": (
        "tropd",
        *("rollout.prefix.steps=0", "optimizer.schedule=constant"),
    ),
    "TrOPD's released form": (
        "tropd",
        *("loss.outlier.coef=0", "loss.scalar.coef=1"),
        *("facts.top.function=tropd.top_forward_kl", "loss.scalar.advantage.fact=top"),
    ),
    "StableOPD of two ports": (
        "stableopd",
        *("loss.gold.coef=0.1", "objective.normalizer=sequences"),
        *("loss.opd.clip_low=1", "loss.opd.clip_high=inf"),
    ),
    "SFT on StableOPD's gold": (
        "stableopd",
        *("loss.opd.coef=0", "loss.reference.coef=0"),
    ),
    "GRPO of its first paper": (
        "grpo",
        *("loss.reference.coef=0.04", "objective.normalizer=sequences"),
        *("loss.grpo.clip_high=0.2", "loss.grpo.dual_clip=None"),
    ),
    "GKD on the teacher's texts": (
        "gkd",
        *("mix.on_policy_probability=1", "rollout.prefix.source=teacher"),
        *("rollout.prefix.schedule=constant", "loss.jsd.source=teacher"),
    ),
    "SDPO's trust region": (
        "sdpo",
        *("teachers.first.weights=initial", "teachers.self.weights=live"),
        "teachers.first.context={peer}{question}",
        *("panels.region.members=('first','self')", "loss.sdpo.other=region"),
        "loss.sdpo.weights.has_context.of=region",
        *("panels.region.weights=(0.95,0.05)", "panels.region.kind=product"),
    ),
    "RLSD's script": (
        "rlsd",
        *("loss.evidence.coef.steps=60", "teachers.self.every_steps=20"),
        *("rewards.correct=0.9", "rewards.format=0.1"),
    ),
    "REOPOLD of a port": (
        "reopold_two_stage",
        *("loss.trusted.advantage.form=scaled", "loss.trusted.advantage.lam=0.1"),
    ),
}
PAGES = [
    *(runs.ROOT / "docs" / "methods").glob("*.md"),
    *(runs.ROOT / "configs").glob("*.py"),
    *(runs.ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]
WORD = re.compile(r"""--config\.([\w.]+=(?:'[^']*'|"[^"]*"|[^\s`)]*))""")


def named(page) -> list[str]:
    words = WORD.findall(page.read_text())
    return [word.replace("'", "").replace('"', "") for word in words]


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_are_set_and_built(name):
    for word in SWITCHES[name]:
        key, _, text = word.partition("=")
        c = loaded(name, word)
        assert keys.flatten(c)[key] == overrides.value_of(text)
        assert builders.build_terms(c)


@pytest.mark.parametrize("reading", READINGS)
def test_readings_are_built_and_valid(reading):
    name, *words = READINGS[reading]
    c = loaded(name, *words)
    for word in words:
        key, _, text = word.partition("=")
        assert keys.flatten(c)[key] == overrides.value_of(text)
    validation.validate(c)


def test_readings_are_on_their_pages():
    """Every switch of a reading stands in a config's docstring or on a page."""
    told = {word for page in PAGES for word in named(page)}
    for name, *words in READINGS.values():
        assert {word.replace("'", "") for word in words} <= told, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_words_of_a_page_are_understood(page):
    name = page.stem if page.stem in shipped.names() else "opd"
    for word in named(page):
        if page.suffix == ".md" and f"loss.{name}" not in word and "loss." in word:
            shown = [other for other in shipped.names() if other in page.read_text()]
            name = page.stem if page.stem in shown else shown[0]
        c = loaded(name, word)
        assert word.partition("=")[0] in keys.flatten(c)
        builders.build_terms(c)


def test_pages_name_switches():
    assert sum(len(named(page)) for page in PAGES) > 20


# What cannot be.

UNKNOWN = {
    "rollout.temprature=0.8": "did you mean rollout.temperature",
    "max_new_tokens=3": "did you mean eval.max_new_tokens or rollout.max_new_tokens",
    "optimizer.warmup_steps=3": "did you mean optimizer.warmup",
    "optimizer.lr=1e-3": "did you mean optimizer.learning_rate? ",
    "optimizer.wd=0": "did you mean optimizer.weight_decay? ",
    "lr=1e-3": "did you mean optimizer.learning_rate? ",
    "rollout.temp=1": "did you mean rollout.temperature? ",
    "nonsense.x=1": "unknown key --config.nonsense.x; jopd train --help",
    "steps.x=1": "unknown key --config.steps.x",
    "mesh=3": "mesh is a group; set its keys, such as --config.mesh.",
    "loss=3": "loss is a group; set its keys",
    "steps=many": "steps='many' must be a whole number, at least 1",
    "steps=2.5": "steps='2.5' must be a whole number, at least 1",
    "resume=perhaps": "resume='perhaps' must be True or False",
    "data.max_prompt_tokens=None": "data.max_prompt_tokens='None' must be a whole",
}


@pytest.mark.parametrize("word", UNKNOWN)
def test_what_cannot_be_is_said_in_one_line(word):
    with pytest.raises(ValueError) as caught:
        loaded("opd", word)
    assert UNKNOWN[word] in str(caught.value) and "\n" not in str(caught.value)


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(ValueError, match="steps=3 and epochs=2 both say how long"):
        loaded("opd", "steps=3", "epochs=2")
    assert loaded("opd", "epochs=2").epochs == 2.0
    assert loaded("opd", "steps=3", "epochs=0").steps == 3
    c = shipped.load("opd")
    c.epochs = 2.0
    with pytest.raises(ValueError, match=r"epochs=2.0, of the config, .*epochs=0$"):
        overrides.apply(c, [("steps", "5")])
    overrides.apply(c, [("steps", "5"), ("epochs", "0")])
    assert (c.steps, c.epochs) == (5, 0.0)


SLIPS = {
    "loss.opdd.clip_low=0.3": "loss.opdd has no signal; did you mean 'opd'?",
    "loss.new.signl=k1": "loss.new has no signal; did you mean signal by 'signl'?",
    "loss.opd.cliplow=0.3": "takes no 'cliplow'; did you mean 'clip_low'?",
    "loss.opd.coeff=0.3": "takes no 'coeff'; did you mean 'coef'?",
    "teachers.big.contxt=x": "no key 'contxt'; did you mean 'context'?",
    "loss.opd.clip_low=abc": "loss.opd.clip_low='abc' must be a number",
    "rollout.stop_ids=abc": "rollout.stop_ids=('abc',) must be a tuple of ids",
    "rollout.prompt_buckets=None": "rollout.prompt_buckets=(None,) must be",
    "panels.both.members=teacher,big": "names the model 'teacher,big'",
}


@pytest.mark.parametrize("word", SLIPS)
def test_a_slip_in_a_free_place_is_said_in_one_line(word):
    with pytest.raises(ValueError) as caught:
        validation.validate(loaded("opd", word))
    assert SLIPS[word] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(set(DEFAULTS) & set(ranges.RANGES)))
def test_wrong_texts_are_refused_in_one_line(key):
    says = ranges.RANGES[key].says
    if says in ("text", "a name or a function") or says.endswith("each text"):
        return  # any text is one
    for text in ("nan", "inf", "None", "abc", "(", "-7"):
        if key in ("teacher.reward_margin", "peer.success") and text == "-7":
            continue
        with pytest.raises(ValueError) as caught:
            ranges.check_all(keys.flatten(loaded("sft", f"{key}={text}")))
        message = str(caught.value)
        assert key in message and "\n" not in message and len(message) < 300
        assert text in message or isinstance(DEFAULTS[key], dict)
