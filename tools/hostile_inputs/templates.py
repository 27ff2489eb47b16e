"""Chat templates: cut, mangled, endless, greedy, refusing, or reaching for more.

Right is the text that transformers renders from the same template and turns.
"""

import random
import signal
from pathlib import Path

from hostile_inputs import Case
from hostile_inputs.rows import CHATML, byte_tokenizer
from jopd.data import dataset, sources

LLAMA = (
    "{%- if strftime_now is defined %}{%- set date = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date = 'x' %}{%- endif %}"
    "{%- set ns = namespace(system='') %}{%- for m in messages %}"
    "{%- if m['role'] == 'system' %}{%- set ns.system = m['content'] %}{%- endif %}"
    "{%- endfor %}{{ '<|im_start|>' + ns.system + date }}"
    "{%- for m in messages if m['role'] != 'system' %}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{%- endif %}"
    "{{ m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'assistant\\n' }}{%- endif %}"
)
MACROS = (
    "{% macro turn(m, n=0) -%}{% if n < 2 %}{{ turn(m, n + 1) }}{% else %}"
    "{{ m.role }}: {{ m.content }}{% endif %}{%- endmacro %}"
    "{% for m in messages %}{{ turn(m) }}\n{% endfor %}"
    "{% if add_generation_prompt %}{% generation %}assistant: {% endgeneration %}"
    "{% endif %}"
)
# Without limits these take the machine's time or memory, in C code that no alarm stops.
GREEDY = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ 10**10**8 }}",
    "{{ 9**9**9**9 }}",
    "{{ [0] * 10**9 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x' | center(10**9) }}",
    "{{ messages | tojson(indent=10**8) }}",
)
SNIPPETS = (
    *GREEDY,
    "{{ messages.__class__.__mro__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ self._TemplateReference__context }}",
    "{{ x.y.z }}",
    "{{ undefined_name }}",
    "{{ 1 / 0 }}",
    "{{ messages[99].content }}",
    "{{ messages[0].content[5:2:0] }}",
    "{{ raise_exception('only user turns') }}",
    "{{ raise_exception('two\nlines') }}",
    "{{ raise_exception(none) }}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{{ messages.append(1) }}",
    "{{ messages.pop() }}",
    "{% set x = [] %}{{ x.append(x) }}{{ x | tojson }}",
    "{{ strftime_now('%Y') }}",
    "{{ strftime_now(5) }}",
    "{{ namespace() }}{{ cycler() }}{{ joiner() }}",
    "{{ lipsum(9999) }}",
    "{{ dict(a=1) | items | list }}",
    "{{ messages | map(attribute='content') | join }}",
    "{{ messages | groupby('role') }}",
    "{{ range(5) | batch(2) | list }}",
    "{{ 'x' | no_such_filter }}",
    "{{ 'x' is no_such_test }}",
    "{{ eos_token }}{{ bos_token }}",
    "{% break %}",
    "{% if %}",
    "{{",
    "{% for %}",
    "{# never closed",
    "{% raw %}{{ x }}",
    "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
    "{% if 1 %}" * 500,
    "{% call x() %}{% endcall %}",
    "{% trans %}x{% endtrans %}",
    "{% do 1 %}",
    "\x00",
    "\ud800",
    "é漢🙂",
)
TURNS = (
    [{"role": "user", "content": "Hi there"}],
    [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "1 + 1?"}],
    [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "third"},
    ],
)


def prepare(scratch: Path):
    def make(rng: random.Random) -> Case:
        template = rng.choice([CHATML, LLAMA, MACROS])
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            template = _changed(rng, template)
        turns = rng.choice(TURNS)
        names = ("chat template", "row 0", "chat_template")
        # What greedy ones give has no limits in transformers: nothing to compare with.
        tame = not any(snippet[3:11] in template for snippet in GREEDY)
        return Case(f"{template!r}", names, lambda: _render(template, turns, tame))

    return make


def _changed(rng: random.Random, template: str) -> str:
    at = rng.randrange(len(template) + 1)
    end = min(len(template), at + rng.choice([1, 1, 2, 8, 40]))
    how = rng.random()
    if how < 0.45:
        return template[:at] + rng.choice(SNIPPETS) + template[at:]
    if how < 0.55:
        return rng.choice(SNIPPETS) + template
    if how < 0.75:
        return template[:at] + template[end:]
    if how < 0.85:
        return template[:end] + template[at:]
    if how < 0.95:
        return template[:at] + rng.choice("{}%#|.'\"()[]+-*/ \n") + template[end:]
    return template[:at]


def _render(template: str, turns: list[dict], tame: bool) -> str | None:
    tokenizer = byte_tokenizer(template)
    examples = sources.examples([{"messages": turns}])
    found = dataset.encode(
        examples, tokenizer, max_prompt_tokens=10**9, max_response_tokens=8
    )
    want = _theirs(tokenizer, turns) if tame else None
    if want is not None and found.texts[0] != want:
        return f"{found.texts[0]!r:.200}, {want!r:.200} in transformers"
    return None


def _theirs(tokenizer, turns: list[dict]) -> str | None:
    """As transformers renders; None where it refuses or takes long."""
    before = signal.getsignal(signal.SIGALRM)

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        how = dict(tokenize=False, add_generation_prompt=True)
        return tokenizer.apply_chat_template(turns, **how)
    except Exception:
        return None
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)
