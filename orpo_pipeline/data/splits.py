"""Which prompts are held out: decided by content, so that it never changes when data grows."""

import hashlib

SALT = "orpo-pipeline split v1"


def is_held_out(prompt_id: str, fraction: float) -> bool:
    """Whether a prompt belongs to the evaluation split.

    A salted hash of the prompt, read as a number in [0, 1), is compared with `fraction`: equal
    prompts land on the same side whatever else the data holds, in expectation `fraction` of them
    in evaluation.
    """
    digest = hashlib.sha256(f"{SALT}\n{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
