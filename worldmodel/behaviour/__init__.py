"""What one does with a world model: imagine."""
