"""Whose weights teachers have, what they read, how they answer.

``roles`` describes one, ``gate`` moves one; ``audit``, ``remote``, ``similarity`` ask
those that only write text, ``peers`` shows them other rollouts. Uses ``batches`` and
what is below. A new kind of weights, or of context, goes to ``roles``.
"""
