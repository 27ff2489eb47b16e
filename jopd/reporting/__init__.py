"""Numbers and pages for people: metrics, statistics, evaluation, console, report.

Nothing here changes a run. Uses ``teachers`` and what is below. A new metric goes to
``diagnostics`` (of an update) or ``evaluation`` (before and after), and to a chart of
``report``.
"""
