"""The operations API: framework-neutral operations on a TaskQ, their OpenAPI document, and a standalone server.

``endpoints`` has the operations, ``endpoint`` turns a request into a response; the adapters for frameworks are
``asgi`` and the files of ``aiotaskq.integrations``.
"""
