"""For running Django's own tests with hasql's backend: a backend that skips some, and settings."""
