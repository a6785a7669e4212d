"""Django's own tests with hasql's backend: a backend that leaves some out, and settings."""
