"""Room for methods of one's own: ``signal="mine.f"`` is ``jopd/methods/mine.py: f``."""
