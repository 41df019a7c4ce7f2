"""KL divergences and samples of latents: `kl` and `latent` are public, the references beside them define correct."""
