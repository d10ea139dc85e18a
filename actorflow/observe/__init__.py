"""Looking at what runs and has run."""
