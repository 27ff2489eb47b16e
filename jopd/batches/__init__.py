"""What one update sees: rows generated, replayed and gold, dealt and packed.

Records and pure functions on the host; ``collect`` puts them in order. Uses ``data``,
``rollouts`` and what is below them. A new source of rows goes to ``collect``.
"""
