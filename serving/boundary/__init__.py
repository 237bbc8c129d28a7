"""Executes engines: the messages, both ends of the process boundary, and the runtimes."""
