"""OPD on the tokens that both models find likely (many faces of OPD, arXiv:2605.11182).

    python -m jopd.main --config=configs/restricted_opd.py  # words

    L = mean of KL(S' || T'),   S', T': student and teacher, each summing to 1 on
    (top k of S) with (top k of T) at every state; k = 20, mean per row, then over rows

Paper: the set, k, the form (its authors' default; form="stopped" without renormalising
is its other fix), the reduction of its code. form="naive" is what it warns of: that sum
falls when the student moves its mass off the set. Inferred: the learning rate. The
paper's rollouts are drawn with ``--config.rollout.top_p=0.95``, these are not. See
docs/methods/restricted_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "restricted_opd"
    c.rollout.prompts_per_step = 16
    c.loss.opd = dict(
        signal="restricted_kl",
        direction="reverse_kl",
        support="intersection",
        k=20,
        form="renormalised",
    )
    c.facts.shared = dict(function="overlap", k=c.loss.opd.get_ref("k"))
    c.loss.opd.report = dict(function="fact", fact="shared")
    c.objective.normalizer = "sequences"
    return c
