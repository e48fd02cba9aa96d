"""Decision ids: what a person takes to the service desk. Time first, so that a spool can be searched by day.

26 characters of Crockford's base 32 (no I, L, O, U): 48 bits of milliseconds, 80 random bits (the ULID layout).
"""

import secrets

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_LENGTH = 26
_RANDOM_BITS = 80


def new_decision_id(time_ms: int) -> str:
    """A new id for a decision taken at `time_ms`."""
    value = (time_ms << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def time_of(decision_id: str) -> int:
    """Milliseconds since the epoch in a decision id. Raises ValueError on what cannot be one."""
    text = decision_id.strip().upper().replace("O", "0").replace("I", "1").replace("L", "1")
    if len(text) != _LENGTH or any(letter not in _ALPHABET for letter in text):
        raise ValueError(f"a decision id has {_LENGTH} letters and digits, as printed with the answer")
    value = 0
    for letter in text:
        value = value * 32 + _ALPHABET.index(letter)
    return value >> _RANDOM_BITS


def canonical(decision_id: str) -> str:
    """The id as issued, whatever case or look-alike letters it was typed with. Raises ValueError as `time_of`."""
    time_of(decision_id)
    return decision_id.strip().upper().replace("O", "0").replace("I", "1").replace("L", "1")
