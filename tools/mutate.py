"""Plants one bug at a time in a copy of the package and sees whether the tests notice.

    python tools/mutate.py                       # all rows, two at a time
    python tools/mutate.py --only sampling       # rows whose file or kernel matches

Prints a markdown table. Exits 1 if a bug survives, if a row's text no longer occurs
exactly once in its file, or if the tests fail without any bug. A new kernel adds a row.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("jopd", "tests", "configs", "docs", "pyproject.toml")


class Mutation(NamedTuple):
    """In ``jopd/<file>``, ``old`` becomes ``new``; then ``tests/<test>`` must fail."""

    kernel: str
    bug: str
    file: str
    old: str
    new: str
    test: str


def _rows(module: str, *rows: tuple[str, str, str, str]) -> list[Mutation]:
    """Rows (kernel, bug, old, new) of one module, tested by the file of its name."""
    test = f"{module.replace('/', '_')}_test.py"
    return [
        Mutation(k, bug, f"{module}.py", old, new, test) for k, bug, old, new in rows
    ]


MUTATIONS = [
    *_rows(
        "divergences",
        (
            "forward_kl",
            "directions swapped",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_t, log_s)\n",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_s, log_t)\n",
        ),
        (
            "reverse_kl",
            "student's weight detached",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    return _kl(log_s, log_t)\n",
            "    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)\n"
            "    p = jax.lax.stop_gradient(jnp.exp(log_s))\n"
            "    return jnp.sum(p * (log_s - log_t), axis=-1)\n",
        ),
        (
            "top_k_jsd",
            "weights of the mixture swapped",
            "mixed = _log_mixture(log_t, log_s, beta)\n    return",
            "mixed = _log_mixture(log_s, log_t, beta)\n    return",
        ),
        (
            "top_k_jsd",
            "student detached in its own KL",
            "_kl(log_s, mixed)\n",
            "_kl(jax.lax.stop_gradient(log_s), mixed)\n",
        ),
        (
            "jsd",
            "weights of the two KLs swapped",
            "beta * _kl(log_t, log_m) + (1.0 - beta) * _kl(log_s, log_m)",
            "(1.0 - beta) * _kl(log_t, log_m) + beta * _kl(log_s, log_m)",
        ),
        (
            "jsd",
            "weights of the mixture swapped",
            "log_m = _log_mixture(log_t, log_s, beta)",
            "log_m = _log_mixture(log_s, log_t, beta)",
        ),
        (
            "jsd",
            "mixture detached in one of the two KLs",
            "value = beta * _kl(log_t, log_m) +",
            "value = beta * _kl(log_t, jax.lax.stop_gradient(log_m)) +",
        ),
        (
            "jsd",
            "ends of beta let through",
            "if not 0.0 < beta < 1.0:",
            "if not 0.0 <= beta <= 1.0:",
        ),
        (
            "jsd",
            "normalize divides by beta only",
            "value / (beta * (1.0 - beta)) if normalize",
            "value / beta if normalize",
        ),
        (
            "skew_forward_kl",
            "mixture weights swapped",
            "_kl(log_t, _log_mixture(log_t, log_s, alpha))",
            "_kl(log_t, _log_mixture(log_s, log_t, alpha))",
        ),
        (
            "skew_reverse_kl",
            "the other direction",
            "_kl(log_s, _log_mixture(log_s, log_t, alpha))",
            "_kl(log_t, _log_mixture(log_s, log_t, alpha))",
        ),
        (
            "total_variation",
            "half forgotten",
            "0.5 * jnp.sum(jnp.abs(",
            "1.0 * jnp.sum(jnp.abs(",
        ),
        (
            "top_k_forward_kl",
            "tail bucket missing",
            "    return rows if tail else",
            "    return tuple(row[..., :k] for row in rows) if tail else",
        ),
        (
            "top_k_forward_kl",
            "support chosen by the other model",
            'if support == "teacher" else student_logits',
            'if support == "student" else student_logits',
        ),
        (
            "top_k_reverse_kl",
            "directions swapped",
            "tail, support)\n    return _kl(log_s, log_t)",
            "tail, support)\n    return _kl(log_t, log_s)",
        ),
        (
            "coarsen",
            "tail holds the whole row",
            "_logsumexp(others)[..., None]",
            "_logsumexp(logits)[..., None]",
        ),
        (
            "coarsen",
            "empty tail without double where",
            "jnp.where(empty[..., None], 0.0, logits), axis=-1)",
            "logits, axis=-1)",
        ),
        (
            "entropy",
            "sign",
            "return -_kl(log_p, jnp.zeros",
            "return _kl(log_p, jnp.zeros",
        ),
        (
            "cross_entropy",
            "teacher's entropy left out",
            "_kl(log_t, log_s) - _kl(log_t, jnp.zeros_like(log_t))",
            "_kl(log_t, log_s)",
        ),
        (
            "log_prob",
            "not normalised",
            "return chosen - jax.nn.logsumexp(logits, axis=-1)",
            "return chosen",
        ),
        ("nll", "sign", "return -log_prob(", "return log_prob("),
        (
            "_kl",
            "0 log 0 not taken out",
            "gap = jnp.where(present, log_p - log_q, 0.0)",
            "gap = log_p - log_q",
        ),
        (
            "_kl",
            "underflow taken as present",
            "present = p > 0.0",
            "present = p >= 0.0",
        ),
        (
            "_log_mixture",
            "no double where",
            "jnp.where(empty, 0.0, x) for x in",
            "x for x in",
        ),
        (
            "_float",
            "bfloat16 not raised to float32",
            "else x.astype(jnp.float32)",
            "else x",
        ),
        (
            "_check_shapes",
            "unequal vocabularies let through",
            "    if jnp.shape(student_logits) != jnp.shape(teacher_logits):",
            "    if jnp.ndim(student_logits) != jnp.ndim(teacher_logits):",
        ),
    ),
    *_rows(
        "estimators",
        (
            "k1",
            "sign",
            "return _float(log_p) - _float(log_q)",
            "return _float(log_q) - _float(log_p)",
        ),
        ("k2", "half forgotten", "return 0.5 * jnp.square", "return jnp.square"),
        (
            "k3",
            "ratio upside down",
            "jnp.minimum(-d, _MAX_EXPONENT)",
            "jnp.minimum(d, _MAX_EXPONENT)",
        ),
        (
            "k3",
            "d left out",
            "_MAX_EXPONENT)) + d",
            "_MAX_EXPONENT))",
        ),
        (
            "importance_ratio",
            "upside down",
            "return jnp.exp(jnp.minimum(log_ratio,",
            "return jnp.exp(jnp.minimum(-log_ratio,",
        ),
        (
            "importance_ratio",
            "gradient through the behavior policy",
            "jax.lax.stop_gradient(_float(behavior_logp))",
            "_float(behavior_logp)",
        ),
        (
            "importance_ratio",
            "overflow to inf",
            "jnp.exp(jnp.minimum(log_ratio, _MAX_EXPONENT))",
            "jnp.exp(log_ratio)",
        ),
        (
            "score_function",
            "stop_gradient missing",
            "-_float(logp) * jax.lax.stop_gradient(_float(advantage))",
            "-_float(logp) * _float(advantage)",
        ),
        ("score_function", "sign", "return -_float(logp) *", "return _float(logp) *"),
        (
            "clipped_surrogate",
            "stop_gradient missing",
            "advantage = jax.lax.stop_gradient(_float(advantage))",
            "advantage = _float(advantage)",
        ),
        (
            "clipped_surrogate",
            "sides of the clip swapped",
            "1.0 - clip_low, 1.0 + clip_high",
            "1.0 - clip_high, 1.0 + clip_low",
        ),
        (
            "clipped_surrogate",
            "optimistic instead of pessimistic",
            "jnp.minimum(ratio * advantage, clipped * advantage)",
            "jnp.maximum(ratio * advantage, clipped * advantage)",
        ),
        ("clipped_surrogate", "sign", "return -objective", "return objective"),
        (
            "clipped_surrogate",
            "dual clip on the positive side",
            "jnp.where(advantage < 0.0, bounded, objective)",
            "jnp.where(advantage > 0.0, bounded, objective)",
        ),
        (
            "_check_clips",
            "dual_clip of 1 let through",
            "1.0 < dual_clip",
            "1.0 <= dual_clip",
        ),
    ),
    *_rows(
        "sampling",
        (
            "filtered_logits",
            "temperature multiplies",
            "logits / f.temperature",
            "logits * f.temperature",
        ),
        (
            "filtered_logits",
            "temperature forgotten",
            "        logits = logits / f.temperature\n",
            "        pass\n",
        ),
        (
            "filtered_logits",
            "min-p before the temperature",
            "    if f.temperature != 1.0:\n",
            "    if f.min_p > 0.0:\n"
            "        logits = _cut(logits, _min_p_mask(logits, f.min_p))\n"
            "    if f.temperature != 1.0:\n",
        ),
        (
            "_top_k_mask",
            "k-th token itself cut",
            "return logits >= jnp.min(largest",
            "return logits > jnp.min(largest",
        ),
        (
            "_top_p_mask",
            "token that crosses top_p cut",
            "p > edge, p, 0.0",
            "p >= edge, p, 0.0",
        ),
        (
            "_top_p_mask",
            "bisection stops early",
            "fori_loop(0, 30, halve",
            "fori_loop(0, 12, halve",
        ),
        (
            "_top_p_mask",
            "mass kept is 1 - top_p",
            "enough = likelier < top_p",
            "enough = likelier < 1.0 - top_p",
        ),
        (
            "_min_p_mask",
            "absolute instead of relative",
            "logits >= jnp.max(logits, axis=-1, keepdims=True) + math.log(min_p)",
            "jax.nn.log_softmax(logits, axis=-1) >= math.log(min_p)",
        ),
        (
            "draw",
            "recorded log-prob before the filter",
            "    logits_BV = filtered_logits(logits_BV, f)\n"
            "    token_B, log_normalizer_B = _sample(uniform_B, logits_BV)\n",
            "    token_B, _ = _sample(uniform_B, filtered_logits(logits_BV, f))\n"
            "    log_normalizer_B = jax.nn.logsumexp(logits_BV, axis=-1)\n",
        ),
        (
            "draw",
            "log-prob not normalised",
            "chosen_B - log_normalizer_B",
            "chosen_B",
        ),
        (
            "log_prob",
            "filter forgotten",
            "divergences.log_prob(filtered_logits(logits, f), tokens)",
            "divergences.log_prob(logits, tokens)",
        ),
        (
            "sample",
            "padding columns have mass",
            "padding, constant_values=-jnp.inf",
            "padding, constant_values=0.0",
        ),
        (
            "sample",
            "block's own mass not taken off",
            "_first_above(mass_BL, inside_BL, target_B - before_B)",
            "_first_above(mass_BL, inside_BL, target_B)",
        ),
        (
            "sample",
            "mass before the block off by one",
            "jnp.pad(cumulative_BN[:, :-1], ((0, 0), (1, 0)))",
            "cumulative_BN",
        ),
        (
            "_first_above",
            "zero mass may be picked",
            "has_mass = mass_BN > 0.0",
            "has_mass = mass_BN >= 0.0",
        ),
        (
            "_first_above",
            "u on a boundary goes down",
            "cumulative_BN > target_B[:, None]",
            "cumulative_BN >= target_B[:, None]",
        ),
        (
            "_first_largest",
            "last of the largest",
            "lane = jnp.argmax(_take_block(blocks, block), axis=-1)",
            "lane = 127 - jnp.argmax(_take_block(blocks, block)[..., ::-1], axis=-1)",
        ),
        (
            "row_uniforms",
            "position ignored",
            "jax.random.uniform(jax.random.fold_in(key, at))",
            "jax.random.uniform(key)",
        ),
        (
            "row_uniforms",
            "one key for all rows",
            "        keys_B, position_B\n",
            "        jnp.broadcast_to(keys_B[0], keys_B.shape), position_B\n",
        ),
    ),
    *_rows(
        "objective",
        (
            "rows normaliser",
            "divides by all rows",
            "jnp.maximum(jnp.sum(jnp.any(inside_BT, axis=1)), 1)",
            "inside_BT.shape[0]",
        ),
        (
            "response_mask",
            "first response token left out",
            "(position_T >= prompt_length_B[:, None])",
            "(position_T > prompt_length_B[:, None])",
        ),
        (
            "response_mask",
            "token after EOS let in",
            "(position_T < length_B[:, None])",
            "(position_T <= length_B[:, None])",
        ),
        (
            "align",
            "no shift",
            "return jnp.concatenate([hidden_BTD[:, :1], hidden_BTD[:, :-1]], axis=1)",
            "return hidden_BTD",
        ),
        (
            "scope",
            "source ignored",
            "return scores.mask & (scores.source == SOURCES[term.source])",
            "return scores.mask",
        ),
        (
            "weigh",
            "stop_gradient missing",
            "    return jax.lax.stop_gradient(\n",
            "    return (\n",
        ),
        (
            "_weigh_one",
            "only the last weight counts",
            "weight_BT = weight_BT * function(scores)",
            "weight_BT = function(scores)",
        ),
        (
            "product_of_weights",
            "weight outside the scope",
            "return jnp.where(scope(term, scores), weight_BT, 0.0)",
            "return jnp.where(scores.mask, weight_BT, 0.0)",
        ),
        (
            "_weigh_one",
            "divides by all tokens, padding included",
            "jnp.maximum(jnp.sum(inside_BT), 1)",
            "inside_BT.size",
        ),
        (
            "_weigh_one",
            "divides by all rows, also those without tokens",
            "rows = jnp.sum(tokens_B > 0)",
            "rows = tokens_B.shape[0]",
        ),
        (
            "_weigh_one",
            "0 / 0 without tokens",
            "jnp.where(total == 0, 1.0, total)",
            "total",
        ),
        (
            "_weigh_one",
            "advantage outside the scope",
            "jnp.where(inside_BT, term.advantage(scores), 0.0)",
            "term.advantage(scores)",
        ),
        (
            "tempered",
            "temperature forgotten",
            "lambda rows: rows / temperature",
            "lambda rows: rows",
        ),
        (
            "token_facts",
            "KL directions swapped",
            "divergences.reverse_kl(",
            "divergences.forward_kl(",
        ),
        (
            "facts",
            "other columns than the vocabulary's",
            "    heads = {name: head[:vocabulary] for name, head in heads.items()}\n",
            "",
        ),
        (
            "facts",
            "hidden states not aligned",
            "aligned = {name: align(hidden[name]) for name in heads}",
            "aligned = {name: hidden[name] for name in heads}",
        ),
        (
            "scores",
            "position counted from the row's start",
            "        - rollout.prompt_length_B[:, None],\n",
            "        + 0 * rollout.prompt_length_B[:, None],\n",
        ),
        (
            "blank",
            "garbage passes",
            "return jnp.where(mask[..., None], hidden, 0)",
            "return hidden",
        ),
        (
            "objective",
            "masked ids may lie outside the vocabulary",
            "tokens=jnp.where(batch.mask_BT, rollout.tokens_BT, 0),",
            "tokens=rollout.tokens_BT,",
        ),
        (
            "objective",
            "masked log-probs may be garbage",
            "behavior_logp=jnp.where(batch.mask_BT, rollout.behavior_logp_BT, 0.0),",
            "behavior_logp=rollout.behavior_logp_BT,",
        ),
        (
            "objective",
            "teacher not aligned",
            "hidden={name: align(value) for name, value in frozen_hidden.items()},",
            "hidden=dict(frozen_hidden),",
        ),
        (
            "_strip_loss",
            "temperature of the student only",
            '{"student": logits} | jax.lax.stop_gradient(others), temperature)',
            '{"student": logits}, temperature) | jax.lax.stop_gradient(others)',
        ),
        (
            "_strip_loss",
            "coefficient forgotten",
            "loss = loss + coefs[term.name] * jnp.sum(value)",
            "loss = loss + jnp.sum(value)",
        ),
        (
            "_strip_loss",
            "signal read outside the weight",
            "value = jnp.where(weight != 0, weight * term.signal(outputs), 0.0)",
            "value = weight * term.signal(outputs)",
        ),
    ),
    *_rows(
        "step",
        (
            "hidden_states",
            "padding attended to",
            "valid_BT = positions_BT < length_B[:, None]",
            "valid_BT = positions_BT < tokens_BT.shape[1]",
        ),
        (
            "hidden_states",
            "states of another prompt left where they were",
            "[None] + shift_B[:, None]",
            "[None] + 0 * shift_B[:, None]",
        ),
        (
            "under_prompt",
            "response moved the wrong way",
            "before_BT = jnp.clip(places - shift_B[:, None],",
            "before_BT = jnp.clip(places + shift_B[:, None],",
        ),
        (
            "make_gradient",
            "the first micro-batch forgotten",
            "return jax.tree.map(jnp.add, total, grads), value",
            "return grads, value",
        ),
        (
            "make_term_norms",
            "all terms in every norm",
            "coefs[name] * (name == term.name)",
            "coefs[name]",
        ),
        (
            "make_term_norms",
            "coefficients left out",
            "coefs[name] * (name == term.name)",
            "1.0 * (name == term.name)",
        ),
        (
            "make_term_norms",
            "shares of the largest norm",
            "total = sum(norms.values())",
            "total = max(norms.values())",
        ),
        (
            "make_term_norms",
            "0 / 0 where no term has a gradient",
            "value / total if total else 0.0",
            "value / (total or float('nan'))",
        ),
        (
            "split_rows",
            "rows leave their device",
            "lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch",
            "lambda x: x.reshape(parts, -1, *x.shape[1:]), batch",
        ),
        (
            "join_rows",
            "order of the rows lost",
            "lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), groups",
            "lambda x: x.reshape(-1, *x.shape[2:]), groups",
        ),
        (
            "make_update",
            "micro-batches averaged",
            "return jax.tree.map(jnp.add, total, grads), value",
            "return jax.tree.map(lambda a, b: a + b / accumulate, total, grads), value",
        ),
        (
            "make_update",
            "only the last micro-batch counts",
            "return jax.tree.map(jnp.add, total, grads), value",
            "return grads, value",
        ),
        (
            "make_update",
            "frozen models donated",
            "@functools.partial(jax.jit, donate_argnums=0)",
            "@functools.partial(jax.jit, donate_argnums=(0, 1))",
        ),
        (
            "make_update",
            "nothing donated",
            "@functools.partial(jax.jit, donate_argnums=0)",
            "@jax.jit",
        ),
        (
            "make_update",
            "step not counted",
            "return TrainState(state.step + 1, params, opt_state)",
            "return TrainState(state.step, params, opt_state)",
        ),
        (
            "make_update",
            "gradient applied without the optimizer",
            "params = optax.apply_updates(state.params, updates)",
            "params = optax.apply_updates(state.params, grads)",
        ),
        (
            "make_replay_logp",
            "filters forgotten",
            "return sampling.log_prob(logits, tokens, filters)",
            "return sampling.log_prob(logits, tokens, sampling.Filter())",
        ),
    ),
    *_rows(
        "rollout",
        (
            "_prefill",
            "padding of the prompt attended to",
            "valid_RP = positions_RP < length_R[:, None]",
            "valid_RP = positions_RP < width",
        ),
        (
            "_prefill",
            "last column instead of last token",
            "last_R = (length_R - 1)[:, None, None]",
            "last_R = jnp.full_like(length_R, width - 1)[:, None, None]",
        ),
        (
            "_prefill",
            "copies read from the wrong row",
            "jnp.repeat(hidden_RD, copies, axis=0)",
            "jnp.tile(hidden_RD, (copies, 1))",
        ),
        (
            "_start",
            "complete prefix continued",
            "done_B=complete_B | (asked.limit_B <= 0),",
            "done_B=asked.limit_B <= 0,",
        ),
        (
            "_start",
            "prompt that ends in a stop token taken as complete",
            "(asked.length_B > asked.prompt_length_B) & _is_stop",
            "(asked.length_B > 0) & _is_stop",
        ),
        (
            "_start",
            "limit 0 draws a token",
            "done_B=complete_B | (asked.limit_B <= 0),",
            "done_B=complete_B,",
        ),
        (
            "_drawer",
            "ids past the vocabulary drawn",
            "head_VD = decoder.head(params)[:vocabulary]",
            "head_VD = decoder.head(params)",
        ),
        (
            "_drawer",
            "one random stream for all rows",
            "(functools.partial(jax.random.fold_in, key))(asked.row_B)",
            "(functools.partial(jax.random.fold_in, key))(asked.row_B * 0)",
        ),
        (
            "_drawer",
            "one uniform for all steps",
            "sampling.row_uniforms(keys_B, loop.step - loop.start_B)",
            "sampling.row_uniforms(keys_B, 0 * loop.start_B)",
        ),
        (
            "_drawer",
            "log-prob recorded without temperature",
            "token_B, logp_B = sampling.draw(uniform_B, logits_BV, filters)",
            "token_B, _ = sampling.draw(uniform_B, logits_BV, filters)\n"
            "        logp_B = sampling.log_prob(logits_BV, token_B, sampling.Filter())",
        ),
        (
            "_drawer",
            "stop token not kept",
            "count_B = loop.count_B + live_B",
            "count_B = loop.count_B + (live_B & ~_is_stop(token_B, stop_ids))",
        ),
        (
            "_drawer",
            "limit off by one",
            "(count_B >= asked.limit_B)",
            "(count_B > asked.limit_B)",
        ),
        (
            "_drawer",
            "truncated rows called finished",
            "finished_B=loop.finished_B | stopped_B,",
            "finished_B=loop.finished_B | stopped_B | (count_B >= asked.limit_B),",
        ),
        (
            "generate",
            "loop runs to the bound",
            "return (loop.step < until) & ~jnp.all(loop.done_B)",
            "return loop.step < until",
        ),
        (
            "_feed",
            "position off by one",
            "(asked.length_B + number_B)[:, None],",
            "(asked.length_B + number_B + 1)[:, None],",
        ),
        (
            "in_slots",
            "positions of the cache off by one",
            "number_BS + asked.length_B[:, None])",
            "number_BS + asked.length_B[:, None] - 1)",
        ),
        (
            "in_slots",
            "last cached token not seen",
            "answered_BS = (age_S > 0)",
            "answered_BS = (age_S > 1)",
        ),
        (
            "_feed",
            "written one slot late",
            "decoder.write(loop.cache, kv, width + newest % room)",
            "decoder.write(loop.cache, kv, width + loop.step % room)",
        ),
        (
            "_compact",
            "drawn tokens left behind the padding",
            "index_BT = jnp.clip(place_T - asked.length_B[:, None], 0,",
            "index_BT = jnp.clip(place_T + 0 * asked.length_B[:, None] - width, 0,",
        ),
        (
            "_compact",
            "source of a prefix lost",
            "source_BT=jnp.where(drawn_BT, STUDENT, sources_BT),",
            "source_BT=jnp.where(drawn_BT, STUDENT, sources_BT * 0),",
        ),
    ),
    *_rows(
        "buffer",
        (
            "add",
            "always to the first slots",
            "slots = (buffer.cursor + jnp.arange(count)) % capacity",
            "slots = jnp.arange(count)",
        ),
        (
            "add",
            "cursor stays",
            "(buffer.cursor + count) % capacity",
            "buffer.cursor % capacity",
        ),
        ("tick", "by two", "rollout.age_B + 1", "rollout.age_B + 2"),
        (
            "eligible",
            "bound excluded",
            "(buffer.rows.rollout.age_B <= max_age)",
            "(buffer.rows.rollout.age_B < max_age)",
        ),
        (
            "eligible",
            "empty slots drawn",
            "return buffer.filled_C & (",
            "return (buffer.filled_C | True) & (",
        ),
        (
            "sample",
            "with replacement",
            "slots = order[:count]",
            "slots = order[jax.random.randint(key, (count,), 0, jnp.sum(allowed_C))]",
        ),
        (
            "sample",
            "not by chance",
            "jax.random.uniform(key, allowed_C.shape)",
            "jnp.arange(allowed_C.size) / allowed_C.size",
        ),
        (
            "sample",
            "rows too old not masked",
            "mask_BT=batch.mask_BT & allowed_C[slots][:, None]",
            "mask_BT=batch.mask_BT",
        ),
        (
            "sample",
            "more rows than slots let through",
            "    if count > capacity:\n        raise ValueError(\n"
            '            f"cannot draw',
            "    if count > 10 * capacity:\n        raise ValueError(\n"
            '            f"cannot draw',
        ),
    ),
    *_rows(
        "weights",
        (
            "log_ratio",
            "sign",
            'scores.logp[other] - scores.logp["student"]',
            'scores.logp["student"] - scores.logp[other]',
        ),
        (
            "first_tokens",
            "one more",
            "(scores.position < count)",
            "(scores.position <= count)",
        ),
        (
            "entropy_above",
            "always the teacher's",
            "scores.entropy[of] >= threshold",
            'scores.entropy["teacher"] >= threshold',
        ),
        (
            "log_ratio_above",
            "threshold excluded",
            ">= threshold).astype(jnp.float32)\n\n\ndef log_ratio_below",
            "> threshold).astype(jnp.float32)\n\n\ndef log_ratio_below",
        ),
        (
            "staleness",
            "linear in age",
            "jnp.float32(decay) ** scores.age",
            "jnp.float32(decay) * scores.age",
        ),
        (
            "importance",
            "upside down",
            'jnp.exp(scores.logp["student"] - scores.behavior_logp)',
            'jnp.exp(scores.behavior_logp - scores.logp["student"])',
        ),
        (
            "importance",
            "not truncated",
            "return jnp.clip(ratio, low, high)",
            "return ratio",
        ),
    ),
    *_rows(
        "collect",
        (
            "gold_batch",
            "missing rows not masked",
            "np.asarray(batch.mask_BT) & present_B[:, None]",
            "np.asarray(batch.mask_BT)",
        ),
        (
            "trim",
            "bucket too short",
            "if bucket >= longest",
            "if bucket >= longest - 1",
        ),
        (
            "is_on_policy",
            "coin of the seed only",
            "np.random.default_rng([seed, step, 1])",
            "np.random.default_rng([seed, 1])",
        ),
        (
            "make_collect",
            "the same random stream at every step",
            "key = jax.random.fold_in(jax.random.key(seed), step)",
            "key = jax.random.key(seed)",
        ),
        (
            "make_collect",
            "one coin for every update",
            "np.random.default_rng([seed, step, 2])",
            "np.random.default_rng([seed, 2])",
        ),
        (
            "make_collect",
            "fresh rows enter the buffer without ageing",
            "tick(buffer if fresh is None else add(buffer, fresh))",
            "buffer if fresh is None else add(buffer, fresh)",
        ),
    ),
    *_rows(
        "sharding",
        (
            "of_params",
            "dimensions that do not divide split",
            "axis if axis and size % mesh.shape[axis] == 0 else None",
            "axis",
        ),
        (
            "of_optimizer",
            "moments replicated",
            'if shape == getattr(leaf, "shape", None):',
            "if shape is leaf:",
        ),
    ),
    *_rows(
        "diagnostics",
        (
            "token_metrics",
            "means over padding too",
            "name: mean(value, counted_BT & serves_BT(batch, compared(name)))",
            "name: mean(value, serves_BT(batch, compared(name)))",
        ),
        (
            "token_metrics",
            "gold tokens counted as the student's",
            "student_BT = mask_BT & (source_BT == STUDENT)",
            "student_BT = mask_BT",
        ),
        (
            "token_metrics",
            "the other end of the log-ratios",
            "np.percentile(log_ratio_BT[counted_BT], 1)",
            "np.percentile(log_ratio_BT[counted_BT], 99)",
        ),
        (
            "token_metrics",
            "the percentile of padding too",
            "np.percentile(log_ratio_BT[counted_BT], 1)",
            "np.percentile(log_ratio_BT, 1)",
        ),
        (
            "unfinite",
            "gradient norm not watched",
            ' or name == "optim/grad_norm"',
            "",
        ),
    ),
    *_rows(
        "methods/omniopd",
        (
            "peaks",
            "chunks may touch half-way",
            "all(abs(t - other) >= chunk for other in accepted)",
            "all(abs(t - other) >= chunk - 1 for other in accepted)",
        ),
        (
            "peaks",
            "ties go to the smaller t",
            "key=lambda t: (-entropy_T[t], -t)",
            "key=lambda t: (-entropy_T[t], t)",
        ),
        (
            "peaks",
            "a chunk may run past its response",
            "last = inside[-1] + 1 - chunk",
            "last = inside[-1]",
        ),
        (
            "chunk_rate",
            "prior from the sum, not the mean, of log-probs",
            "/ jnp.maximum(length_BT, 1.0)\n    similarity_BT",
            "\n    similarity_BT",
        ),
        (
            "chunk_rate",
            "prior not in the denominator",
            "/ (samples + alpha)",
            "/ samples",
        ),
        (
            "chunk_rate",
            "baseline subtracted outside of chunks too",
            "return jnp.where(inside_BT, rate_BT - centre, 0.0)",
            "return jnp.where(inside_BT, rate_BT, 0.0) - centre",
        ),
        (
            "chunk_rate",
            "a row's own chunks among the others",
            "rest_B1 = jnp.sum(rate_B1) - rate_B1",
            "rest_B1 = jnp.sum(rate_B1)",
        ),
        (
            "unaudited",
            "the first chunk of a row anchored",
            '_audited(scores, "chunk") < 0)',
            '_audited(scores, "chunk") < 1)',
        ),
    ),
    *_rows(
        "similarity",
        (
            "ned",
            "by the sum of the lengths",
            "Levenshtein.normalized_similarity(a[:MAX_CHARACTERS], b[:MAX_CHARACTERS])",
            "1 - Levenshtein.distance(a, b) / max(len(a) + len(b), 1)",
        ),
        (
            "rouge1",
            "words as a set",
            "Counter(_WORD.findall(text[:MAX_CHARACTERS].lower()))",
            "Counter(set(_WORD.findall(text[:MAX_CHARACTERS].lower())))",
        ),
        (
            "resolve",
            "values above 1 let through",
            "~((values >= 0) & (values <= 1))",
            "~(values >= 0)",
        ),
    ),
    *_rows(
        "remote",
        (
            "Client",
            "fewer texts taken for all",
            "if len(found) < n or not",
            "if not",
        ),
        (
            "Client",
            "a cache that forgets the seed",
            "whole = json.dumps([s.url, s.api, body], sort_keys=True)",
            'whole = json.dumps([s.url, s.api, body | {"seed": 0}], sort_keys=True)',
        ),
        (
            "Client",
            "replies never kept",
            "    if kept is not None:\n        _write(",
            "    if kept is None:\n        _write(",
        ),
        (
            "Client",
            "Retry-After not heeded",
            'wait = _asked_wait(reply.headers.get("Retry-After"), wait)',
            "pass",
        ),
        (
            "_spent",
            "a text taken for a number",
            "n if isinstance(n, int) else 0",
            "n or 0",
        ),
        (
            "_spent",
            "what was spent not counted",
            "n if isinstance(n, int) else 0",
            "0",
        ),
        (
            "connect",
            "undecodable replies not repeated",
            "        except httpx2.RequestError as error:\n            why",
            "        except httpx2.TransportError as error:\n            why",
        ),
        (
            "without_restated",
            "a repeated prefix kept",
            "            return text[len(prefix) - start :]\n",
            "            return text\n",
        ),
    ),
    Mutation(
        "_check_remote",
        "a server without an audit forgotten in silence",
        "validation.py",
        "    if not config.audit.chunks:\n        raise",
        "    if config.audit.chunks < 0:\n        raise",
        "audit_test.py",
    ),
    Mutation(
        "_check_audit",
        "a similarity out of range found in the run only",
        "validation.py",
        "similarity.resolve(c.similarity)(*similarity.PROBES)",
        "similarity.resolve(c.similarity)",
        "audit_test.py",
    ),
    Mutation(
        "resolve",
        "a missing function is not said to be one",
        "similarity.py",
        "except (ImportError, AttributeError) as error:",
        "except ImportError as error:",
        "similarity_test.py",
    ),
    *_rows(
        "audit",
        (
            "prefix_of",
            "the teacher sees a token of the chunk",
            "rollout.tokens_BT[b, rollout.prompt_length_B[b] : t],",
            "rollout.tokens_BT[b, rollout.prompt_length_B[b] : t + 1],",
        ),
        (
            "make_annotate",
            "gold tokens audited",
            "& (rollout.source_BT == STUDENT)",
            "",
        ),
        (
            "make_annotate",
            "a dropped chunk audited with count 0",
            "if found is not None]",
            "if found is not None or True]",
        ),
        (
            "make_annotate",
            "the mean in the place of the sum",
            "= values.sum()",
            "= values.mean()",
        ),
        (
            "seed_of",
            "the same continuations at every place",
            "[seed, step, row, anchor]",
            "[seed, step, row]",
        ),
        (
            "local_teacher",
            "samples of a prefix in the wrong place",
            "texts[i][number] = text_of(",
            "texts[i][(number + 1) % n] = text_of(",
        ),
    ),
    *_rows(
        "optimizer",
        (
            "build",
            "muon takes the embedding too",
            "leaf.ndim == 3",
            "leaf.ndim >= 2",
        ),
        (
            "schedule",
            "warm-up not taken off",
            "rest = max(steps - warmup_steps, 1)",
            "rest = max(steps, 1)",
        ),
        (
            "build",
            "b1 and b2 swapped",
            "optax.adamw(learning_rate, b1, b2, eps,",
            "optax.adamw(learning_rate, b2, b1, eps,",
        ),
    ),
    *_rows(
        "teachers",
        (
            "blend",
            "rate of the wrong side",
            "lambda t, s: t + rate * (s - t)",
            "lambda t, s: s + rate * (t - s)",
        ),
        (
            "start",
            "the student's buffers are shared, not copied",
            "        name: jax.tree.map(jnp.copy, params)\n",
            "        name: params\n",
        ),
        (
            "move",
            "a snapshot every step",
            "        elif step % teacher.every_steps == 0:\n",
            "        else:\n",
        ),
        (
            "in_context",
            "the whole chat replaced",
            '    return [*prompt[:-1], {**prompt[-1], "content": text}]\n',
            '    return [{**prompt[-1], "content": text}]\n',
        ),
    ),
    *_rows(
        "tasks",
        (
            "make",
            "splits overlap",
            "if question in rows or split_of(question) != split:",
            "if question in rows:",
        ),
        (
            "verify",
            "anything may follow the answer",
            "_RESPONSE.fullmatch(response)",
            "_RESPONSE.match(response)",
        ),
    ),
    *_rows(
        "data",
        (
            "order",
            "every epoch in the same order",
            "np.random.default_rng([seed, epoch])",
            "np.random.default_rng([seed])",
        ),
        (
            "encode",
            "a solution of exactly the limit dropped",
            "len(gold) <= max_response",
            "len(gold) < max_response",
        ),
    ),
    *_rows(
        "statistics",
        (
            "pass_at_k",
            "draws with replacement",
            "math.comb(n - right, k)",
            "math.comb(n - right, 1) ** k",
        ),
        (
            "repeated_tokens",
            "n-grams of all rows mixed",
            "np.concatenate([rows[:, None], grams], axis=1)",
            "grams",
        ),
    ),
    *_rows(
        "rewards",
        (
            "math",
            "alarms asked for off the main thread",
            "if threading.current_thread() is threading.main_thread():",
            "if True:",
        ),
    ),
    Mutation(
        "shared_vocab",
        "the wider head kept",
        "vocabulary.py",
        "shared = min(student_rows, teacher_rows)",
        "shared = max(student_rows, teacher_rows)",
        "data_test.py",
    ),
    Mutation(
        "documents",
        "other line breaks split documents",
        "sources.py",
        'source).split("\\n"), 1)',
        "source).splitlines(), 1)",
        "data_test.py",
    ),
    *_rows(
        "divergences",
        (
            "entry_clipped",
            "clip from below",
            "jnp.minimum(summands, clip)",
            "jnp.maximum(summands, clip)",
        ),
        (
            "entry_clipped",
            "directions swapped",
            'if direction == "forward_kl":\n        summands = _summands(log_t, log_s)',
            'if direction == "forward_kl":\n        summands = _summands(log_s, log_t)',
        ),
        (
            "entry_clipped",
            "weights of the two KLs swapped",
            "summands = beta * _summands(log_t, mixed)",
            "summands = (1.0 - beta) * _summands(log_t, mixed)",
        ),
    ),
    *_rows(
        "weights",
        (
            "log_ratio",
            "floor from above",
            "jnp.clip(ratio, max(floor, -bound), bound)",
            "jnp.clip(ratio, -bound, min(-floor, bound))",
        ),
        (
            "log_ratio",
            "bound on one side only",
            "max(floor, -bound), bound)",
            "floor, bound)",
        ),
        (
            "power_ratio",
            "sign",
            "jnp.exp(alpha * other_) - jnp.exp(alpha * student)",
            "jnp.exp(alpha * student) - jnp.exp(alpha * other_)",
        ),
        (
            "group_reward",
            "biased standard deviation",
            "jnp.maximum(group.count_B - 1, 1)",
            "jnp.maximum(group.count_B, 1)",
        ),
        (
            "group_reward",
            "rounded mean of equal rewards",
            "group.present_B & ~group.uniform_B",
            "group.present_B",
        ),
        (
            "has_peer",
            "every row has one",
            'return scores.extra["has_peer"]',
            'return 0 * scores.extra["has_peer"] + 1',
        ),
        (
            "accepted",
            "ratio upside down",
            "jnp.exp(log_ratio(scores, other=other))",
            "jnp.exp(-log_ratio(scores, other=other))",
        ),
        (
            "accepted",
            "inverse ignored",
            "((scores.uniform < ratio) != inverse)",
            "(scores.uniform < ratio)",
        ),
        (
            "accepted",
            "a draw of 0 accepts everything",
            "(scores.uniform < ratio)",
            "(scores.uniform <= ratio)",
        ),
        (
            "after_tokens",
            "off by one",
            "(scores.position >= count)",
            "(scores.position > count)",
        ),
        (
            "entropy_top_share",
            "the lowest entropies",
            "descending = -jnp.sort(-entropy_BT.ravel())",
            "descending = jnp.sort(entropy_BT.ravel())",
        ),
        (
            "entropy_top_share",
            "share of all places, padding too",
            "jnp.round(share * jnp.sum(inside_BT))",
            "jnp.round(share * inside_BT.size)",
        ),
        (
            "entropy_top_share",
            "source ignored",
            'if source != "any":\n        inside_BT = inside_BT & (',
            'if source == "any":\n        inside_BT = inside_BT & (',
        ),
        (
            "log_ratio_below",
            "not the complement",
            "return 1.0 - log_ratio_above(",
            "return log_ratio_above(",
        ),
    ),
    *_rows(
        "optimizer",
        (
            "schedule",
            "step one update late",
            "jnp.where(step < rest, peak, end)",
            "jnp.where(step <= rest, peak, end)",
        ),
        (
            "schedule",
            "cosine cannot rise from 0",
            "lambda step: end + (peak - end) * decay(step)",
            "optax.cosine_decay_schedule(peak, rest, alpha=end / peak if peak else 0)",
        ),
    ),
    *_rows(
        "methods/opd_plus",
        (
            "corrected",
            "cost for an advantage",
            "return log_u - 1.0",
            "return 1.0 - log_u",
        ),
        (
            "corrected",
            "half of the JSD forgotten",
            "return 0.5 * _log_mean(log_u)",
            "return _log_mean(log_u)",
        ),
        (
            "stopped",
            "sign",
            "return -u * log_u",
            "return u * log_u",
        ),
        (
            "corrected",
            "bound ignored",
            "bound=min(bound, _LARGEST)",
            "bound=_LARGEST",
        ),
        (
            "_log_u",
            "overflow",
            "bound=min(bound, _LARGEST)",
            "bound=bound if bound < _LARGEST else 1e9",
        ),
    ),
    *_rows(
        "methods/minillm",
        (
            "reward_to_go",
            "sum instead of a mean",
            "total_BT / jnp.where(remaining_BT > 0, remaining_BT, 1.0)",
            "total_BT",
        ),
        (
            "reward_to_go",
            "what was instead of what will be",
            "start_B, values_BT.T, reverse=True)",
            "start_B, values_BT.T)",
        ),
        (
            "reward_to_go",
            "other sources earn too",
            "scores.mask & (scores.source == STUDENT)",
            "scores.mask",
        ),
        (
            "_whiten",
            "mean over all places",
            "jnp.maximum(jnp.sum(inside_BT), 1)",
            "inside_BT.size",
        ),
        (
            "_to_go",
            "discount ignored",
            "value_B + discount * later_B",
            "value_B + later_B",
        ),
    ),
    *_rows(
        "methods/rlsd",
        (
            "evidence",
            "blind to the verdict",
            "return sign_BT, sign_BT * weights",
            "return sign_BT, jnp.abs(sign_BT) * weights",
        ),
        (
            "evidence",
            "symmetric in log space",
            "return math.log1p(-clip), math.log1p(clip)",
            "return -math.log1p(clip), math.log1p(clip)",
        ),
        (
            "evidence",
            "negative_only keeps the positive ones",
            "jnp.minimum(sign_BT, 0.0)",
            "jnp.maximum(sign_BT, 0.0)",
        ),
        (
            "evidence",
            "clipped after the exponential",
            "return jnp.exp(jnp.clip(gain_BT, low, high))",
            "return jnp.clip(jnp.exp(gain_BT) - jnp.exp(gain_BT) + jnp.exp(gain_BT), "
            "1 - clip, 1 + clip)",
        ),
        (
            "uniform_group",
            "mixed groups too",
            "group.uniform_B & (group.count_B > 1)",
            "group.present_B & (group.count_B > 1)",
        ),
        (
            "uniform_group",
            "sizes not scaled to a mean of 1",
            "jnp.where(mean_B > 0, mean_B, 1.0)",
            "jnp.where(mean_B > 0, 1.0, 1.0)",
        ),
        (
            "evidence_report",
            "tokens without a verdict counted",
            "& (sign_BT != 0)",
            "& (sign_BT < 2)",
        ),
    ),
    *_rows(
        "measures",
        (
            "term_metrics",
            "mean weight over all tokens, not the scope",
            "total / jnp.maximum(tokens, 1)",
            "total / inside_BT.size",
        ),
        (
            "term_metrics",
            "tokens without an advantage are flips",
            "turned_BT & (advantage_BT != 0)",
            "turned_BT",
        ),
    ),
    *_rows(
        "reports",
        (
            "information_gain",
            "PMI per token, not per response",
            "jnp.sum(gain_BT, axis=1)",
            "jnp.mean(gain_BT, axis=1)",
        ),
        (
            "information_gain",
            "uniform groups counted by rows",
            "share_B = 1.0 / jnp.maximum(group.count_B, 1)",
            "share_B = 1.0 + 0.0 * group.count_B",
        ),
        (
            "information_gain",
            "correct and wrong swapped",
            '(("correct", right_B), ("wrong", ~right_B))',
            '(("correct", ~right_B), ("wrong", right_B))',
        ),
    ),
    *_rows(
        "peers",
        ("choose", "a row sees itself", "may_BB, False)", "may_BB, may_BB.diagonal())"),
        ("choose", "of any prompt", "(group_B[:, None] == group_B) & ", "True & "),
        (
            "choose",
            "gold rows serve",
            "good_B = student_B & (np.asarray(reward_B) >=",
            "good_B = (np.asarray(reward_B) >=",
        ),
        (
            "choose",
            "threshold exclusive",
            "np.asarray(reward_B) >= success",
            "np.asarray(reward_B) > success",
        ),
        ("make_annotate", "a row shows its own text", "texts[peer_B[b]]", "texts[b]"),
        (
            "make_annotate",
            "every row has a peer",
            "has_B[:, None], student_BT",
            "has_B[:, None] | True, student_BT",
        ),
    ),
    *_rows(
        "leaks",
        ("rate", "at the beginning only", "re.search(pattern", "re.match(pattern"),
        ("make_annotate", "old rows count", " & (rollout.age_B == 0)", ""),
    ),
    *_rows(
        "methods/sdpo",
        ("distil", "the teacher's support", 'support="student"', 'support="teacher"'),
        ("distil", "shares swapped", "beta=alpha", "beta=1 - alpha"),
        ("distil", "ends swapped", "if alpha == 0:", "if alpha == 1:"),
        ("distil", "not truncated", "jnp.minimum(ratio, is_clip)", "ratio"),
        (
            "distil",
            "ratio differentiated",
            "jax.lax.stop_gradient(divergences.log_prob(student, outputs.tokens))",
            "divergences.log_prob(student, outputs.tokens)",
        ),
    ),
    *(
        Mutation("of", bug, "groups.py", old, new, "weights_test.py")
        for bug, old, new in (
            (
                "gold rows in the mean",
                "scores.mask & (scores.source == STUDENT), axis=1)",
                "scores.mask, axis=1)",
            ),
            (
                "masked rows in the mean",
                "jnp.any(scores.mask & (scores.source",
                "jnp.any((scores.source",
            ),
            (
                "the whole batch as one group",
                "(scores.group[:, None] == scores.group) & present_B",
                "(scores.group[:, None] >= -1) & present_B",
            ),
        )
    ),
    *_rows(
        "methods/opsd",
        ("clipped", "clip ignored", "clip=clip,", "clip=None,"),
        ("clipped", "beta ignored", "beta=beta,", "beta=0.5,"),
    ),
    Mutation(
        "state_forward_kl",
        "sign",
        "methods/tropd.py",
        "return -scores.forward_kl[other]",
        "return scores.forward_kl[other]",
        "methods_exact_test.py",
    ),
    Mutation(
        "k1",
        "squared",
        "signals.py",
        "return estimators.k1(*_sampled(outputs, other))",
        "return estimators.k2(*_sampled(outputs, other))",
        "methods_exact_test.py",
    ),
    Mutation(
        "enter",
        "rows that come start with the loop",
        "rollout.py",
        "start_B=late_R)",
        "start_B=0 * late_R)",
        "engine_test.py",
    ),
    Mutation(
        "in_slots",
        "rows see what others left in the ring",
        "rollout.py",
        "answered_BS = (age_S > 0) & (number_BS >= 0)",
        "answered_BS = (age_S > 0) & (number_BS > -99)",
        "engine_test.py",
    ),
    Mutation(
        "_record",
        "ended rows are written over",
        "rollout.py",
        "jnp.where(live_B[:, None], new_B[:, None], kept_B1)",
        "new_B[:, None]",
        "engine_test.py",
    ),
    Mutation(
        "with_packing",
        "micro-batches packed as if they lay one after the other",
        "layout.py",
        "reshape(shards, -1, accumulate).swapaxes(1, 2).ravel()",
        "ravel()",
        "packing_test.py",
    ),
    Mutation(
        "int8",
        "one scale for a whole matrix",
        "models/quantize.py",
        "np.abs(whole).max(axis=1) / 127.0",
        "np.abs(whole).max(axis=(1, 2))[:, None].repeat(whole.shape[2], 1) / 127.0",
        "quantize_test.py",
    ),
    Mutation(
        "int8",
        "cut, not rounded",
        "models/quantize.py",
        "np.rint(whole / steps)",
        "np.trunc(whole / steps)",
        "quantize_test.py",
    ),
    Mutation(
        "Decoder",
        "layers are not made again",
        "models/decoder.py",
        "nn.remat(Layer, prevent_cse=False) if c.remat else Layer",
        "Layer",
        "models_test.py",
    ),
    Mutation(
        "shared_reading",
        "groups over two devices",
        "stages.py",
        "if rows // e.mesh.devices.size % group == 0",
        "if rows % group == 0",
        "evaluate_test.py",
    ),
    Mutation(
        "make_evaluate",
        "every row reads its prompt",
        "stages.py",
        "copies=shared_reading(e, rows, c.eval.k)",
        "copies=1",
        "evaluate_test.py",
    ),
    Mutation(
        "Layer.linear",
        "scales are not applied",
        "models/decoder.py",
        "y *= scale.astype(x.dtype)[None]",
        "y *= 1 + 0 * scale.astype(x.dtype)[None]",
        "quantize_test.py",
    ),
    Mutation(
        "_cast",
        "scales in the compute type",
        "experiment.py",
        """endswith("_scale']")""",
        """endswith("_steps']")""",
        "quantize_test.py",
    ),
    *_rows(
        "engine",
        (
            "in_blocks",
            "rows leave without what they wrote",
            "                _keep(written, held)\n                held = _refit",
            "                held = _refit",
        ),
        (
            "in_blocks",
            "rows come over what others wrote",
            "                _keep(written, held)\n                held = _enter",
            "                held = _enter",
        ),
        (
            "in_blocks",
            "rows that have ended stay",
            "rows = min(n for n in row_sizes(first) if n >= live)",
            "rows = first",
        ),
        (
            "in_blocks",
            "ends while rows wait",
            "if done_DB.all() and not waiting_D.any():",
            "if done_DB.all():",
        ),
        (
            "in_blocks",
            "no room for the next block",
            "needed = min(longest + block - 1, max_new_tokens)",
            "needed = min(longest, max_new_tokens)",
        ),
        (
            "_programs",
            "the whole cache from the first block on",
            "slots=block,",
            "slots=max_new_tokens,",
        ),
        (
            "_coming",
            "places of rows that go on",
            "np.where(free_D >= wanted_D, wanted_D, 0)",
            "wanted_D",
        ),
        (
            "_enter",
            "the first rows that waited, again and again",
            "split.length_B.shape[1] - waiting_D[:, None] + number_U",
            "split.length_B.shape[1] - waiting_D.max() * 0 - 1 + 0 * number_U",
        ),
        (
            "_enter",
            "in places of rows that go on",
            "np.argsort(~done_DB, axis=1",
            "np.argsort(done_DB, axis=1",
        ),
        (
            "_resize",
            "the ring is cut, not turned",
            "width + draw_S % old",
            "width + jnp.arange(room) % old",
        ),
        (
            "_keep",
            "a row's first draw is the loop's",
            "(start_DB[..., None] + column_L) % len(column_L)",
            "(0 * start_DB[..., None] + column_L) % len(column_L)",
        ),
        (
            "_refit",
            "keeps the rows that have ended",
            "np.argsort(done_DB, axis=1",
            "np.argsort(~done_DB, axis=1",
        ),
        (
            "_refit",
            "rows forget where they came from",
            "np.take_along_axis(held.row_DB, kept_DB, axis=1)",
            "held.row_DB[:, :rows]",
        ),
        (
            "_resize",
            "cache of other rows",
            "cache = rows(holder.cache, 1)",
            "cache = jax.tree.map(lambda x: x[:, : len(kept_B)], holder.cache)",
        ),
    ),
    *_rows(
        "stops",
        (
            "divergence",
            "the teacher's log-ratio, not the student's",
            "gap_BW = seen.student_logp_BW - seen.teacher_logp_BW",
            "gap_BW = seen.teacher_logp_BW - seen.student_logp_BW",
        ),
        (
            "repetition",
            "an n-gram repeats itself",
            "jnp.tri(grams, k=-1, dtype=bool)",
            "jnp.tri(grams, dtype=bool)",
        ),
        (
            "repetition",
            "the last token of the n-gram not compared",
            "for n in range(ngram):",
            "for n in range(ngram - 1):",
        ),
    ),
    *_rows(
        "watch",
        (
            "_read",
            "tokens one draw late",
            "first = loop.step - 1 - block",
            "first = loop.step - block",
        ),
        (
            "_read",
            "positions count from the start of the loop",
            "number_BK = draw_K - loop.start_B[:, None]",
            "number_BK = draw_K + 0 * loop.start_B[:, None]",
        ),
        (
            "_read",
            "scored by the state behind the token",
            "jnp.concatenate([reading.hidden_BD[:, None], hidden_BKD[:, :-1]], 1)",
            "hidden_BKD",
        ),
        (
            "_read",
            "keys of the block in the oldest slots",
            "slot_K = width + draw_K % room",
            "slot_K = width + (draw_K - first)",
        ),
        (
            "_read",
            "padded columns of the head count",
            "decoder.head(params)[: watch.vocabulary]",
            "decoder.head(params)",
        ),
        (
            "_read",
            "temperature ignored",
            "tempered(logits_of(hidden, head_VD), watch.temperature)",
            "logits_of(hidden, head_VD)",
        ),
        (
            "_seen",
            "rows with too few tokens are judged",
            "(draw_W[0] >= loop.start_B) & ~loop.done_B",
            "~loop.done_B",
        ),
        (
            "_seen",
            "the newest draw is looked at, too",
            "draw_W = loop.step - 1 - window",
            "draw_W = loop.step - window",
        ),
        (
            "enter",
            "rows that come are predicted from those that left",
            'reading.hidden_BD.at[place_R].set(hidden_RD, mode="drop"),',
            "reading.hidden_BD,",
        ),
        (
            "enter",
            "the prompts of those that left are kept",
            "rollout.put_rows(reading.cache, kv, place_R),",
            "reading.cache,",
        ),
        (
            "look",
            "a stop ends what has ended already",
            "done_B=loop.done_B | stop_B",
            "done_B=stop_B",
        ),
    ),
    *_rows(
        "layout",
        (
            "dealt",
            "micro-batches lie one after the other",
            "reshape(shards, accumulate, -1).swapaxes(1, 2).ravel()",
            "ravel()",
        ),
        (
            "dealt",
            "rows that nobody needs count",
            "parts = packing.even(_needed(batch), shards * accumulate)",
            "parts = packing.even(batch.rollout.length_B, shards * accumulate)",
        ),
    ),
    Mutation(
        "even",
        "in turn, whatever their length",
        "packing.py",
        "part = int(np.argmin(tokens))",
        "part = int(np.argmin([len(rows) for rows in taken]))",
        "layout_test.py",
    ),
    Mutation(
        "even",
        "a part may have more rows than others",
        "packing.py",
        "if len(taken[part]) == each:",
        "if len(taken[part]) == each + 1:",
        "layout_test.py",
    ),
    Mutation(
        "keep_rollouts",
        "log-probs of the rows that lie there now",
        "observe.py",
        "np.asarray(parts[key])[place_B]",
        "np.asarray(parts[key])",
        "train_features_test.py",
    ),
    Mutation(
        "waits_for_rewards",
        "a gate forgotten",
        "reads.py",
        "return waits or any(",
        "return any(",
        "teachers_doc_test.py",
    ),
    Mutation(
        "waits_for_rewards",
        "terms forgotten",
        "reads.py",
        "any(needs_rewards(term) or _reports_rewards(term) for term in terms)",
        "any(_reports_rewards(term) for term in terms)",
        "train_features_test.py",
    ),
    Mutation(
        "waits_for_rewards",
        "reports forgotten",
        "reads.py",
        "needs_rewards(term) or _reports_rewards(term)",
        "needs_rewards(term)",
        "teachers_doc_test.py",
    ),
    Mutation(
        "describe_rollouts",
        "rewards that nothing reads are never given",
        "observe.py",
        "if e.verifier is not None and not e.rewards_first:",
        "if e.verifier is not None and e.rewards_first:",
        "train_features_test.py",
    ),
    Mutation(
        "_self_attention",
        "a run does not see itself",
        "models/decoder.py",
        "visible_BTS[:, start:end, :end],",
        "visible_BTS[:, start:end, :end] & (jnp.arange(end) < start),",
        "models_test.py",
    ),
    *_rows(
        "packing",
        (
            "_first_fit",
            "a bin may overflow",
            "if taken + length <= width",
            "if taken <= width",
        ),
        (
            "_lay_out",
            "positions count through the bin",
            "position_RW[bins_of[row], inside] = own",
            "position_RW[bins_of[row], inside] = own + starts[row]",
        ),
        (
            "_lay_out",
            "a bin is one segment",
            "segment_RW[bins_of[row], inside] = row + 1",
            "segment_RW[bins_of[row], inside] = 1",
        ),
        (
            "_lay_out",
            "shift ignored",
            "np.clip(np.arange(places) + shift, 0,",
            "np.clip(np.arange(places), 0,",
        ),
        (
            "plan",
            "the more expensive way",
            "if bins * shared >= rows * alone:",
            "if bins * shared < rows * alone:",
        ),
        (
            "_spread_backward",
            "empty places get a gradient",
            "jnp.where(read(packing)[1][..., None] > 0, read_RWD, 0)",
            "read_RWD",
        ),
    ),
    Mutation(
        "_distance",
        "segments see each other",
        "models/decoder.py",
        "seen_BTS = seen_BTS & (segment_BT[:, :, None] == segment_BT[:, None])",
        "seen_BTS = seen_BTS",
        "packing_test.py",
    ),
    Mutation(
        "with_packing",
        "a teacher's rows as long as the student's",
        "layout.py",
        "np.where(length_B > 0, length_B + shift_B, 0)",
        "length_B",
        "packing_test.py",
    ),
    Mutation(
        "chunks",
        "last chunk that is not full left out",
        "chunks.py",
        "chunks=-(-jnp.max(inside_S) // size),",
        "chunks=jnp.max(inside_S) // size,",
        "chunks_test.py",
    ),
    Mutation(
        "chunks",
        "walks what is outside of the mask, too",
        "chunks.py",
        "chunks=-(-jnp.max(inside_S) // size),",
        "chunks=-(-mask_SN.shape[1] // size),",
        "chunks_test.py",
    ),
    Mutation(
        "chunks",
        "as many chunks as the emptiest shard needs",
        "chunks.py",
        "chunks=-(-jnp.max(inside_S) // size),",
        "chunks=-(-jnp.min(inside_S) // size),",
        "chunks_test.py",
    ),
    Mutation(
        "chunks",
        "results in the order of the walk",
        "chunks.py",
        "return jax.tree.map(lambda x: x[place_N], held)",
        "return jax.tree.map(lambda x: x[: len(place_N)], held)",
        "chunks_test.py",
    ),
    Mutation(
        "chunks",
        "last chunk filled up with the last token again",
        "chunks.py",
        'token_C = order_N.at[place_C].get(mode="fill", fill_value=len(order_N))',
        'token_C = order_N.at[place_C].get(mode="clip")',
        "chunks_test.py",
    ),
    Mutation(
        "sum_over_chunks",
        "head's gradient of the last chunk only",
        "chunks.py",
        "sums = jax.tree.map(jnp.add, sums, added)",
        "sums = added",
        "chunks_test.py",
    ),
    Mutation(
        "sum_over_chunks",
        "sums of the first shard only",
        "chunks.py",
        "loss, sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), (loss, sums))",
        "loss, sums = jax.tree.map(lambda x: x[0], (loss, sums))",
        "chunks_test.py",
    ),
    Mutation(
        "sum_backward",
        "cotangent of the loss ignored",
        "chunks.py",
        "(array * d_loss).astype",
        "(array * 1.0).astype",
        "objective_test.py",
    ),
    Mutation(
        "strips_forward",
        "last strip left out",
        "chunks.py",
        "fori_loop(0, len(logits) // size, step, carry)",
        "fori_loop(0, len(logits) // size - 1, step, carry)",
        "chunks_test.py",
    ),
    Mutation(
        "strips_forward",
        "loss of the last strip only",
        "chunks.py",
        "return loss + value, _put(held, parts, at, size), rows, _cut",
        "return value, _put(held, parts, at, size), rows, _cut",
        "chunks_test.py",
    ),
    Mutation(
        "strips_forward",
        "logits in place of their gradient",
        "chunks.py",
        "rows = _put(rows, d_strip, at, size)",
        "pass",
        "chunks_test.py",
    ),
    Mutation(
        "strips_forward",
        "what goes with a strip is that of the first",
        "chunks.py",
        "grad(strip, _cut(rest, at, size), shared)",
        "grad(strip, _cut(rest, 0, size), shared)",
        "chunks_test.py",
    ),
    Mutation(
        "strips_forward",
        "the array read as it was, and copied for that",
        "chunks.py",
        "        rows = _put(rows, d_strip, at, size)\n",
        "        strip = _cut(rows, at + 1, size)\n"
        "        rows = _put(rows, d_strip, at, size) + 0 * jnp.sum(strip)\n",
        "objective_test.py",
    ),
    Mutation(
        "strips_backward",
        "cotangent of the loss ignored",
        "chunks.py",
        "return d_logits * cotangents[0], None, None",
        "return d_logits, None, None",
        "chunks_test.py",
    ),
    Mutation(
        "in_strips",
        "last strip left out",
        "chunks.py",
        "tokens // size, step, found)",
        "tokens // size - 1, step, found)",
        "chunks_test.py",
    ),
    Mutation(
        "strip_tokens",
        "one core cuts chunks that fit its cache",
        "experiment.py",
        "mib = max(2 * (os.cpu_count() or 1), 4)",
        "mib = 2 * (os.cpu_count() or 1)",
        "chunks_test.py",
    ),
    Mutation(
        "strip_tokens",
        "accelerators get strips, too",
        "experiment.py",
        'if asked or jax.default_backend() != "cpu":',
        "if asked:",
        "chunks_test.py",
    ),
    Mutation(
        "strip_of",
        "a strip that does not divide its chunk",
        "chunks.py",
        "return next(size for size in range(most, 0, -1) if chunk_tokens % size == 0)",
        "return most",
        "chunks_test.py",
    ),
    *_rows(
        "panel",
        (
            "combine",
            "a mixture of log-probabilities, not probabilities",
            '    if panel.kind == "mixture":\n',
            '    if panel.kind == "":\n',
        ),
        (
            "combine",
            "a product that is not normalised",
            "return jax.nn.log_softmax(jnp.sum(weighted, axis=0), axis=-1)",
            "return jnp.sum(weighted, axis=0)",
        ),
        (
            "combine",
            "logits taken for log-probabilities",
            "logp = [jax.nn.log_softmax(logits[name], axis=-1) for name in shares]",
            "logp = [logits[name] for name in shares]",
        ),
        (
            "combine",
            "0 times -inf",
            "jnp.where(terms[1] > 0, terms[1] * terms[0], 0.0)",
            "terms[1] * terms[0]",
        ),
        (
            "member_weights",
            "not shared among those who serve",
            "return given / jnp.sum(given, axis=0)",
            "return given / sum(shares.values())",
        ),
        (
            "member_weights",
            "0 / 0 where nobody serves",
            "jnp.where(jnp.sum(serving, axis=0) > 0, serving, jnp.stack(whole))",
            "serving",
        ),
        (
            "combine_all",
            "the first panel's members under every name",
            "panel.name: combine(panel, logits, serves)",
            "panel.name: combine(list(panels)[0], logits, serves)",
        ),
        (
            "shares",
            "weights ignored",
            "weights = self.weights or (1.0,) * len(self.members)",
            "weights = (1.0,) * len(self.members)",
        ),
        (
            "with_members",
            "members of weight 0 are loaded",
            "set(panel.shares)",
            "set(panel.members)",
        ),
        (
            "check",
            "a panel in a panel gets through to unknown models",
            "        if name in panels:\n",
            "        if name in ():\n",
        ),
        (
            "_check_weights",
            "negative weights",
            'if not 0 <= weight < float("inf"):',
            "if weight != weight:",
        ),
    ),
    Mutation(
        "scope",
        "rows that nobody serves count",
        "objective.py",
        "inside_BT = inside_BT & scores.serves[name][:, None]",
        "inside_BT = inside_BT",
        "panel_test.py",
    ),
    Mutation(
        "term_metrics",
        "tokens counted, not rows",
        "measures.py",
        "jnp.sum(jnp.any(left_out_BT, axis=1))",
        "jnp.sum(left_out_BT)",
        "panel_test.py",
    ),
    Mutation(
        "_per_token",
        "who serves is not handed to the loss",
        "objective.py",
        "        serves=_per_token(batch),\n",
        "        serves={},\n",
        "panel_test.py",
    ),
    Mutation(
        "_strip_loss",
        "the first member in place of the panel",
        "objective.py",
        "logits |= panel.combine_all(panels, logits, rows.serves)",
        "logits |= {p.name: logits[p.members[0]] for p in panels}",
        "panel_test.py",
    ),
    Mutation(
        "follows",
        "a number is no text",
        "teachers.py",
        "{str(value) for value in",
        "{value for value in",
        "panel_test.py",
    ),
    Mutation(
        "served",
        "a panel serves what all members do",
        "teachers.py",
        "np.any(members, axis=0)",
        "np.all(members, axis=0)",
        "panel_test.py",
    ),
    Mutation(
        "with_serves",
        "by row of the batch, not of the data set",
        "collect.py",
        "{name: rows[ids] for name, rows in served.items()}",
        "{name: rows[ids * 0] for name, rows in served.items()}",
        "panel_test.py",
    ),
    *_rows(
        "gate",
        (
            "observe",
            "rate of the wrong side",
            "gate.reward + rate * (outcome.reward - gate.reward)",
            "outcome.reward + rate * (gate.reward - outcome.reward)",
        ),
        (
            "is_open",
            "the clock ignored",
            "step - gate.step >= every_steps",
            "step >= every_steps",
        ),
        (
            "is_open",
            "the margin exclusive",
            "gate.reward >= gate.reward_then + reward_margin",
            "gate.reward > gate.reward_then + reward_margin",
        ),
        (
            "is_open",
            "truncation free",
            "outcome.truncation <= max_truncation",
            "outcome.truncation <= 1",
        ),
        (
            "_grown",
            "growth in place of 1 + growth",
            "else (1 + growth) * length",
            "else growth * length",
        ),
        (
            "passed",
            "the mean, not the average, is what must be beaten",
            "return Gate(step, gate.reward, gate.reward, outcome.length)",
            "return Gate(step, gate.reward, outcome.reward, outcome.length)",
        ),
    ),
    Mutation(
        "pass_gates",
        "decides by the average of the update before",
        "teachers.py",
        "now = gate.observe(now, outcome, rate=teacher.reward_rate)",
        "gate.observe(now, outcome, rate=teacher.reward_rate)",
        "gate_test.py",
    ),
    Mutation(
        "outcome",
        "prompts counted",
        "diagnostics.py",
        "length=float(np.percentile(lengths, 95)),",
        "length=float(np.percentile(np.asarray(rollout.length_B), 95)),",
        "gate_test.py",
    ),
    Mutation(
        "compared",
        "no fact is about a model with a route",
        "diagnostics.py",
        '    return rest.partition("_")[2] or "teacher"\n',
        '    return "teacher"\n',
        "panel_test.py",
    ),
    Mutation(
        "serves_BT",
        "every row",
        "diagnostics.py",
        "    if name not in batch.serves:\n",
        "    if True:\n",
        "panel_test.py",
    ),
    Mutation(
        "examples",
        "fields as they are, not as text",
        "sources.py",
        '{column: _text(row, column, "", where) for column in fields}',
        "{column: _value(row, column, where) for column in fields}",
        "panel_test.py",
    ),
]


class Outcome(NamedTuple):
    """``caught_by`` names the first failing test; ``trouble``, why there is none."""

    caught_by: str
    trouble: str


def run_tests(test: str, cache: Path, mutation: Mutation | None = None) -> Outcome:
    """The outcome of one test file on a copy of the project, ``mutation`` applied."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        for item in COPIED:
            _copy(ROOT / item, folder / item)
        if mutation is not None:
            path = folder / "jopd" / mutation.file
            text = path.read_text()
            if (count := text.count(mutation.old)) != 1:
                return Outcome("", f"text occurs {count} times in {mutation.file}")
            path.write_text(text.replace(mutation.old, mutation.new))
        return _pytest(folder, test, cache)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def _pytest(folder: Path, test: str, cache: Path) -> Outcome:
    # -m pytest puts the copy first on sys.path, before an installed jopd.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "--tb=line", f"tests/{test}"]
    # A bug changes few programs: the others come compiled from the run without any.
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return Outcome("", "survived")
    failed = re.search(r"^FAILED \S+?::(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Outcome(failed.group(1), "")
    # A syntax or import error says nothing about the tests.
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Outcome("", f"pytest exit {done.returncode}: {' '.join(last)}")


def selected(only: str) -> list[Mutation]:
    return [m for m in MUTATIONS if only in m.file or only in m.kernel]


def report(mutations: list[Mutation], cache: Path, jobs: int) -> int:
    """Runs the tests without and then with each bug, prints; the exit code."""
    with ThreadPoolExecutor(jobs) as pool:
        tests = sorted({m.test for m in mutations})
        clean = list(pool.map(lambda test: run_tests(test, cache), tests))
        for test, outcome in zip(tests, clean, strict=True):
            if outcome.trouble != "survived":
                why = outcome.caught_by or outcome.trouble
                print(f"{test} fails without any bug: {why}", file=sys.stderr)
                return 1
        print("| kernel | planted bug | caught by |\n|---|---|---|", flush=True)
        outcomes = pool.map(lambda m: run_tests(m.test, cache, m), mutations)
        caught = 0
        for mutation, outcome in zip(mutations, outcomes, strict=True):
            verdict = f"`{outcome.caught_by}`" if outcome.caught_by else outcome.trouble
            name = f"{mutation.file.removesuffix('.py')}.{mutation.kernel}"
            print(f"| `{name}` | {mutation.bug} | {verdict} |", flush=True)
            caught += bool(outcome.caught_by)
    print(f"\n{caught} of {len(mutations)} planted bugs caught")
    return 0 if caught == len(mutations) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's or kernel's name")
    parser.add_argument("--jobs", type=int, default=2, help="test runs at a time")
    options = parser.parse_args()
    mutations = selected(options.only)
    if not mutations:
        print(f"--only={options.only} matches no row", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mutate-cache-") as cache:
        return report(mutations, Path(cache), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
