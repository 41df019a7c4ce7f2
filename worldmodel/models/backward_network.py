"""What follows a row, for a posterior that smooths: a recurrent network that reads a sequence from its end.

    f_t = g(f_{t+1}, x_{t+1}, a_{t+1}),    f_t = a learned constant where nothing follows,    a_t the action into row t

q(z_t | h_t, x_t, f_t) then can hold the exact posterior p(z_t | h_t, x_t:T, a_t+1:T) of an RSSM, which a filter
q(z_t | h_t, x_t) does not, as far as the embedding has all that the decoder explains: rewards only with
`encoder.reward`, continue flags never. The end of an episode or of a sequence is where nothing follows, and so is now:
a model that acts or imagines on uses the same constant, and filters.

Source: Krishnan et al. 2017 (structured inference networks), arXiv 1609.09869, the combiner DKS.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class BackwardNetwork(nn.Module):
    """Summaries f_t of everything that follows each row within its episode."""

    def __init__(self, embed: int, action: int, width: int) -> None:
        """Args:
        embed, action: widths E and A of what it reads.
        width: of the summary (F).
        """
        super().__init__()
        self.width = width
        self.gru = nn.GRUCell(embed + action, width)
        self.nothing = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        embed: Float[Tensor, "B T E"],
        prev_action: Float[Tensor, "B T A"],
        is_first: Bool[Tensor, "B T"],
        is_last: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T F"]:
        """The summary of what follows each row; rows behind the last one of an episode do not count as following it."""
        rows = torch.cat([embed, prev_action], -1)
        ends = is_last[:, :-1] | is_first[:, 1:]  # [B, T - 1]
        nothing = self.nothing.to(rows.dtype).expand(len(embed), -1)
        summary, summaries = nothing, [nothing]
        for t in range(embed.shape[1] - 2, -1, -1):
            summary = torch.where(ends[:, t, None], nothing, self.gru(rows[:, t + 1], summary))
            summaries.append(summary)
        return torch.stack(summaries[::-1], 1)
