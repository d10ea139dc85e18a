"""Values and messages <-> bytes. Nothing here does I/O or keeps a connection."""
