"""Built-in tools, run by executors outside of this service: MCP servers that the settings name."""
