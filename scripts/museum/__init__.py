"""The museum of bugs: mistakes put into a sound model by a few lines, and what losses and exact evidence show of them."""
