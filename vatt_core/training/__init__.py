"""Training of every part of a model: codec, vision tower, converter, audio transformer, and nano's recipe."""
