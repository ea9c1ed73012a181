"""Captions that tests share, of ragged length."""

CAPTIONS = [
    "A man in a red coat and blue jeans walks towards the camera.",
    "A woman with a black backpack and a white hat.",
    "Someone wears a green shirt, grey trousers and brown boots, and carries a yellow bag.",
    "Person.",
]
