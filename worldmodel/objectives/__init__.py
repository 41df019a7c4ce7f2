"""The bound (`elbo`), what is optimised in its place (`loss`), and how far the bound is from the evidence (`smc`)."""
