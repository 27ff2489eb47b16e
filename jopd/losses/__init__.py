"""Kernels and their algebra: arrays in, arrays out, nothing else imported.

Divergences and estimators, signals (differentiated), weights and reports (never), and
the objective that sums terms in chunks. Uses ``types``. A new signal goes to
``signals``, a new weight or advantage to ``weights``.
"""
