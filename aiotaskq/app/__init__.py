"""``TaskQ``, the registry of handlers, and the documented API of the older system."""
