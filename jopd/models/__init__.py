"""Language models as flax modules over plain parameter trees.

Here live the decoder and its parts, Hugging Face directories in and out, int8 matrices,
a text encoder, and how parameters are split over devices. Uses nothing of jopd. A new
model family is a row of ``families``; what it has that no other had is a field of
``decoder_config``, filled in ``hf_config`` and read in ``decoder``.
"""
