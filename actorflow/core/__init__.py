"""The node's decisions, apart from I/O: events in, effects out."""
