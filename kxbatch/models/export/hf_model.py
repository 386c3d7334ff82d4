"""A text encoder as a model of transformers: a shell around `TextEncoder`, and no computation of its own.

Read as text, never imported, by `kxbatch.models.export.one_file`. Shapes: B texts, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput

from kxbatch.models.export.hf_configuration import KxbatchConfig
from kxbatch.models.masks import Mask
from kxbatch.models.norms import normalize
from kxbatch.models.text_encoder import TextEncoder, embed
from kxbatch.models.text_encoder_config import TextEncoderConfig


class KxbatchPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # mypy does not look into transformers
    """Base of both models; the names of their weights are the same."""

    config_class = KxbatchConfig
    base_model_prefix = "kxbatch"
    _supports_sdpa = True  # there is one implementation, which uses it where it can

    def __init__(self, config: KxbatchConfig) -> None:
        super().__init__(config)
        self.encoder = TextEncoder(TextEncoderConfig.from_json(config.text_encoder))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The constructors have drawn them."""

    def get_input_embeddings(self) -> nn.Module:
        """The token vectors."""
        return self.encoder.embedding


class KxbatchModel(KxbatchPreTrainedModel):
    """Token ids to states and one vector a text."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """States of the last layer [B, L, D], and `pooler_output` fp32 [B, D] by the pooling of the configuration.

        Args:
            input_ids: int64 [B, L].
            attention_mask: 1 for tokens, 0 for padding, [B, L]; absent: no padding.
            output_hidden_states: give the states of all layers too, `hidden_states[0]` before the first.
            return_dict: an object with names, or a tuple.
        """
        mask = _mask(input_ids, attention_mask)
        hidden: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda *call: hidden.append(call[2])) for layer in self.encoder.layers]
        try:
            first_BLD, last_BLD = self.encoder.states(input_ids, mask)
        finally:
            for hook in hooks:
                hook.remove()
        output = BaseModelOutputWithPooling(
            last_hidden_state=last_BLD,
            pooler_output=embed(last_BLD, mask, self.config.pooling, first_BLD),
            hidden_states=self._normalized(input_ids, hidden) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _normalized(self, input_ids: Tensor, hidden: list[Tensor]) -> tuple[Tensor, ...]:
        """All states as the next reader would see them: Pre-Norm layers pass on what is not normalised yet."""
        config = self.encoder.config
        start = normalize(config.norm_kind, self.encoder.embedding(input_ids))
        if config.norm == "post":
            return (start, *hidden)
        return (start, *(normalize(config.norm_kind, x_BLD) for x_BLD in hidden))


class KxbatchForMaskedLM(KxbatchPreTrainedModel):
    """Token ids to scores of every token, by the token vectors themselves."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits [B, L, V]; with labels [B, L], -100 where none is asked for, their mean cross-entropy too."""
        states_BLD = self.encoder(input_ids, _mask(input_ids, attention_mask))
        logits_BLV = self.encoder.embedding(states_BLD, logits=True)
        loss = None if labels is None else F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())
        output = MaskedLMOutput(loss=loss, logits=logits_BLV)
        return output if return_dict else output.to_tuple()


def _mask(input_ids: Tensor, attention_mask: Tensor | None) -> Mask:
    if attention_mask is None:
        return Mask.full(input_ids.shape[0], input_ids.shape[1], input_ids.device)
    return Mask.padding(attention_mask.bool())
