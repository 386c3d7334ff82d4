"""Linear-chain conditional random field over BIO tags: the baseline of span heads, on the same encoder.

    p(y | h) = exp(score(y)) / sum_y' exp(score(y'))

Lafferty, McCallum and Pereira (2001). The tag before the first valid token is O, as if the special token there were tagged.
Illegal sequences have no probability, in training as in decoding.

Shapes: B texts, L tokens, D width of the encoder's states, T types, K = 2 T + 1 tags.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.bio_tags import legal_transitions, spans_of_tags
from kxbatch.models.extraction.chain import FORBIDDEN, Chain, forward, path_scores, span_log_probabilities, viterbi
from kxbatch.models.extraction.token_spans import TokenSpans

SUREST = 36.0  # log odds; beyond them float64 knows no probability but 1


class Crf(nn.Module):
    """Scores of tags by a matrix, of their transitions by another.

    Args:
        dim: D.
        types: T.
        bias: of the scores of tags.

    Raises:
        ConfigError: a size below 1.
    """

    legal: Tensor

    def __init__(self, dim: int, types: int, bias: bool = True) -> None:
        super().__init__()
        if min(dim, types) < 1:
            raise ConfigError(f"crf: width {dim}, types {types}; each wants 1 or more")
        self.types = types
        self.emit = nn.Linear(dim, 2 * types + 1, bias=bias)
        nn.init.normal_(self.emit.weight, std=dim**-0.5)
        if bias:
            nn.init.zeros_(self.emit.bias)
        self.transitions = nn.Parameter(torch.zeros(2 * types + 1, 2 * types + 1))
        self.register_buffer("legal", torch.from_numpy(legal_transitions(types)), persistent=False)

    def forward(self, h_BLD: Tensor, valid_BL: Tensor) -> Chain:
        """Scores of tags and transitions, float32.

        Args:
            h_BLD: states of the encoder.
            valid_BL: tokens with a tag: no padding, no special tokens; bool, contiguous in each text.
        """
        emissions_BLK = self.emit(h_BLD)
        exact = torch.promote_types(emissions_BLK.dtype, torch.float32)
        return Chain(emissions_BLK.to(exact), self.transitions.to(exact).masked_fill(~self.legal, FORBIDDEN), valid_BL)

    def loss(self, h_BLD: Tensor, valid_BL: Tensor, tags_BL: Tensor) -> Tensor:
        """Mean of -log p(tags) over texts with a valid token, nats.

        Args:
            h_BLD: states of the encoder.
            valid_BL: as of `forward`.
            tags_BL: int64, legal, as `tags_of` makes them; an illegal sequence costs 1e9.

        Returns:
            A scalar.
        """
        chain = self(h_BLD, valid_BL)
        loss_B = forward(chain)[:, -1].logsumexp(dim=1) - path_scores(chain, tags_BL)
        return loss_B.sum() / valid_BL.any(dim=1).sum().clamp(min=1)

    @torch.no_grad()
    def decode(self, h_BLD: Tensor, valid_BL: Tensor) -> TokenSpans:
        """Spans of the most probable tags.

        Args:
            h_BLD: states of the encoder.
            valid_BL: as of `forward`.

        Returns:
            Spans; a score is the log odds of the probability that the text has this very span, at most 36. It may be
            negative: the best sequence need not consist of spans that are more probable than not.
        """
        chain = self(h_BLD, valid_BL)
        chain = Chain(chain.emissions.double(), chain.transitions.double(), valid_BL)
        found = spans_of_tags(viterbi(chain).cpu().numpy())
        log_p_S = span_log_probabilities(chain, found)
        odds_S = log_p_S - torch.log1p(-log_p_S.exp().clamp(max=1 - 2.0**-52))
        scores = odds_S.clamp(max=SUREST).float().cpu().numpy()
        return TokenSpans(found.rows, found.starts, found.ends, found.types, scores)
