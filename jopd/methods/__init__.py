"""What one method needs alone; it moves down to ``losses`` on its second user.

Pure functions like those of ``losses``, named ``method.function`` in a config. Uses
``types`` and ``losses``. A new method adds one small file here, or none.
"""
