"""Choose and create the chat client that the settings name."""

from .types import ChatModel, ChatSettings


def build_chat(settings: ChatSettings) -> ChatModel:
    """Create the chat client for `settings`; a model without a server is loaded here.

    Raises:
        ImportError: if the extra `construction` is not installed.
        ChatConfigurationError: if the key is missing from the environment, or if the model cannot be loaded or chat.
    """
    if settings.kind == "openai":
        from .openai_server import OpenAIChat

        return OpenAIChat(settings)
    if settings.kind == "vllm":
        from .vllm_engine import VllmChat

        return VllmChat(settings)
    from .local_model import TransformersChat  # imports torch, which a client of a server does not need

    return TransformersChat(settings)
