"""The text of `/metrics`: `exposition.py` chooses between the library's way and a faster one of the same bytes."""
