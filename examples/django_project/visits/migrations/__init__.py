"""Migrations that make the tables of this application."""
