"""The operations API: framework-neutral operations on a TaskQ, their OpenAPI document, and a server of their own.

``operations/`` shapes the data and decides the statuses; each file in ``aiotaskq.integrations`` only mounts it.
"""
