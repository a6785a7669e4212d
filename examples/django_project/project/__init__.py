"""A Django project on a replicated cluster: its settings, its addresses, its servers."""
