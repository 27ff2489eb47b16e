"""The template of ``report.html``, with its style sheet and the few lines of script."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }} · jopd</title>
<style>
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #5d6671; --line: #e1e5ea;
  --good: #0f7b4f; --bad: #b3312c; --s: 224, 74, 54; --t: 38, 118, 214;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111418; --card: #1a1e24; --ink: #e6e9ee; --soft: #99a3af; --line: #2b313a;
    --good: #4cc38a; --bad: #ff7f73; --s: 255, 104, 84; --t: 88, 160, 255;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 4px;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; letter-spacing: -.01em; margin: 40px 0 12px; }
h3 { font-size: 13.5px; font-weight: 600; margin: 0 0 4px; }
h3 span, .soft { color: var(--soft); font-weight: 400; }
p { margin: 0 0 12px; } section > p { margin-top: 8px; }
code, pre, .rollout { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas,
  "Liberation Mono", monospace; font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.facts { display: grid; gap: 10px; margin-top: 22px;
  grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
.facts b { display: block; font-size: 20px; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; padding: 4px 16px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
td, th { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
.num { text-align: right; white-space: nowrap; }
.num small { display: block; color: var(--soft); font-size: 12px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.charts { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.charts svg { width: 100%; height: auto; display: block; color: var(--ink); }
.charts svg text { font-family: system-ui, sans-serif; }
.pair { display: grid; gap: 12px; margin-top: 10px;
  grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); }
.sample { margin-bottom: 12px; }
.prompt { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; max-height: 9.5em;
  overflow-y: auto; }
.rollout { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75;
  max-height: 28em; overflow-y: auto; }
.rollout span { border-radius: 3px; }
.rollout span:hover, .rollout .on { outline: 1.5px solid currentColor; }
.tags { display: flex; flex-wrap: wrap; gap: 4px 12px; font-size: 13px;
  color: var(--soft); margin-bottom: 6px; }
.tags b { color: var(--ink); font-weight: 600; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap;
  align-items: center; gap: 4px 14px; padding: 10px 16px; margin-bottom: 12px;
  font-size: 13px; }
.ramp { display: inline-block; width: 130px; height: 12px; border-radius: 3px;
  background: linear-gradient(90deg, rgba(var(--t), .62), transparent,
    rgba(var(--s), .62)); border: 1px solid var(--line); }
#read { margin-left: auto; min-height: 1.5em; color: var(--soft);
  font-variant-numeric: tabular-nums; }
{% for level in range(1, 6) %}
.s{{ level }} { background: rgba(var(--s), {{ level * 0.124 }}); }
.t{{ level }} { background: rgba(var(--t), {{ level * 0.124 }}); }
{% endfor %}
details { margin-top: 12px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: 10px 0 0; line-height: 1.45; }
@media (max-width: 560px) {
  main { padding: 22px 12px 48px; } h1 { font-size: 24px; }
  .facts { grid-template-columns: repeat(2, 1fr); }
  #read { margin-left: 0; width: 100%; }
  td, th { padding-right: 9px; font-size: 13px; } .num small { font-size: 11px; }
  .scroll { padding: 4px 12px; }
}
@media print { .rollout, .prompt { max-height: none; } .legend { position: static; } }
</style>
</head>
<body>
<main>
<header>
  <h1>{{ name }}</h1>
  <p class="soft">On-policy distillation with jopd
    {%- if commit %} · commit <code>{{ commit[:12] }}
    {{- "+" if commit[-1] == "+" }}</code>{% endif %}

    {%- for package, version in versions.items() %} · {{ package }} {{ version }}
    {%- endfor %}</p>
  <div class="facts">
  {% for label, value in facts %}
    <div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
  {% endfor %}
  </div>
</header>

{% if comparison %}
<section id="evaluation">
<h2>Before and after</h2>
<div class="card scroll"><table>
<tr><th></th><th class="num">before</th><th class="num">after</th>
  <th class="num">change</th></tr>
{% for row in comparison %}
<tr><td>{{ row.label }}</td>
  {% for value, interval in ((row.before, row.before_interval),
                             (row.after, row.after_interval)) %}
  <td class="num">{{ value }}
    {%- if interval %}<small>{{ interval }}</small>{% endif %}</td>
  {% endfor %}
  <td class="num {{ {True: 'good', False: 'bad'}.get(row.better, '') }}">
    {{- row.change }}</td></tr>
{% endfor %}
</table></div>
{% if intervals %}<p class="soft">In brackets: 95% intervals.</p>{% endif %}
</section>
{% endif %}

{% if terms %}
<section id="terms">
<h2>What is minimised</h2>
<div class="card scroll"><table>
<tr><th>term</th><th>signal</th><th>weights</th><th>tokens</th>
  <th class="num">coefficient</th><th>normaliser</th></tr>
{% for term in terms %}
<tr><td><b>{{ term.name }}</b></td><td><code>{{ term.signal }}</code></td>
  <td><code>{{ term.weights }}</code></td><td>{{ term.source }}</td>
  <td class="num">{{ term.coef }}</td>
  <td>{{ term.normalizer or shared.normalizer or "tokens" }}</td></tr>
{% endfor %}
</table></div>
</section>
{% endif %}

{% if charts %}
<section id="curves">
<h2>Training</h2>
<div class="charts">
{% for title, unit, svg in charts %}
  <figure class="card" style="margin:0"><h3>{{ title }}
    {%- if unit %} <span>{{ unit }}</span>{% endif %}</h3>{{ svg | safe }}</figure>
{% endfor %}
</div>
</section>
{% endif %}

{% if prompts %}
<section id="samples">
<h2>Rollouts</h2>
<div class="card legend">
  <span>teacher likelier</span><span class="ramp"></span><span>student likelier</span>
  <span class="soft">full colour from {{ full_gap }} nats per token</span>
  <span id="read">Point at a token for its numbers.</span>
</div>
{% for entry in prompts %}
<article class="card sample">
  <p class="prompt"><span class="soft">Prompt</span> {{ entry.prompt }}</p>
  {% if entry.answer is not none %}<p class="soft">Answer: {{ entry.answer }}</p>
  {% endif %}
  <div class="pair">
  {% for phase in ("before", "after") if phase in entry %}
  {% set sample = entry[phase] %}
  <div>
    <div class="tags"><b>{{ phase }} training</b>
      {% for fact in sample.facts %}<span>{{ fact }}</span>{% endfor %}
    </div>
    <div class="rollout">
      {%- for token, level, title in sample.tokens -%}
      <span{% if level %} class="{{ level }}"{% endif %}
        {%- if title %} title="{{ title }}"{% endif %}>{{ token }}</span>
      {%- endfor -%}
      {{ sample.text }}
      {%- if sample.more %}<span class="soft"> … {{ sample.more }} more tokens</span>
      {%- endif %}</div>
  </div>
  {% endfor %}
  </div>
</article>
{% endfor %}
</section>
{% endif %}

{% if config %}
<section id="config">
<h2>Configuration</h2>
<details class="card"><summary>All keys of the run</summary><pre>{{ config }}</pre>
</details>
</section>
{% endif %}
</main>
<script>
// A finger cannot hover: a tap shows what the title of a token says.
const read = document.getElementById("read");
let last = null;
function tell(event) {
  const token = event.target.closest(".rollout span[title]");
  if (!token || !read) return;
  if (last) last.classList.remove("on");
  if (event.type === "click") { token.classList.add("on"); last = token; }
  read.textContent = JSON.stringify(token.textContent) + "  " + token.title;
}
for (const name of ["click", "mouseover"]) document.addEventListener(name, tell);
</script>
</body>
</html>
"""
