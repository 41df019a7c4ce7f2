"""What one does with a world model: imagine, plan, learn to act in imagination, and act."""
