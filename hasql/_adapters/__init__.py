"""The adapters: one package for each driver library, the only place that imports it."""
