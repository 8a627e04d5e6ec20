"""The running process: its devices and threads, memory, progress, interruptions and caches."""
