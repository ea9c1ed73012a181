"""Ask a language model, on a server or in this process, and keep a journal of its replies."""
