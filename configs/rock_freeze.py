"""Rock-Freeze (arXiv:2605.09253): ids that carry much KL, and keep it, are left out.

    python -m jopd.main --config=configs/rock_freeze.py  # words

    L = sum_t w_t KL(S || T)_t / sum_t w_t,   w_t = 0 where y_t is a rock, else 1

Rocks are the ids with the highest frequency times mean KL. By a reader's note the paper
takes the first 100, ranked by a run before; ``ids=(...)`` in the place of memory and
its numbers is that. Here the run ranks its own tokens and freezes from its middle on,
which is ours; 10 of the bundled pair's 588 ids, without the commonest, are inferred.
The division by the kept weight is the released code's. See docs/methods/rock_freeze.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "rock_freeze"
    c.rollout.prompts_per_step = 16
    c.memory.rocks = dict(function="rock.statistics", decay=1.0)
    # Large vocabularies: the first 100.
    rocks = dict(memory="rocks", top=10, drop_most_frequent=1, min_count=2)
    half = c.get_ref("steps") // 2
    frozen = dict(function="rock.frozen", after=half, on="label", **rocks)
    c.loss.opd = dict(
        signal="reverse_kl",
        weights=dict(frozen=frozen),
        normalizer="weights",
    )
    same = {key: c.loss.opd.weights.frozen.get_ref(key) for key in rocks}
    c.loss.opd.report = dict(function="rock.carried", **same)
    return c
