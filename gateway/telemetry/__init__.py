"""What Sluice shows of itself: metrics and log events. Never prompts, completions or secrets."""
