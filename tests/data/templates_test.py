"""Templates: as transformers renders them, within limits, on a fixed day."""

import time

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from jopd.data import templates

TURNS = [
    {"role": "system", "content": "Be <b>brief</b>."},
    {"role": "user", "content": "Hä?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
]
EXTRAS = (
    "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}"
    "{% generation %}{{ loop.index }}/{{ loop.length }}{{ m | tojson }}"
    "{% endgeneration %}{{ loop.nextitem.role }}{% endfor %}"
    "{%- set ns = namespace(n=0) %}{% for n in range(3) if n %}"
    "{% set ns.n = ns.n + n * 2 %}{% endfor %}{{ ns.n }} {{ '%d' % 7 }} {{ 2 ** 5 }}"
)
NAMES = ["gemma3", "llama3_2", "qwen2_5", "qwen3"]


@pytest.mark.parametrize("name", [*NAMES, None])
def test_as_transformers_renders_them(shared, name):
    folder = shared / "tokenizers" / "chat_templates"
    source = (folder / f"{name}.jinja").read_text() if name else EXTRAS
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    tokenizer.chat_template = source
    template = templates.compile_template(source)
    for ask in (False, True):
        wanted = tokenizer.apply_chat_template(
            TURNS, tokenize=False, add_generation_prompt=ask
        )
        values = dict(messages=TURNS, tools=None, documents=None, bos_token="<s>")
        assert template.render(**values, add_generation_prompt=ask) == wanted
    assert template.prints_date() == (name == "llama3_2")


def test_the_day_is_given():
    source = "{{ strftime_now('%d %b %Y %H:%M') }}"
    template = templates.compile_template(source, "2024-02-29")
    assert not template.prints_date()
    assert template.render() == "29 Feb 2024 00:00"
    assert template.prints_date()


HOSTILE = [
    "{% set x = range(9999) | list %}{% for i in x %}{% for j in x %}{% endfor %}"
    "{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{% set x = range(99999) | list %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
    "%}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n "
    "%}{% endfor %}{{ ns.n }}",
    "{{ 'x' * 10 ** 9 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ lipsum(n=10 ** 8) }}",
    "{{ [1, 2] | tojson(indent=10 ** 6) }}",
    "{{ [1, 2] | tojson(indent='x' * 10 ** 6) }}",
    "{{ ('a\n' * 10 ** 5) | indent(10 ** 5) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_no_template_hangs_or_fills_the_memory(source):
    began = time.perf_counter()
    with pytest.raises(ValueError) as raised:
        templates.compile_template(source).render()
    assert time.perf_counter() - began < 5 and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% if %}", "the chat template, line 1: Expected an expression"),
        ("{% for m in messages %}\n{% endfor %}{% break %}", "'break' outside loop"),
        ("a\n{{ x | nothing }}", "line 2: No filter named 'nothing'"),
        ("{{ raise_exception('Roles must\nalternate') }}", "^Roles must alternate$"),
        ("{{ messages[0].a.b }}", "'dict object' has no attribute 'a'"),
        ("{{ 'a' + none }}", "^TypeError: "),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_what_goes_wrong_is_one_line(source, words):
    with pytest.raises(ValueError, match=words) as raised:
        templates.compile_template(source).render(messages=[{}])
    assert "\n" not in str(raised.value)


def test_steps_are_counted_anew_for_every_text():
    template = templates.compile_template("{% for i in range(n) %}{% endfor %}ok")
    for _ in range(1 + templates.STEPS // 99_000):
        assert template.render(n=99_000) == "ok"
