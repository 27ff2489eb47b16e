"""The report: self-contained, complete, and unharmed by missing or hostile input."""

import html.parser
import json
import xml.etree.ElementTree

import pytest

from jopd.reporting import metrics, report

CONFIG = {
    "name": "trial",
    "loss": {
        "opd": {
            "signal": "policy_gradient",
            "clip_low": 0.2,
            "advantage": "log_ratio",
            "weights": {"accepted": {"tau": 0.2}, "early": {}},
        },
        "gold": {"signal": "nll", "source": "gold", "coef": 0.1},
    },
    "objective": {"normalizer": "sequences"},
}
ROWS = [
    {
        "step": step,
        "loss": 1.0 / step,
        "loss/opd": 0.5,
        "kl/reverse": None if step == 2 else 0.1,
        "optim/grad_norm": 1.0,
    }
    for step in (1, 2, 3)
] + [{"step": 3, "eval/accuracy": 0.5, "eval/reverse_kl": 0.2}]
EVALUATION = {
    "accuracy": 0.25,
    "reverse_kl": 0.5,
    "intervals": {"accuracy": [0.2, 0.3]},
}
SUMMARY = {
    "before": EVALUATION,
    "after": EVALUATION | {"accuracy": 0.5},
    "steps": 1234,
    "wall_seconds": 754.0,
    "tokens_sampled": 5_000_000,
    "config_name": "trial",
    "seed": 0,
    "versions": {"jax": "0.10.2"},
    "git_commit": "0123456789abcdef+",
}


def sample(phase, prompt="2 + 2?", tokens=(" four", "<script>"), **more):
    row = {
        "step": 0,
        "phase": phase,
        "prompt": prompt,
        "response": "".join(tokens),
        "tokens": list(tokens),
        "student_logp": [-0.5] * len(tokens),
        "teacher_logp": [-2.5] * len(tokens),
        "finished": True,
        "reward": 1.0,
        "answer": "4",
    }
    return row | more


SAMPLES = [sample("before"), sample("train", tokens=("never",)), sample("after")]


class Page(html.parser.HTMLParser):
    """Counts tags and text, and fails on tags that do not pair up."""

    VOID = {"meta", "path", "use", "rect", "br", "link", "img"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def make_workdir(path, **files):
    for name, value in files.items():
        if name in ("metrics", "samples"):
            text = "".join(json.dumps(row) + "\n" for row in value)
            (path / f"{name}.jsonl").write_text(text)
        else:
            (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.fixture
def page(tmp_path):
    make_workdir(
        tmp_path, config=CONFIG, metrics=ROWS, summary=SUMMARY, samples=SAMPLES
    )
    path = report.write_report(tmp_path)
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def test_all_parts_are_there(page):
    text = Page(page).text
    for part in (
        *("trial", "commit 0123456789ab+", "jax 0.10.2", "1,234", "12.6 min"),
        *("5,000,000", "Before and after", "25.0%", "[20.0, 30.0]", "+25.0 pts"),
        *("What is minimised", "policy_gradient(clip_low=0.2, advantage=log_ratio)"),
        *("accepted(tau=0.2) × early", "sequences", "Rollouts", "Configuration"),
        *("Loss", "Evaluation %", "Gradient norm"),
    ):
        assert part in text, part
    assert "Entropy" not in text  # not logged, so no empty chart


def test_nothing_comes_from_outside(page):
    parsed = Page(page)
    for tag, attributes in parsed.attributes:
        assert tag not in ("link", "img", "iframe", "object", "base")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data"):
                assert value.startswith("#"), (tag, value)
    assert "@import" not in page and "url(http" not in page
    assert page.count("<script") == 1


def test_both_colour_schemes_and_phones_are_thought_of(page):
    assert "@media (prefers-color-scheme: dark)" in page
    assert 'name="viewport"' in page
    assert report._INK not in page and "currentColor" in page


def test_tokens_are_coloured_by_the_gap_and_tell_it(page):
    parsed = Page(page)
    spans = [a for t, a in parsed.attributes if t == "span" and "title" in a]
    assert len(spans) == 4  # two tokens, before and after; "train" is not shown
    for span in spans:
        assert span["class"] == "s2"  # 2 of 4 nats
        assert span["title"] == "student -0.50, teacher -2.50, gap +2.00 nats"
    assert "never" not in parsed.text


@pytest.mark.parametrize(
    "student, teacher, level",
    [
        (-1.0, -1.0, ""),
        (-1.0, -1.3, ""),
        (-1.0, -2.0, "s1"),
        (-2.0, -1.0, "t1"),
        (-0.1, -9.0, "s5"),
        (-9.0, -0.1, "t5"),
        (None, -1.0, ""),
        (float("nan"), -1.0, ""),
    ],
)
def test_token_levels(student, teacher, level):
    assert report.token_cell("x", student, teacher)[1] == level


def test_hostile_text_stays_text(tmp_path):
    bad = "</pre></script><script>alert(1)</script><img src=x onerror=y>"
    make_workdir(
        tmp_path,
        config=CONFIG | {"note": bad},
        metrics=[{"step": 1, f"loss/{bad}": 1.0, "loss": 2.0}],
        summary={"config_name": bad},
        samples=[sample("before", prompt=bad, tokens=(bad,), answer=bad)],
    )
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.tags.count("script") == 1 and "img" not in parsed.tags
    assert bad in parsed.text


def test_every_chart_is_well_formed():
    rows = [
        {"step": step, **{name: 0.1 * step for c in report.CHARTS for name, _ in c[2]}}
        for step in (1, 2)
    ]
    for chart in report.CHARTS:
        root = xml.etree.ElementTree.fromstring(report.draw(chart, rows))
        assert root.get("viewBox") and root.get("width") is None
        assert "".join(root.itertext()).count("step") >= 1


def test_a_chart_shows_its_values(monkeypatch):
    chart = report.Chart("Rates", "%", (("a", "first"), ("b", "second")))
    svg = report.draw(chart, [{"step": 1, "a": 0.5, "b": 0.2}, {"step": 2, "a": 0.7}])
    assert "first" in svg and "second" in svg
    assert ">60<" in svg  # the axis is in percent
    assert svg == report.draw(
        chart, [{"step": 1, "a": 0.5, "b": 0.2}, {"step": 2, "a": 0.7}]
    )
    assert report.draw(chart, [{"step": 1, "a": None}]) == ""
    assert report.draw(chart, []) == ""


def test_long_runs_are_thinned_to_means():
    rows = [{"step": s, "loss": float(s % 2)} for s in range(8000)]
    steps, values = report.series(rows, "loss")
    assert len(steps) == report.MAX_POINTS
    assert set(values) == {0.5}
    assert steps[0] == 9.5 and steps[-1] == 7989.5
    assert report.series(rows[:3], "loss") == ([0, 1, 2], [0.0, 1.0, 0.0])
    assert report.series([{"step": 1, "loss": None}], "loss") == ([], [])


def test_a_run_that_goes_on_has_a_report_too(tmp_path):
    make_workdir(tmp_path, config=CONFIG, metrics=ROWS)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    text = Page(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Training" in text and "Before and after" not in text
    assert "Rollouts" not in text


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor metrics"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_old_report_survives_a_failed_write(tmp_path, monkeypatch):
    make_workdir(tmp_path, config=CONFIG)
    (tmp_path / "report.html").write_text("old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_samples_without_teacher_or_with_many_tokens():
    many = ["a"] * (report.MAX_TOKENS + 7)
    rows = [
        sample("after", prompt="p", tokens=many, student_logp=[], teacher_logp=[]),
        sample("before", prompt="q", tokens=(), reward=None, finished=False),
        sample("train", prompt="r"),
    ]
    first, second = report.pair_samples(rows)
    assert first["after"]["more"] == 7
    assert len(first["after"]["tokens"]) == report.MAX_TOKENS
    assert first["after"]["facts"] == ["407 tokens", "finished", "reward 1"]
    assert second["before"]["facts"] == ["cut at the limit"]
    page = Page(report.render({}, [], {}, rows)).text
    assert "… 7 more tokens" in page


def test_terms_of_other_shapes():
    rows = report.term_rows(
        {"a": {"signal": "jsd", "beta": 0.5, "weights": ["x", "y"]}, "note": 3}
    )
    assert [r["name"] for r in rows] == ["a"]
    assert (rows[0]["signal"], rows[0]["weights"]) == ("jsd(beta=0.5)", "x × y")
    assert (rows[0]["coef"], rows[0]["source"]) == ("1", "student")


def test_half_a_surrogate_pair_breaks_no_report(tmp_path):
    row = sample("before", prompt="a\ud83d b")
    make_workdir(tmp_path, config=CONFIG, metrics=ROWS, samples=[row])
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert "a? b" in page


def test_what_a_verifier_says_is_drawn_and_what_was_not_judged_is_not():
    """Names as a run logs them, of a self-teacher that sees peers."""
    judged = {"reward/mean": 0.5, "reward/finished": 0.6, "peer/rows": 0.7}
    rows = [{"step": s, "kl/reverse_self": 0.1, **judged} for s in (1, 2)]
    none = [{"step": s, "kl/reverse": 0.1, "reward/mean": None} for s in (1, 2)]
    drawn = lambda rows: {c.title for c in report.CHARTS if report.draw(c, rows)}
    titles = {"Reward of rollouts", "Peers and probes", "Reverse KL to other models"}
    assert titles <= drawn(rows) and not titles & drawn(none)
