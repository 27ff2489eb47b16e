"""KAT (arXiv:2606.09471): rollouts end where teacher and student only agree.

    python -m jopd.main --config=configs/kat_stop.py  # words

The rule of `configs/kat.py` while rollouts are written: the teacher reads along, looks
every ``rollout.block_tokens`` draws, and a rollout ends at its trigger, the last of 4
windows in a row of which the mean KL(S || T) is below tau. That run of windows is left
out of the loss as there. What would have been written behind costs nothing; the teacher
reads every token once more. Paper and inferred: as `configs/kat.py`; the looks are
ours. See docs/methods/kat.md
"""

from jopd.configs import load


def get_config():
    c = load("kat")
    c.name = "kat_stop"
    c.rollout.block_tokens = 16
    rule = c.loss.opd.weights.before
    same = ("memory", "spared", "patience", "warmup_steps", "least", "exempt")
    c.rollout.early_stop = dict(
        function="kat.agreement",
        teacher="teacher",
        window=0,  # all that a rollout has
        limit=0.0,
        mean_over=rule.get_ref("window"),
        **{key: rule.get_ref(key) for key in same},
    )
    return c
