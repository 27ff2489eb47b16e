"""Language models as flax modules over plain parameter trees.

Here live the decoder and its parts, Hugging Face directories in and out, int8 matrices,
a text encoder, and how parameters are split over devices. Uses nothing of jopd. A new
model family starts in ``hf_config`` (its keys) and ends in ``decoder`` (what is new).
"""
