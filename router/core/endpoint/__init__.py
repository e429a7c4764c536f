"""One endpoint: what is known of it, and whether it may be asked. Chooses nothing."""
