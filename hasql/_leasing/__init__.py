"""Who holds which connection."""
