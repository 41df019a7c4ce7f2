"""KL divergences between posterior and prior: `kl` is public, `kl_reference` is the definition of correct."""
