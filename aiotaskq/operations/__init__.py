"""What a person or a program asks of a running system: one table of operations, from which every door is made.

``table`` says what an operation is; the other files have those on one kind of thing each. The doors are the command
line (``cli.door``), the HTTP API (``web.door``), the MCP server (``integrations.mcp``) and the actions of the
dashboard (``web.dashboard.door``).
"""
