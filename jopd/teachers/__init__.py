"""Whose weights teachers have, what they read, how they answer.

``roles`` describes one, ``gate`` moves one; ``audit`` and ``similarity`` ask those that
only write text, ``remote`` (with ``transport``, ``replies``, ``continuations``) those
on a server, ``verdict`` looks at their first texts, ``peers`` shows other rollouts.
Uses ``batches`` and what is below. A new kind of weights, or of context, goes to
``roles``.
"""
