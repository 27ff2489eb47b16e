"""A model behind HTTP.

For a further field of requests change `protocol`, for a further route `app`.
"""
