"""Doors to other people's libraries: each file knows one, and is imported only by those who use it."""
