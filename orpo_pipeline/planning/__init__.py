"""Every hardware-dependent choice with its reason."""
