"""A callback of the user's that needs a secret, and one that fails with it: named by the tests'
configs.
"""

import lightning.pytorch as pl

USED: list[str] = []


class Notify(pl.Callback):
    def __init__(self, *, token: str, fail: bool = False) -> None:
        if fail:
            raise ValueError(f"token ({token}) is not accepted")
        USED.append(token)
