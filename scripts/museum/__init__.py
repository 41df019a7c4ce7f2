"""The parts of `scripts/bug_museum.py`: bugs of a few lines each, and what losses and exact evidence show of them."""
