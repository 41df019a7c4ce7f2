"""The bound (`elbo`) and what is optimised in its place (`loss`), with the price of every difference."""
