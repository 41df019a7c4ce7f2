"""Polyphonic music as piano rolls: data, models, their evidence, and what is drawn of it; see scripts/music.py."""
