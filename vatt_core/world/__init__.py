"""Procedural clips: video, sound and caption from one seeded description.

`scene` says what happens and when, `sound` makes it heard, `picture` makes it seen, `write` stores a clip.
"""
