"""The pure side: it decides, with time and chance as arguments. No event loop, no clock, no I/O, no logging."""
