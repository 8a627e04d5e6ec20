"""The process that runs: its devices and threads, memory, progress, interruptions and caches."""
