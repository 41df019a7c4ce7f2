"""A linear-Gaussian world whose evidence is exact, with a proposal that looks at no row."""

import torch

from worldmodel.oracles.linear_gaussian import LinearGaussian


class Spring:
    """Copies of a simulated sequence of a spring whose position is seen; q is the prior, which looks at no row."""

    def __init__(self, length, copies, generator, noise=0.05):
        eye = torch.eye(2, dtype=torch.float64)
        A = torch.tensor([[1.0, 0.3], [-0.3, 0.9]], dtype=torch.float64)
        self.model = LinearGaussian.create(A=A, C=eye[:1], Q=0.1 * eye, R=noise * eye[:1, :1], m=0 * eye[0], P=eye)
        self.action = torch.zeros(copies, length, 0, dtype=torch.float64)
        _, x = self.model.simulate(self.action[:1], generator)
        self.x = x.expand(copies, -1, -1)
        self.sequence = self.model.given(self.x, self.action, proposal=self.chain(0.0))

    def chain(self, share):
        """p(z_t | z_{t-1}) tilted by so much of row t's likelihood."""
        return self.model.tilted(*(share * x for x in self.model.local(self.x, self.action)), self.action)

    def truth(self):
        return self.model.log_evidence(self.x, self.action).sum(1)
