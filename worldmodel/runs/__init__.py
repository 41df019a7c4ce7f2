"""A run: its folder, training it, resuming it, opening it again, its messages."""
