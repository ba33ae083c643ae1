"""What datasets refuse of settings that they share. Imports no torch."""


def check_user(user: str) -> None:
    """Refuse a user turn without a place for the question, or with two.

    Raises:
        ValueError: naming the setting.
    """
    if user.count("{question}") != 1:
        raise ValueError(f"dataset.user={user!r} must hold {{question}} once, where the question goes")


def check_validation_fraction(fraction: float) -> None:
    """Refuse a share of held-out rows that leaves none for training, or is no share.

    Raises:
        ValueError: naming the setting.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"dataset.validation_fraction={fraction} must lie in [0, 1), e.g. 0.1")
