"""What the model may call: functions that a caller declares, Python functions, the sandbox, and MCP servers.

Knows no model, no conversation and no terminal. The sandbox and MCP are imported only where they are used.
"""
