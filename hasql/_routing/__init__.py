"""Which hosts can serve, and who waits for a place there."""
