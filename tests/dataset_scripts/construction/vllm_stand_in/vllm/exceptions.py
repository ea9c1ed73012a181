"""Errors of vLLM: that of a request at fault is no `ValueError`."""


class VLLMClientError(Exception):
    pass
