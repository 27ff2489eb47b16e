"""What a run does: stages bound to an experiment, the loop, its state on disk.

``loop.run`` is a whole run; it knows no method's name. Uses every room below. A new
stage goes to ``step`` and ``stages``; a method never needs one.
"""
