"""Figures, tables and pages made of arrays. They are returned; nothing here writes."""
