"""Chat clients: send requests to a language model, on a server or in-process, and keep a journal of the replies."""
