"""OmniOPD against OPD where the teacher writes in another surface style."""

from studies import methods

TITLE = "A teacher of another surface style"
ABOUT = """
The student writes sentences, the teacher equations (regime `text`,
[regimes](../regimes.md)); both end in one form of answer. Token by token such a teacher
finds every word wrong; chunks of text may agree in what they say. 200 updates of 64
rollouts. OPD and OmniOPD are those of [methods](methods.md), with rates found there;
variants have OmniOPD's.
"""
SEEDS = (0, 1, 2)
COMMON = methods.COMMON


def _variant(**overrides) -> dict:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return {"config": "omniopd", "overrides": keys}


ARMS = {
    "OPD": methods.shared("opd, text") | methods.MORE,
    "OmniOPD": methods.shared("omniopd") | methods.MORE,
    "OmniOPD, the paper's form": _variant(loss__chunks__weights__rate__baseline="none"),
    "OmniOPD, edit distance": _variant(audit__similarity="ned"),
    "OmniOPD, chunks of 4": _variant(audit__chunk_tokens=4),
}
BASELINE = START = "OPD"
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
}
JUDGED = ("avg_at_k", "accuracy")


def _beats(arm: str, against: str, metric: str = "avg_at_k") -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


CLAIMS = {
    "paper: OmniOPD beats OPD": _beats("OmniOPD", "OPD"),
    "paper: OmniOPD beats OPD, greedy": _beats("OmniOPD", "OPD", "accuracy"),
    "OmniOPD improves its student": _beats("OmniOPD", "before"),
    "a baseline helps": _beats("OmniOPD", "OmniOPD, the paper's form"),
    "paper: too short a chunk destroys it": _beats("OmniOPD", "OmniOPD, chunks of 4"),
}
CURVES = {"kl/reverse": "reverse KL on rollouts", "length/mean": "length"}

FOUND = """
- **OmniOPD beats OPD in greedy answers** (+7.2 ± 4.6) and is level in samples (+2.5 ±
  11.8): five seeds each. It ends nearer to the teacher (reverse KL 0.84 against 1.24),
  of which it saw texts alone, and **all its seeds end alike** (74.0 ± 1.0). OPD's do
  not: three end at 76 to 78 % with entropy 0.27 nats a token, two drift from update 70
  on (56 and 69 %, entropy 0.48 and 0.60). Three seeds had shown the first kind only,
  and OPD ahead in samples. The premise, that token by token such a teacher teaches
  little, is seen in part: OPD gains 13.1 ± 10.6.
- **The baseline is what makes it work** here: without (the paper's form) samples gain
  nothing that is certain, at six times as many teacher tokens as OPD pays.
- **Words beat letters**: similarity by edit distance loses 9.7 to that over words.
- **Chunks of 4 tokens teach nothing**: the paper's warning is confirmed.
"""
