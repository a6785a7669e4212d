"""The adapters: one room for each library, which alone imports it."""
