"""What a run tells the person at the terminal."""

import os


def say(text: str = "", end: str = "\n") -> None:
    """Print one line, from the first process only: two processes would say everything twice."""
    if os.environ.get("RANK", "0") == "0":
        print(text, end=end, flush=True)
