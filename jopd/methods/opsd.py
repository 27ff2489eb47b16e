"""OPSD, on-policy self-distillation (arXiv:2601.18734)."""

import jax

from jopd.losses import divergences
from jopd.types import Outputs


def clipped(
    outputs: Outputs,
    *,
    direction: str = "forward_kl",
    clip: float | None = 0.05,
    beta: float = 0.5,
    k: int | None = None,
    renormalize: str = "none",
    both_sides: bool = False,
    other: str = "teacher",
) -> jax.Array:
    """Divergence with every summand of the vocabulary cut at ``clip``.

    ``direction`` is forward_kl (KL(other || student)), reverse_kl or jsd, whose mixture
    gives the teacher the share ``beta``; see ``divergences.entry_clipped``. The clip is
    of the released code's later version, the paper's loss is ``clip=None``. The
    cut is from above, on each summand before the sum, as in that code; ``both_sides``
    cuts at -``clip``, too. With ``k``
    only the other's k likeliest tokens are named, the rest are one summand, or none of
    them where ``renormalize`` is "teacher" or "both".
    """
    return divergences.entry_clipped(
        outputs.logits["student"],
        outputs.logits[other],
        direction=direction,
        clip=clip,
        beta=beta,
        k=k,
        renormalize=renormalize,
        both_sides=both_sides,
    )
