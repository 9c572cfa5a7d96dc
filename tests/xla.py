"""The flags under which tests, and the programs they start, compile for the CPU."""


def flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many fake devices."""
    return f"--xla_force_host_platform_device_count={devices}"
