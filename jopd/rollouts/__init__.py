"""Who writes: sampling, one loop of draws, blocks of them, and what ends rows early.

Uses ``types``, ``models`` and ``losses``. A new filter goes to ``sampling``, a new rule
that ends rollouts to ``stops``.
"""
