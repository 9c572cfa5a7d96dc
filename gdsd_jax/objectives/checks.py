"""Refusals of impossible settings, by name."""


def check_choices(config, **choices: tuple) -> None:
    """ValueError naming the first field whose value is not among those allowed."""
    for key, allowed in choices.items():
        if getattr(config, key) not in allowed:
            raise ValueError(f"{key}={getattr(config, key)!r}: choose one of {allowed}")


def check_clip(config) -> None:
    """ValueError unless 0 <= epsilon_low <= 1, 0 <= epsilon_high and 0 <= beta."""
    if not 0 <= config.epsilon_low <= 1 or config.epsilon_high < 0:
        raise ValueError(
            f"epsilon_low={config.epsilon_low}, epsilon_high={config.epsilon_high}: ratios are kept within "
            "1 - epsilon_low .. 1 + epsilon_high, give 0 <= epsilon_low <= 1 and epsilon_high >= 0"
        )
    if config.beta < 0:
        raise ValueError(f"beta={config.beta} must not be negative")


def check_probability(config, key: str) -> None:
    """ValueError unless the field is a probability."""
    if not 0 <= getattr(config, key) <= 1:
        raise ValueError(f"{key}={getattr(config, key)} is no probability")
