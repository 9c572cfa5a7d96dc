"""The experiments: a file each says what differs from the defaults."""
