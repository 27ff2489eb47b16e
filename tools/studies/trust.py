"""TrOPD against OPD, EOPD and REOPOLD with a student far from its teacher."""

from jopd.setup.regimes import REGIMES

TITLE = "A trust region with a student far from its teacher"
ABOUT = """
An early student (12 % greedy, regime `far`, [regimes](../regimes.md)); 200 updates of
64 rollouts; every method's rate is tuned on a seed of its own, and is kept where a part
of the method is taken away. The paper's claim is that plain OPD fails here and that the
trust region with forward KL outside and a guiding prefix does not; the arms without a
clip of the gradient show what the outliers do. Samples are drawn at a temperature of
0.6, the paper's, and at 1. REOPOLD is the "clip" row of the paper's tables; its tuned
rate is TrOPD's.
"""
SEEDS = (0, 1, 2, 3, 4)
GRID = (5e-4, 2e-3)
WIDEN = 3
COMMON = REGIMES["far"].keys | {
    "steps": 200,
    "rollout.prompts_per_step": 16,
    "optimizer.schedule": "cosine",
    "eval.prompts": 128,
    "eval.temperature": 0.6,  # the paper's
    "data.size": 8000,
    "checkpoint.every_steps": 0,
}
ALSO = {"hot": {"eval.temperature": 1.0}}
NO_PREFIX = {"rollout.prefix.source": "", "loss.guide.coef": 0.0}
MASK = {"loss.outlier.coef": 0.0}
RAW = {"optimizer.clip_norm": 0.0}


def _tropd(*parts: dict) -> dict:
    overrides = {k: v for part in parts for k, v in part.items()}
    return {"config": "tropd", "overrides": overrides, "rate_of": "TrOPD"}


ARMS = {
    "OPD": {"config": "opd"},
    "OPD, gradient not clipped": {
        "config": "opd",
        "overrides": RAW,
        "rate_of": "OPD",
    },
    "EOPD": {"config": "eopd"},
    "REOPOLD (clip)": {"config": "reopold"},
    "TrOPD": {"config": "tropd"},
    "TrOPD, no prefix": _tropd(NO_PREFIX),
    "TrOPD, mask only": _tropd(NO_PREFIX, MASK),
    "TrOPD, prefix for 25 updates": _tropd({"rollout.prefix.steps": 25}),
    "TrOPD, prefix for 100 updates": _tropd({"rollout.prefix.steps": 100}),
    "TrOPD, prefix to the end": _tropd({"rollout.prefix.steps": 0}),
    "TrOPD, gradient not clipped": _tropd(RAW),
}
BASELINE = START = "OPD"
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean optim/grad_norm": "gradient norm, mean",
    "max optim/grad_norm": "largest",
    "hot.avg_at_k": "avg@4 at T = 1, %",
}
JUDGED = ("avg_at_k", "accuracy")


def _beats(arm: str, against: str, metric: str = "avg_at_k") -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


CLAIMS = {
    "paper: TrOPD beats OPD": _beats("TrOPD", "OPD"),
    "paper: TrOPD beats OPD, greedy": _beats("TrOPD", "OPD", "accuracy"),
    "paper: TrOPD beats OPD, at T = 1": _beats("TrOPD", "OPD", "hot.avg_at_k"),
    "paper: TrOPD beats EOPD": _beats("TrOPD", "EOPD"),
    "paper: TrOPD beats REOPOLD": _beats("TrOPD", "REOPOLD (clip)"),
    "paper: forward KL outside beats the mask": _beats(
        "TrOPD, no prefix", "TrOPD, mask only"
    ),
    "paper: the prefix adds": _beats("TrOPD", "TrOPD, no prefix"),
    "OPD learns at all": _beats("OPD", "before"),
}
CURVES = {"kl/reverse": "reverse KL on rollouts", "optim/grad_norm": "gradient norm"}

FOUND = """
- **Plain OPD does not learn here** (greedy 11.1 -> 8.8, avg@4 -0.4 ± 3.5): the best of
  its rates is one that hardly moves it. Nor do EOPD and REOPOLD, though the KL falls.
  The paper's premise is seen **at this budget**: with four times the rollouts (400
  updates of 128, at 2e-3, samples at a temperature of 1) OPD goes from 10.3 to 27.1 %
  greedy and beats TrOPD in samples by 3.9 ([methods](methods.md)).
- **TrOPD beats OPD** in greedy answers (+6.4 ± 5.4) and in samples at T = 1 (+2.3 ±
  1.6), and EOPD at 0.6 (+2.4 ± 1.0); against OPD at 0.6, and against REOPOLD, which is
  the "clip" row of the paper at the same rate, it is not decided. At T = 1 no arm is
  above REOPOLD's 8.7.
- **The forward KL outside of the region is what helps**: without it (mask only) the
  student stays where it was; with it and without a prefix greedy answers double (11.1
  -> 21.7), and samples gain 5.1 ± 3.0 on the mask.
- **The less prefix, the better**, in every column at 0.6: greedy 21.7 without, 20.0
  over 25 updates, 15.2 over 50, as shipped, 9.2 over 100, 8.0 to the end, which is the
  paper's. The claim itself is not decided (-1.9 ± 2.0). Prefixes are the teacher's own
  responses, at first nearly all of them: the first updates have next to no tokens of
  the student's own.
- Gradient norms of OPD and EOPD are six to eight times those of TrOPD. Without
  `optimizer.clip_norm` no arm loses more than seeds differ by.
"""
