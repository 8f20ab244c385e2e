"""One mail to a relay: written, signed, handed over."""
