"""The sections of `scripts/elbo_tour.py`: each computes, draws and measures one of them."""
