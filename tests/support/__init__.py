"""What several test layers share: processes, scripts, leaks, waiting."""
