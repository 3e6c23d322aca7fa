"""The backend for SQL databases."""
