"""Pushing, popping and settling tasks of one store."""
