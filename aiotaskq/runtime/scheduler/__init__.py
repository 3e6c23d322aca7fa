"""The scheduler: fires what is due."""
