"""A model behind HTTP, by OpenAI's protocol: who asks, what is read together, answers.

Uses ``setup.model`` and rooms below. A new field of requests goes to ``protocol``, a
new route to ``app``.
"""
