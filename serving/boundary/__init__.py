"""The process boundary: child processes, the messages to and from them, the engine directory."""
