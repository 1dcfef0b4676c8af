"""What a run tells the person at the terminal."""

import os


def say(text: str = "") -> None:
    """Print one line, from the first process only: two processes would say everything twice."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
