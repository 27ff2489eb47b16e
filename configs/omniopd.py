"""OmniOPD (arXiv:2606.01476): a teacher that only writes text judges chunks.

    python -m jopd.main --config=configs/omniopd.py  # text
    python -m jopd.main --config=configs/omniopd.py --config.audit.teacher=http \\
        --config.remote.url=http://localhost:8000/v1 --config.remote.model=NAME \\
        --config.teacher.path=

    L = - sum_c (pihat_c - b_c) sum_{t in c} log student(y_t)
        + beta * sum_{t in no chunk} KL(reference || student)_t,   mean over sequences
    pihat_c = stop_gradient((k_c + alpha * pibar_c) / (N + alpha))

k_c is the summed similarity of the chunk and N continuations of its prefix by the
teacher, pibar_c the current student's mean probability of its tokens; alpha, beta and
the prior are the paper's, the similarity is its alternative. b_c, the mean of pihat
over the chunks of all other rows, is not: it leaves the mean gradient as it is and
takes out the noise of a weight that is nearly constant. The paper's form, and its
default similarity:

    --config.loss.chunks.weights.rate.baseline=none
    --config.audit.similarity=ned

The paper's 10 chunks of 50 tokens and 10 samples are cut to the bundled task's short
responses. See docs/methods/omniopd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="text")
    c.name = "omniopd"
    # An audit costs more than the update: fewer rollouts and updates than elsewhere.
    c.steps, c.rollout.prompts_per_step = 200, 16
    c.optimizer.learning_rate = 2e-4  # bundled pair; the paper's is 1e-6
    c.optimizer.warmup = 0.25
    c.audit.chunks, c.audit.chunk_tokens, c.audit.samples = 3, 8, 8
    c.audit.similarity = "rouge1"  # over words; "ned", over characters: the paper's
    # alpha and coef: paper. The reference makes --config.audit.samples change both.
    rate = dict(
        function="omniopd.chunk_rate",
        alpha=1.0,
        samples=c.audit.get_ref("samples"),
        baseline="leave_one_out",  # ours; "none": the paper's
    )
    c.loss.chunks = dict(signal="nll", weights=dict(rate=rate), normalizer="rows")
    c.loss.anchor = dict(
        signal="forward_kl",
        other="reference",
        weights=dict(unaudited=dict(function="omniopd.unaudited")),
        coef=0.1,
        normalizer="rows",
    )
    return c
