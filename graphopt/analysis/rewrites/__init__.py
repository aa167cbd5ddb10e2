"""What one pass changed, taken apart: its rewrites, models with only some of them, and which are to blame."""
