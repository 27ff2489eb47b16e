"""StableOPD on a text file of short stories: real pretrained models, no verifier.

    python -m jopd.main --config=configs/stories.py --config.student.path=STUDENT \\
        --config.teacher.path=TEACHER --config.data.path=STORIES.txt

The first 16 tokens of each document are a prompt, how it goes on is the gold solution.
The models are base language models that never end, so every rollout has its full
length.

StableOPD (arXiv:2604.08527) with its sampled-token surrogate replaced by the exact
reverse KL that it estimates, which needs a teacher with logits and has no estimator
noise (loss.opd.signal); the mixture with gold is kept, the reference KL is off: this
student is meant to leave where it starts. Results: docs/results/real_pair.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "stories"
    c.steps = 1150
    c.optimizer.name, c.optimizer.learning_rate = "muon", 8e-3
    c.optimizer.warmup = 50 / 1150
    c.data.size = 0  # the whole file
    c.data.eval_rows = 64
    c.data.prefix_tokens = 16
    c.rollout.prompts_per_step, c.rollout.group_size = 32, 1
    c.rollout.max_new_tokens = 128
    c.rollout.ignore_eos = True
    c.mix.student, c.mix.gold = 0.8, 0.2
    c.loss.opd = dict(signal="reverse_kl")
    c.loss.reference = dict(signal="reverse_kl", other="reference", coef=0.0)
    c.loss.gold = dict(signal="nll", source="gold", coef=0.1)
    return c
