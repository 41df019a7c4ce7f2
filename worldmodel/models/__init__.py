"""Networks and distributions. They run forward and know nothing of losses, optimisers, files or environments."""
