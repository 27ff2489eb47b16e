"""Rows: read, tokenised, visited, and judged by verifiers.

From files, hubs and tasks to token rows and padded arrays; tokenizers compared. Uses
``types`` and, for names in configs, ``losses.binding``. A new file format goes to
``tables``, a new shape of rows to ``shapes``, what a chat template is given to
``turns`` and ``chat``, a new task to ``tasks``, a new verifier to ``rewards``.
"""
