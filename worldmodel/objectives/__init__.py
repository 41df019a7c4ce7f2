"""The bound (`elbo`), what is optimised in its place (`loss`), and both of a training batch (`batch_bound`)."""
