"""Gymnasium environments and wrappers. Nothing here knows of the library that trains on them."""
