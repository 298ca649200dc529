"""How long the main job takes and how much memory. Run by `make bench`, never by the tests."""
