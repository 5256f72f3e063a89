"""Bytes that were a good message once."""

import random


def mutated(good: bytes, dice: random.Random) -> bytes:
    """Bytes altered, put in, left out, said twice or of another message altogether."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(200))
    said = bytearray(good)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(said) + 1)
        match dice.randrange(5):
            case 0:
                said[at : at + 1] = dice.randbytes(1)
            case 1:
                said[at:at] = dice.randbytes(dice.randrange(1, 20))
            case 2:
                del said[at : at + dice.randrange(1, 20)]
            case 3:
                said[at:at] = said[at : at + dice.randrange(1, 200)] * dice.choice([1, 1, 100])
            case _:
                # A field of a number, a length or a group that may be there, with a value of any size.
                said[at:at] = (
                    bytes((dice.randrange(8, 128),)) + b"\xff" * dice.randrange(10) + bytes((dice.randrange(128),))
                )
    return bytes(said)
