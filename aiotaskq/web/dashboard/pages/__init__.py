"""The pages, and what can be changed there: each file registers its own."""
