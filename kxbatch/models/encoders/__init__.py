"""Text encoders: one protocol, five kinds (sentence-transformers, raw Hugging Face, trained by a job, numpy, your function).

Importing this package loads neither torch nor transformers; `load` does.
"""

from __future__ import annotations

from kxbatch.models.encoders.identity import identify, identify_tokenizer
from kxbatch.models.encoders.protocol import Encoded, Encoder, EncoderSettings, ModelIdentity

__all__ = ["Encoded", "Encoder", "EncoderSettings", "ModelIdentity", "identify", "identify_tokenizer", "load"]


def load(settings: EncoderSettings) -> Encoder:
    """Load an encoder.

    Args:
        settings: which, and how it runs.

    Returns:
        An encoder, ready to use.

    Raises:
        ConfigError: the model does not exist, cannot be used safely, or a setting does not fit it.
    """
    from kxbatch.models.encoders import folders, hub, sources

    source = sources.parse(settings.model)
    if isinstance(source, sources.CallableModel):
        from kxbatch.models.encoders.function import FunctionEncoder

        return FunctionEncoder.load(source, settings)
    if isinstance(source, sources.PackagedModel) and source.format == "use":
        from kxbatch.models.encoders.use import UniversalSentenceEncoder

        return UniversalSentenceEncoder.load(source, settings)
    if isinstance(source, sources.FolderModel) and folders.architecture(source.path) is not None:
        from kxbatch.models.encoders.trained import TrainedEncoder

        return TrainedEncoder.load(source.path, settings)
    from kxbatch.models.encoders.transformer import TransformerEncoder

    if isinstance(source, sources.HubModel):
        return TransformerEncoder.load(hub.snapshot(source.id, offline=settings.offline), settings)
    return TransformerEncoder.load(source.path, settings)
