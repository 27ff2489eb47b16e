"""Rows: read, tokenised, visited, and judged by verifiers.

From files, hubs and tasks to token rows and padded arrays; tokenizers compared. Uses
``types`` and, for names in configs, ``losses.binding``. A new file format goes to
``sources``, a new task to ``tasks``, a new verifier to ``rewards``.
"""
