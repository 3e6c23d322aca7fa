"""What aiotaskq costs, beside its peers and the physical limit: ``python -m benchmarks``.

This file makes the folder a package of its own: an installed peer might bring a folder of the same name.
"""
